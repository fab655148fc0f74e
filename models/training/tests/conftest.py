"""A head of three ellipsoids and a recipe of a few steps: all that the tests need, no data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from arrays import Array, Rng
from heads import CLASS, Head
from recipe import Recipe, read_recipe

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
    """Scalp, bone, fluid, cortex, white matter and two ventricles, 96 voxels a side."""
    tissue = np.zeros((96, 96, 96), np.uint8)
    for radius, name in ((46, "skin"), (43, "bone"), (40, "csf"), (37, "cortex"), (33, "white")):
        tissue[_ball(radius, 0.0)] = CLASS[name]
    for side in (-9.0, 9.0):
        tissue[_ball(7, side)] = CLASS["lateral_ventricle"]
    tissue[62:66, 40:44, 40:44] = CLASS["lesion"]
    return Head("balls", tissue, np.eye(3)[:, ::-1].copy(), np.full(3, -48.0))


def _ball(radius: float, shift_i: float) -> Array:
    k, j, i = np.meshgrid(*[np.arange(96) - 47.5] * 3, indexing="ij")
    return k**2 + j**2 + (i - shift_i) ** 2 < radius**2


def shorter(recipe: Recipe, steps: int) -> Recipe:
    return replace(recipe, training=replace(recipe.training, steps=steps))
