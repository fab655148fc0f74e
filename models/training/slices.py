"""What slices of a clinical thickness do to a labelled case, and to what a network finds in it.

    python slices.py WEIGHTS --data DATA --threshold T --min-ml V [--slices-mm 3] [--gains 1 0.75]
        [--unit blocks]

For each case that the checkpoint never saw: how bright its lesions are in each contrast and how far
apart the quartiles of the brain, taken of single voxels and of means over blocks of 3 mm; then the
same of slices that are the mean of `--slices-mm` thin ones, and what the network finds in both, its
input multiplied by each gain; with `--unit blocks`, median and quartiles are those of the blocks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from arrays import Array
from cases import Case, read_cases
from checkpoints import averaged_network
from contrasts import CONTRASTS
from evaluate import TRUTH_MIN_ML, was_seen
from measures import Rule, agreement, without_small
from normalise import CLIP, MISSING, OUTSIDE, within_brain
from predict import lesion_probability, with_files_read

BLOCK = 3
"""Voxels of a block's edge."""


def in_slices(contrast: Array, brain: Array, slices_mm: int) -> Array:
    """Means of so many (an odd number of) axial slices of 1 mm within the brain, interpolated back."""
    filled = np.where(brain, contrast, 0.0)
    weight = ndimage.uniform_filter1d(brain.astype(np.float32), slices_mm, axis=0)
    mean = ndimage.uniform_filter1d(filled, slices_mm, axis=0) / np.maximum(weight, 1e-3)
    kept = mean[slices_mm // 2::slices_mm]
    place = (np.arange(len(contrast)) - slices_mm // 2) / slices_mm
    low = np.clip(np.floor(place).astype(int), 0, len(kept) - 2)
    share = np.clip(place - low, 0, 1)[:, None, None]
    return (kept[low] * (1 - share) + kept[low + 1] * share).astype(np.float32)


def spread(contrast: Array, brain: Array, edge: int) -> tuple[float, float]:
    """Median, and quartiles' distance / 1.349, of the means of blocks that lie within the brain."""
    shape = [n // edge * edge for n in brain.shape]
    box = tuple(slice(0, n) for n in shape)
    cells = (shape[0] // edge, edge, shape[1] // edge, edge, shape[2] // edge, edge)
    whole = brain[box].reshape(cells).all((1, 3, 5))
    means = contrast[box].reshape(cells).mean((1, 3, 5))[whole]
    low, middle, high = np.percentile(means, (25, 50, 75))
    return float(middle), float(high - low) / 1.349


def thick(case: Case, slices_mm: int) -> Case:
    """The case in thick slices, normalised anew."""
    image = case.image.copy()
    for n, contrast in enumerate(case.image):
        if contrast.any():
            image[n] = within_brain(in_slices(contrast, case.brain, slices_mm), case.brain)
            image[n][~case.brain] = OUTSIDE
    return Case(case.name, image, case.truth, case.brain)


def table_of_spreads(case: Case, slices_mm: int) -> None:
    for name, contrast in zip(CONTRASTS, case.image, strict=True):
        if not contrast.any():
            continue
        cells = [case.name, name]
        cut = in_slices(contrast, case.brain, slices_mm)
        for edge in (1, BLOCK):
            (middle, unit), (cut_middle, cut_unit) = (
                spread(image, case.brain, edge) for image in (contrast, cut))
            bright = (contrast[case.truth].mean() - middle) / unit
            still = (cut[case.truth].mean() - cut_middle) / cut_unit
            cells += [f"{cut_unit / unit:.2f}", f"{bright:.2f}", f"{still:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def by_blocks(case: Case) -> Case:
    """The case in units without single voxels' noise; `multiplied` clips it."""
    image = case.image.copy()
    for n, contrast in enumerate(case.image):
        if contrast.any():
            middle, unit = spread(contrast, case.brain, BLOCK)
            image[n] = (contrast - middle) / unit
    return Case(case.name, image, case.truth, case.brain)


def multiplied(case: Case, gain: float) -> Array:
    image = np.clip(case.image * np.float32(gain), *CLIP)
    for n, contrast in enumerate(case.image):
        image[n] = np.where(case.brain, image[n], OUTSIDE) if contrast.any() else MISSING
    return image


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("weights", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--slices-mm", type=int, default=3)
    options.add_argument("--gains", type=float, nargs="+", default=[1.0, 0.75])
    options.add_argument("--unit", choices=("voxels", "blocks"), default="voxels")
    Rule.add_options(options)
    given = options.parse_args(list(with_files_read(sys.argv[1:])))
    rule = Rule.given(given)
    if given.slices_mm % 2 == 0:
        options.error("--slices-mm must be odd: a slice has a middle one")
    net, recipe = averaged_network(given.weights)[:2]
    net.eval()
    cases = [c for c in read_cases(given.data / "labelled") if not was_seen(c.name, recipe)]
    print("| case | contrast | spread of thick for thin slices | lesions, thin | thick "
          f"| the same by blocks of {BLOCK} | thin | thick |\n" + "| --- " * 8 + "|")
    for case in cases:
        table_of_spreads(case, given.slices_mm)
    print("\n| case | slices mm | gain | DSC | lesion TPR | lesion FDR | found ml |\n"
          + "| --- " * 7 + "|")
    for case in cases:
        truth = without_small(case.truth, TRUTH_MIN_ML)
        for millimetres, seen in ((1, case), (given.slices_mm, thick(case, given.slices_mm))):
            unit = by_blocks(seen) if given.unit == "blocks" else seen
            for gain in given.gains:
                found = rule.mask(lesion_probability(net, multiplied(unit, gain), seen.brain))
                figures = agreement(found, truth)
                print(f"| {case.name} | {millimetres} | {gain:g} | {figures.dsc:.3f} "
                      f"| {figures.lesion_tpr:.2f} | {figures.lesion_fdr:.2f} "
                      f"| {figures.found_ml:.1f} |", flush=True)


if __name__ == "__main__":
    main()
