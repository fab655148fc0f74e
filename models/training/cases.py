"""Real skull-stripped scans with known lesions, normalised as the network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from arrays import Array
from contrasts import CONTRASTS
from heads import read_ras
from normalise import MISSING, OUTSIDE, within_brain


@dataclass(frozen=True)
class Case:
    """A scan with its truth, all `(k, j, i)` in RAS+ at 1 mm."""

    name: str
    image: Array
    """`(c, k, j, i)`, normalised."""
    truth: Array
    brain: Array

    def only(self, kept: tuple[str, ...]) -> Case:
        """The same case with every other contrast missing."""
        image = self.image.copy()
        for n, contrast in enumerate(CONTRASTS):
            if contrast not in kept:
                image[n] = MISSING
        return Case(self.name, image, self.truth, self.brain)


def read_case(folder: Path) -> Case:
    """A skull-stripped labelled case; the brain is where FLAIR is positive, holes filled."""
    flair, _ = read_ras(folder / "flair.nii.gz")
    brain = ndimage.binary_fill_holes(flair > 0)
    image = np.zeros((len(CONTRASTS), *flair.shape), np.float32)
    for n, contrast in enumerate(CONTRASTS):
        path = folder / f"{contrast}.nii.gz"
        if path.exists():
            samples = read_ras(path)[0].astype(np.float32)
            image[n] = within_brain(samples, brain & (samples > 0))
            image[n][~brain] = OUTSIDE
    truth, _ = read_ras(folder / "lesions.nii.gz")
    return Case(folder.name, image, truth > 0.5, brain)


def read_cases(folder: Path) -> list[Case]:
    return [read_case(path.parent) for path in sorted(folder.glob("*/lesions.nii.gz"))]
