"""Agreement of a mask with the truth; definitions as in Dawson's own evaluation.

Lesions are 26-connected components. All masks are bool `(k, j, i)` on a grid of 1 mm.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from arrays import Array
from lesions import CONNECTED

SIZES_ML = (0.0, 0.01, 0.03, 0.1, 1.0, 1000.0)
"""Borders of the lesion sizes that are told apart."""


@dataclass(frozen=True)
class Agreement:
    """What one mask says about one truth; NaN where a figure has no meaning."""

    true_ml: float
    found_ml: float
    dsc: float
    ppv: float
    tpr: float
    lesion_tpr: float
    lesion_fdr: float
    n_true: int
    n_found: int
    touched: tuple[tuple[int, int], ...]
    """(touched, all) true lesions of each size of `SIZES_ML`."""

    @property
    def volume_error(self) -> float:
        """|found - true| / true."""
        return abs(self.found_ml - self.true_ml) / self.true_ml if self.true_ml else np.nan


@dataclass(frozen=True)
class Rule:
    """How a probability becomes a mask."""

    threshold: float
    min_ml: float

    @staticmethod
    def add_options(options: argparse.ArgumentParser) -> None:
        options.add_argument("--threshold", type=float, default=0.5)
        options.add_argument("--min-ml", type=float, default=0.003)

    @staticmethod
    def given(options: argparse.Namespace) -> Rule:
        return Rule(options.threshold, options.min_ml)

    def as_options(self) -> list[str]:
        """What `given` would have read."""
        return [f"--threshold={self.threshold:g}", f"--min-ml={self.min_ml:g}"]

    def __str__(self) -> str:
        return f"threshold {self.threshold:g}, minimum {self.min_ml:g} ml"

    def mask(self, probability: Array) -> Array:
        return without_small(probability >= self.threshold, self.min_ml)


def agreement(found: Array, truth: Array) -> Agreement:
    both = int((found & truth).sum())
    n_found_voxels, n_true_voxels = int(found.sum()), int(truth.sum())
    true_parts, n_true = ndimage.label(truth, CONNECTED)
    found_parts, n_found = ndimage.label(found, CONNECTED)
    sizes_ml = np.bincount(true_parts.ravel(), minlength=n_true + 1)[1:] / 1000
    hit = np.isin(np.arange(1, n_true + 1), true_parts[found & truth])
    right = len(np.unique(found_parts[found & truth]))
    touched = []
    for low, high in pairwise(SIZES_ML):
        within = (sizes_ml >= low) & (sizes_ml < high)
        touched.append((int((hit & within).sum()), int(within.sum())))
    return Agreement(
        true_ml=n_true_voxels / 1000, found_ml=n_found_voxels / 1000,
        dsc=_share(2 * both, n_found_voxels + n_true_voxels),
        ppv=_share(both, n_found_voxels), tpr=_share(both, n_true_voxels),
        lesion_tpr=_share(int(hit.sum()), n_true),
        lesion_fdr=_share(n_found - right, n_found), n_true=n_true, n_found=n_found,
        touched=tuple(touched))


def without_small(mask: Array, min_ml: float) -> Array:
    """Drops every lesion smaller than `min_ml`."""
    parts, n_parts = ndimage.label(mask, CONNECTED)
    kept = np.bincount(parts.ravel(), minlength=n_parts + 1) >= min_ml * 1000
    kept[0] = False
    return kept[parts]


def average_precision(probability: Array, truth: Array, brain: Array) -> float:
    """Area under the precision-recall curve over the voxels of the brain, trapezoid rule."""
    p, t = probability[brain], truth[brain]
    if not t.any():
        return np.nan
    hits = np.cumsum(t[np.argsort(-p, kind="stable")])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / hits[-1]
    return float(np.trapezoid(precision, recall))


def dice(one: Array, other: Array) -> float:
    return _share(2 * int((one & other).sum()), int(one.sum()) + int(other.sum()))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
