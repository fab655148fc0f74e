"""Texture, spots, uneven cortex and fluid: where they may be, how strong, one for each seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from arrays import Array
from graded import textured
from mottle import as_real, faded, mottle, uneven
from normalise import CLIP, OUTSIDE
from recipe import LESION_BIT, UNKNOWN, Patches

TEXTURE, SPOTS = (0.4, -0.3, 0.4), (0.9, -0.4, 0.8)
BACKGROUND, WHITE, CORTEX, FLUID, DEEP = range(5)
BRIGHT_CORTEX, BRIGHT_FLUID, DARK = (0.0, 0.0, 2.0), (0.0, 0.0, 5.0), (1.0, 1.0, 2.5)
PLAN = Patches((32, 32, 32), fade=(0.5, 0.4, 0.5), mottle=TEXTURE, spots=SPOTS, cortex=BRIGHT_CORTEX,
               fluid=BRIGHT_FLUID, dark=DARK)


def gained(label: Array, texture: tuple[float, ...] = TEXTURE, spots: tuple[float, ...] = SPOTS,
           seed: int = 0) -> Array:
    return mottle(label, texture, spots, np.random.default_rng(seed))


def full_of(value: int) -> Array:
    return np.full((32, 32, 32), value, np.uint8)


@pytest.mark.parametrize("label", [0, FLUID, UNKNOWN])
def test_only_the_tissue_of_label_maps_gains_anything(label: int) -> None:
    assert not gained(full_of(label)).any()


def test_contrasts_share_texture_and_t1w_has_it_the_other_way_round() -> None:
    flair, t1w, t2w = np.concatenate(
        [gained(full_of(WHITE), spots=(), seed=seed).reshape(3, -1) for seed in range(20)], 1)
    assert 0.1 < flair.std() < 0.4
    assert np.corrcoef(flair, t2w)[0, 1] > 0.2
    assert np.corrcoef(flair, t1w)[0, 1] < -0.2


def test_spots_are_bounded_and_keep_away_from_lesions() -> None:
    label = full_of(WHITE)
    label[8:24, 8:24, 8:24] |= 1 << LESION_BIT
    brightest = 0.0
    for seed in range(20):
        flair = gained(label, texture=(), seed=seed)[0]
        assert flair.min() >= 0
        assert flair.max() <= SPOTS[0]
        assert not flair[10:22, 10:22, 10:22].any()
        brightest = max(brightest, float(flair.max()))
    assert brightest > 0.3


def test_a_share_of_painted_patches_stays_as_painted_and_real_ones_do_not() -> None:
    plan = replace(PLAN, clean=0.4)
    image = np.zeros((3, 32, 32, 32), np.float32)
    kept = [(as_real(image, full_of(WHITE), plan, np.random.default_rng(seed)) == image).all()
            for seed in range(100)]
    assert 25 <= sum(kept) <= 55
    real = full_of(UNKNOWN)
    real[8:24, 8:24, 8:24] |= 1 << LESION_BIT
    faint = np.where(real >> LESION_BIT, 3.0, 0.0)[None].repeat(3, 0).astype(np.float32)
    changed = [(as_real(faint, real, plan, np.random.default_rng(seed)) != faint).any()
               for seed in range(100)]
    assert sum(changed) > 60
    head = textured(np.zeros((3, 32, 32, 32), np.float16), full_of(WHITE), replace(plan, clean=1.0),
                    np.random.default_rng(0))
    assert head.any()


def test_only_the_contrasts_that_are_shown_are_painted() -> None:
    label = full_of(CORTEX)
    label[8:24, 8:24, 8:24] = WHITE | 1 << LESION_BIT
    image = np.where(label >> LESION_BIT, 2.0, 0.5)[None].repeat(3, 0).astype(np.float32)
    plan = replace(PLAN, fade=(1.0, 1.0, 1.0)).painting([0, 2])
    changed = [(as_real(image, label, plan, np.random.default_rng(seed)) != image).any((1, 2, 3))
               for seed in range(10)]
    assert np.any(changed, 0).tolist() == [True, False, True]


def test_a_seed_makes_one_texture() -> None:
    one, same, other = (gained(full_of(WHITE), seed=seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_a_faded_lesion_keeps_its_side_of_what_is_normal_and_nothing_else_changes() -> None:
    label = full_of(WHITE)
    label[8:24, 8:24, 8:24] |= 1 << LESION_BIT
    lesion = label >> LESION_BIT > 0
    patch = np.stack([np.where(lesion, sick, 0.5) for sick in (3.0, -1.0, 2.0)]).astype(np.float32)
    changed = np.zeros(3)
    for seed in range(10):
        after = faded(patch, label, (0.5, 0.5, 0.5), np.random.default_rng(seed))
        assert (after[:, ~lesion] == 0.5).all()
        flair, t1w, t2w = after[:, lesion]
        assert (flair >= 1.2).all()
        assert (t1w <= 0.5).all()
        assert (t2w >= 0.5).all()
        changed += (after != patch).any((1, 2, 3))
    assert ((changed > 0) & (changed < 10)).all()


@pytest.mark.parametrize(("label", "most", "least"), [
    (BACKGROUND, 0, -2.5), (CORTEX, 2.0, -2.5), (FLUID, 5.0, -2.5), (WHITE, 0, 0), (DEEP, 0, 0),
    (UNKNOWN, 0, 0)])
def test_cortex_and_fluid_reach_higher_in_t2w_and_lower_with_what_lies_beyond(
    label: int, most: float, least: float
) -> None:
    gains = np.stack([uneven(full_of(label), BRIGHT_CORTEX, BRIGHT_FLUID, DARK,
                             np.random.default_rng(seed)) for seed in range(20)])
    for contrast, darkest in ((0, -1.0), (1, -1.0), (2, -2.5)):
        assert gains[:, contrast].min() >= max(least, darkest)
        assert gains[:, contrast].max() <= (most if contrast == 2 else 0)
    assert gains.max() >= 0.5 * most
    assert gains.min() <= 0.5 * least


def test_what_is_uneven_leaves_lesions_alone() -> None:
    label = full_of(FLUID)
    label[8:24, 8:24, 8:24] |= 1 << LESION_BIT
    gained = uneven(label, BRIGHT_CORTEX, BRIGHT_FLUID, DARK, np.random.default_rng(0))
    assert gained.any()
    assert not gained[:, 10:22, 10:22, 10:22].any()


def test_real_lesions_fade_towards_the_tissue_around_them() -> None:
    label = full_of(UNKNOWN)
    label[8:24, 8:24, 8:24] |= 1 << LESION_BIT
    lesion = label >> LESION_BIT > 0
    patch = np.stack([np.where(lesion, sick, 0.5) for sick in (3.0, -1.0, 2.0)]).astype(np.float32)
    after = faded(patch, label, (0.0, 0.0, 1.0), np.random.default_rng(0))
    assert (after[:2] == patch[:2]).all()
    assert (after[2][~lesion] == 0.5).all()
    assert 0.5 <= after[2][lesion].mean() < 2.0


def test_a_head_to_be_judged_on_has_texture_within_the_brain_alone() -> None:
    label = full_of(WHITE)
    label[:4] = BACKGROUND
    image = np.zeros((3, 32, 32, 32), np.float16)
    image[:, :4] = OUTSIDE
    changed = textured(image, label, PLAN, np.random.default_rng(0))
    assert (changed[:, :4] == OUTSIDE).all()
    assert (changed[:, 4:].std((1, 2, 3)) > 0.01).all()
    assert CLIP[0] <= changed.min() <= changed.max() <= CLIP[1]


def test_a_recipe_without_texture_changes_nothing() -> None:
    image = np.ones((3, 32, 32, 32), np.float32)
    assert as_real(image, full_of(CORTEX), Patches((32, 32, 32)), np.random.default_rng(0)) is image
