"""Texture and spots: where they may be, how strong, and that one seed makes one of them."""

from __future__ import annotations

import numpy as np
import pytest

from arrays import Array
from mottle import faded, mottle
from recipe import LESION_BIT, UNKNOWN

TEXTURE, SPOTS = (0.4, -0.3, 0.4), (0.9, -0.4, 0.8)
WHITE, FLUID = 1, 3


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
