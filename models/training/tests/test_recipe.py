"""Recipes are read whole or refused with the place and the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from checkpoints import recipe_as_text, recipe_of
from network import ANATOMY, LESION, PAPER
from recipe import Recipe, RecipeError, read_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.toml"))
RAN = sorted((Path(__file__).parent.parent / "recipes").glob("*/*.toml"))
"""Those that truly ran, shorter than the others."""


@pytest.mark.parametrize("path", RECIPES + RAN, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_is_read(path: Path) -> None:
    assert read_recipe(path).training.steps > 0


def test_the_recipes_have_the_sizes_that_the_code_names() -> None:
    by_name = {path.stem: read_recipe(path) for path in RECIPES}
    assert by_name["lesion"].network == LESION
    assert by_name["anatomy"].network == ANATOMY
    assert by_name["paper"].network == PAPER


@pytest.mark.parametrize(("before", "after", "reason"), [
    ("growth = 4", "growht = 4", "unknown key 'growht'"),
    ("growth = 4", 'growth = "4"', "'4' is no int"),
    ("growth = 4", "growth = true", "True is no int"),
    ("seed = 5\nbf16", "bf16", "'seed' is missing"),
    ('kind = "asymmetric"', 'kind = "asymetric"', "is none of"),
    ("size = [32, 32, 32]", "size = [32, 32]", "2 entries, must be 3"),
    ("size = [32, 32, 32]", "size = [32, 36, 32]", "36 is no multiple of 8"),
    ("drop = [0.0, 0.25, 0.25]", "drop = [0.0]", "drop has 1 entries for 3 contrasts"),
    ("[pool]", "[pool]\ndura = 20.0", "dura is 20, a share must be 0 to 1"),
])
def test_what_no_field_understands_is_refused(
    tmp_path: Path, before: str, after: str, reason: str
) -> None:
    text = next(path for path in RECIPES if path.stem == "smoke").read_text()
    assert before in text
    changed = tmp_path / "changed.toml"
    changed.write_text(text.replace(before, after))
    with pytest.raises(RecipeError, match=reason):
        read_recipe(changed)


def test_a_checkpoint_gives_its_recipe_back(smoke: Recipe) -> None:
    recipe = replace(smoke, name="another")
    assert recipe_of({"recipe": recipe_as_text(recipe)}) == recipe
