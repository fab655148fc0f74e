"""Pictures to look at: synthetic heads beside real ones, what a network found, a training curve.

    python pictures.py samples POOL --data DATA [--recipe RECIPE] --out docs/samples.png
    python pictures.py found WEIGHTS [WEIGHTS ...] --data DATA --threshold T --min-ml V
        [--flips --temperature K --shift S] --out docs/found.png
    python pictures.py anatomy WEIGHTS --data DATA --out docs/anatomy.png
    python pictures.py curve RUN/history.jsonl --out docs/curve.png
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from arrays import Array, Rng
from cases import Case, read_cases
from checkpoints import averaged_network
from contrasts import CONTRASTS
from evaluate import never_seen, pool_samples
from measures import Rule
from mottle import as_real
from normalise import OUTSIDE
from predict import Asking, anatomy_of, lesion_probability, with_files_read
from randomised import CLASSES
from recipe import LESION_BIT, Recipe, read_recipe

mpl.use("Agg")


def samples(pool: Path, data: Path, recipe: Recipe | None, out: Path, rows: int = 4) -> None:
    """Four synthetic heads on the left, as a training by the recipe sees them or as they were painted,
    the real cases on the right, lesions outlined."""
    _, axes = plt.subplots(rows, 8, figsize=(16, 2.35 * rows))
    synthetic = pool_samples(pool)
    heads = [next(synthetic)[:2] for _ in range(3 * rows)]
    heads = sorted(heads, key=lambda pair: -int((pair[1] >> LESION_BIT).sum()))[::3][:rows]
    rng = np.random.default_rng(0)
    loaded = [(_as_seen(image, label, recipe, rng) if recipe else image, (label >> LESION_BIT) > 0)
              for image, label in heads]
    real = [(case.image, case.truth) for case in read_cases(data / "labelled")][:rows]
    for row, pair in enumerate(zip(loaded, real, strict=True)):
        for side, (image, lesion) in enumerate(pair):
            k = int(lesion.sum((1, 2)).argmax()) if lesion.any() else len(lesion) // 2
            for n, contrast in enumerate(CONTRASTS):
                _slice(axes[row, 4 * side + n + (n > 0)], image[n, k],
                       f"{'synthetic' if side == 0 else 'real'} {contrast}")
            _slice(axes[row, 4 * side + 1], image[0, k], "lesions")
            _outline(axes[row, 4 * side + 1], lesion[k], "red")
    _write(out)


def _as_seen(image: Array, label: Array, recipe: Recipe, rng: Rng) -> Array:
    """A whole head with the texture that the recipe gives to patches; none is left as painted."""
    textured = as_real(image.copy(), label, replace(recipe.patches, clean=0.0), rng)
    return np.where(image <= OUTSIDE, image, textured)


def found(weights: list[Path], data: Path, rule: Rule, asking: Asking, out: Path) -> None:
    """Each real case that a training never saw, where most is true, most invented and most missed."""
    shown = [(case, rule.mask(lesion_probability(net, case.image, case.brain, asking)))
             for net, case in never_seen(weights, data)]
    _, axes = plt.subplots(len(shown), 6, figsize=(13, 2.6 * len(shown)), squeeze=False)
    for row, (case, mask) in zip(axes, shown, strict=True):
        for n, (title, k) in enumerate(_telling_slices(case, mask)):
            _slice(row[2 * n], case.image[0, k], f"{case.name}: {title}")
            _slice(row[2 * n + 1], case.image[0, k], "true green, found red")
            _outline(row[2 * n + 1], case.truth[k], "lime")
            _outline(row[2 * n + 1], mask[k], "red")
    _write(out)


def anatomy(weights: Path, data: Path, out: Path) -> None:
    """Classes and brain mask of native and stripped scans, an axial slice of each at two heights."""
    net, _ = averaged_network(weights)
    raw, labelled = data / "raw", data / "labelled"
    paths = [*sorted(raw.glob("*/study*.nii.gz"))[::2], *sorted(labelled.glob("*/flair.nii.gz"))[:2]]
    _, axes = plt.subplots(len(paths), 4, figsize=(9, 2.3 * len(paths)))
    for row, path in zip(axes, paths, strict=True):
        scan = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
        seen = anatomy_of(net, scan)
        image, classes, brain = (np.asarray(x).transpose(2, 1, 0)
                                 for x in (scan.dataobj, seen.classes, seen.brain))
        inside = np.flatnonzero(brain.any((1, 2)))
        for n, share in enumerate((0.35, 0.65)):
            k = int(inside[int(share * len(inside))]) if len(inside) else len(image) // 2
            high = float(np.percentile(image[k], 99.5))
            _slice(row[2 * n], image[k], f"{path.parent.name} {path.name.split('.')[0]}", (0, high))
            _outline(row[2 * n], brain[k], "red")
            row[2 * n + 1].imshow(classes[k], cmap="tab10", vmin=0, vmax=len(CLASSES) - 1,
                                  origin="lower", interpolation="nearest")
            row[2 * n + 1].axis("off")
    _write(out)


def curve(history: Path, out: Path) -> None:
    """The loss over 50 steps each, the rate, and every score that was taken."""
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    _, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    steps = [row for row in rows if "loss" in row]
    left.plot([row["step"] for row in steps], [row["loss"] for row in steps])
    left.set(xlabel="step", ylabel="loss")
    names = sorted({name for row in rows if "loss" not in row for name in row} - {"step"})
    for name in names:
        scored = [row for row in rows if name in row]
        right.plot([row["step"] for row in scored], [row[name] for row in scored], label=name)
    if names:
        right.legend(fontsize=6)
        right.set(xlabel="step", ylabel="DSC on heads kept out")
    else:
        right.plot([row["step"] for row in steps], [row["rate"] for row in steps])
        right.set(xlabel="step", ylabel="rate")
    _write(out)


def _telling_slices(case: Case, mask: Array) -> list[tuple[str, int]]:
    layers = {"most lesion": case.truth, "most invented": mask & ~case.truth,
              "most missed": case.truth & ~mask}
    return [(title, int(layer.sum((1, 2)).argmax())) for title, layer in layers.items()]


def _slice(ax: Axes, image: Array, title: str, span: tuple[float, float] = (-3.5, 4.5)) -> None:
    ax.imshow(image.astype(np.float32), cmap="gray", origin="lower", vmin=span[0], vmax=span[1])
    ax.set_title(title, fontsize=7)
    ax.axis("off")


def _outline(ax: Axes, mask: Array, colour: str) -> None:
    if mask.any():
        ax.contour(mask, [0.5], colors=colour, linewidths=0.6)


def _write(out: Path) -> None:
    plt.tight_layout(pad=0.3)
    plt.savefig(out, dpi=52)
    plt.close()
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("what", choices=("samples", "found", "anatomy", "curve"))
    options.add_argument("source", type=Path, nargs="+", help="a pool, weights or a history")
    options.add_argument("--data", type=Path)
    options.add_argument("--recipe", type=Path, help="samples: whose texture the heads get")
    Rule.add_options(options)
    Asking.add_options(options)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args(list(with_files_read(sys.argv[1:])))
    torch.set_num_threads(1)
    source, *more = given.source
    if more and given.what != "found":
        options.error(f"{given.what} takes one")
    if given.what == "curve":
        curve(source, given.out)
        return
    if given.data is None:
        options.error(f"{given.what} needs --data")
    match given.what:
        case "samples":
            recipe = read_recipe(given.recipe) if given.recipe else None
            samples(source, given.data, recipe, given.out)
        case "found":
            found(given.source, given.data, Rule.given(given), Asking.given(given), given.out)
        case "anatomy":
            anatomy(source, given.data, given.out)


if __name__ == "__main__":
    main()
