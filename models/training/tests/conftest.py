"""A head of three ellipsoids and a recipe of a few steps: all that the tests need, no data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arrays import Rng
from heads import Head
from recipe import Recipe, read_recipe
from smoke import ball_head

HERE = Path(__file__).parent.parent
DATA = Path(os.environ.get("DAWSON_DATA", HERE.parents[1] / ".." / "shared" / "data"))


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(0)


@pytest.fixture
def smoke() -> Recipe:
    return read_recipe(HERE / "recipes" / "smoke.toml")


@pytest.fixture
def data() -> Path:
    """The shared data, or a skipped test."""
    if not (DATA / "label-maps").is_dir():
        pytest.skip("the data folder is not here (set DAWSON_DATA)")
    return DATA


@pytest.fixture(scope="session")
def head() -> Head:
    return ball_head()


def shorter(recipe: Recipe, steps: int) -> Recipe:
    return replace(recipe, training=replace(recipe.training, steps=steps))
