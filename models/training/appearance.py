"""How lesions look in real cases and in a pool, in the units that the network sees: compare first.

    python appearance.py POOL --data DATA [--samples 20]

Per contrast: mean, 10 % and 90 % quantile of the lesions, and the median of the tissue beside them.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
from scipy import ndimage

from arrays import Array
from cases import read_cases
from contrasts import CONTRASTS
from evaluate import brain_of, pool_samples
from recipe import LESION_BIT

FEWEST = 200
"""Voxels of lesion below which a sample says too little."""


def appearance(image: Array, truth: Array, brain: Array) -> list[str]:
    """One cell per contrast of `(c, k, j, i)`."""
    beside = ndimage.binary_dilation(truth, iterations=6) & brain
    beside &= ~ndimage.binary_dilation(truth, iterations=3)
    cells = []
    for contrast in image:
        low, high = np.percentile(contrast[truth], (10, 90))
        cells.append(f"{contrast[truth].mean():.2f} ({low:.2f} to {high:.2f}), "
                     f"beside {np.median(contrast[beside]):.2f}" if contrast.any() else "")
    return cells


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("pool", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--samples", type=int, default=20)
    given = options.parse_args()
    print("| head | " + " | ".join(CONTRASTS) + " |\n" + "| --- " * 4 + "|")
    for case in read_cases(given.data / "labelled"):
        print(f"| {case.name} | " + " | ".join(appearance(case.image, case.truth, case.brain)) + " |")
    for n, (image, label, _) in enumerate(islice(pool_samples(given.pool), given.samples)):
        truth = (label >> LESION_BIT) > 0
        if truth.sum() >= FEWEST:
            cells = appearance(image, truth, brain_of(image, label))
            print(f"| synthetic {n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
