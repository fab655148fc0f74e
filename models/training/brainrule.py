"""How much outer fluid belongs to a brain mask, asked of label maps that never train.

    python brainrule.py recipes/anatomy.toml --data DATA --cache CACHE

For each distance: the DSC of cerebrum and fluid this near to it with the cerebrum closed by 5 mm, about
what tools for brain extraction draw. No scan has a say in it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage

from arrays import Array
from heads import CEREBRUM, CLASS, Head, brain_box
from measures import dice
from pool import Sources
from recipe import read_recipe

DISTANCES_MM = (0, 1, 2, 3, 4)
CLOSED_BY_MM = 5


def rule_scores(head: Head) -> list[float]:
    """The DSC at each of `DISTANCES_MM`; label maps have voxels of 1 mm."""
    low, high = brain_box(head, 12)
    tissue = head.tissue[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    cerebrum, fluid = np.isin(tissue, CEREBRUM), tissue == CLASS["csf"]
    away = ndimage.distance_transform_edt(~cerebrum)
    closed = ndimage.distance_transform_edt(away <= CLOSED_BY_MM) > CLOSED_BY_MM
    truth = ndimage.binary_fill_holes(closed | cerebrum)
    return [dice(_with_fluid(cerebrum, fluid & (away <= mm)), truth) for mm in DISTANCES_MM]


def _with_fluid(cerebrum: Array, fluid: Array) -> Array:
    filled: Array = ndimage.binary_fill_holes(cerebrum | fluid)
    return filled


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("recipe", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--cache", type=Path, required=True)
    given = options.parse_args()
    heads = Sources(given.data, given.cache, read_recipe(given.recipe)).kept_out()
    scores = np.array([rule_scores(head) for head in heads])
    print(f"n = {len(heads)} label maps")
    for mm, value in zip(DISTANCES_MM, scores.mean(0), strict=True):
        print(f"fluid within {mm} mm: DSC {value:.3f}")


if __name__ == "__main__":
    main()
