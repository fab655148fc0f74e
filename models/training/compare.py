"""The paper's comparisons in small, losses and votes, and how often a probability is right.

    python compare.py losses recipes/compare.toml --data DATA --pool POOL --run RUN
        [--start WEIGHTS] [--out PNG]
    python compare.py votings WEIGHTS [WEIGHTS ...] --data DATA --threshold T --min-ml V
    python compare.py calibration WEIGHTS [WEIGHTS ...] --data DATA --temperature K [--out PNG]

`losses` trains one network for each loss, from the same weights (random ones without `--start`) on the
same batches, and judges each on the real cases, which it never saw; a run that is there already is
judged as it is.
`votings` and `calibration` judge each checkpoint on the cases that its training never saw.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt

from arrays import Array, Shape
from cases import Case, read_cases
from checkpoints import averaged_network
from evaluate import was_seen
from losses import Term
from measures import Rule, agreement, average_precision, dice, without_small
from network import FCDenseNet
from predict import Exported, lesion_probability, logits_of
from recipe import Recipe, read_recipe
from train import Places, train

mpl.use("Agg")

LOSSES: dict[str, tuple[Term, ...]] = {
    "cross entropy": (Term("cross_entropy"),),
    "cross entropy, lesions x 20": (Term("cross_entropy", lesion_weight=20.0),),
    "focal, gamma 2": (Term("focal"),),
    "generalised Dice": (Term("generalised_dice"),),
    "Dice (F1)": (Term("asymmetric", beta=1.0, smooth=20.0),),
    "F1.5": (Term("asymmetric", beta=1.5, smooth=20.0),),
    "F2": (Term("asymmetric", beta=2.0, smooth=20.0),),
    "F3": (Term("asymmetric", beta=3.0, smooth=20.0),),
    "F1.5 + 2 cross entropy": (Term("asymmetric", beta=1.5, smooth=20.0),
                               Term("cross_entropy", weight=2.0)),
}
"""Dice is F1; Tversky's index with weights a and 1 - a is F with beta^2 = (1 - a) / a."""
PATCH = 64
OVERLAPS = (0.0, 0.5, 0.75)
LEAST_TRUTH_ML = 0.003
BINS = 10
THRESHOLDS = np.arange(1, 20) / 20


def losses(recipe: Recipe, data: Path, places: Places, rule: Rule, out: Path | None) -> None:
    """One row for each loss: means over the real cases with all their contrasts.

    The last column is what the probabilities could give at a threshold chosen on these very cases.
    """
    cases = [case for case in read_cases(data / "labelled") if not was_seen(case.name, recipe)]
    print(f"{recipe.training.steps} steps each; {_rule(rule)}; mean of n = {len(cases)} scans\n\n"
          "| loss | DSC | PPV | sensitivity | lesion TPR | lesion FDR | found / true ml | PR-AUC "
          "| most DSC, at threshold |\n" + "| --- " * 9 + "|")
    points = {}
    for name, terms in LOSSES.items():
        run = places.run / "".join(letter if letter.isalnum() else "-" for letter in name)
        if (run / "weights.pt").exists():
            net, _ = averaged_network(run / "weights.pt")
        else:
            net = train(dataclasses.replace(recipe, loss=terms), dataclasses.replace(places, run=run))
        said = [lesion_probability(net, case.image, case.brain) for case in cases]
        judged = [_judge(p, case, rule) for p, case in zip(said, cases, strict=True)]
        pairs = [(p, case.truth) for p, case in zip(said, cases, strict=True)]
        best = {float(t): np.mean([dice(p >= t, truth) for p, truth in pairs]) for t in THRESHOLDS}
        at = max(best, key=best.__getitem__)
        dsc, ppv, tpr, lesion_tpr, lesion_fdr, ratio, area = np.nanmean(judged, 0)
        points[name] = (tpr, ppv)
        print(f"| {name} | {dsc:.3f} | {ppv:.2f} | {tpr:.2f} | {lesion_tpr:.2f} | {lesion_fdr:.2f} "
              f"| {ratio:.2f} | {area:.3f} | {best[at]:.3f}, {at:.2f} |", flush=True)
    if out:
        _plot(points, out)


def calibration(weights: list[Path], data: Path, temperature: float, out: Path | None) -> None:
    """How often a voxel of a stated probability is lesion.

    The expected calibration error (Naeini et al., AAAI 2015) is of the voxels above 0.05: the brain is
    nearly all surely healthy, and would hide everything else.
    """
    said, true = [], []
    for path in weights:
        net, recipe = averaged_network(path)
        for case in read_cases(data / "labelled"):
            if not was_seen(case.name, recipe):
                p = lesion_probability(net, case.image, case.brain)[case.brain].astype(np.float64)
                said.append(1 / (1 + (1 / np.clip(p, 1e-6, 1 - 1e-6) - 1) ** (1 / temperature)))
                true.append(case.truth[case.brain])
    p, t = np.concatenate(said), np.concatenate(true)
    voxels, mean, share = _reliability(p, t)
    print(f"temperature {temperature:g}, n = {len(said)} scans\n\n"
          "| probability | voxels | mean probability | share that is lesion |\n" + "| --- " * 4 + "|")
    for n in range(BINS):
        low, high = n / BINS, (n + 1) / BINS
        print(f"| {low:.1f} to {high:.1f} | {voxels[n]} | {mean[n]:.3f} | {share[n]:.3f} |")
    voxels_above, mean_above, share_above = _reliability(p[p > 0.05], t[p > 0.05])
    apart = np.abs(mean_above - share_above)
    print(f"\nexpected calibration error above 0.05: {np.average(apart, weights=voxels_above):.3f}")
    if out:
        _, axes = plt.subplots(figsize=(4.5, 4.5))
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.plot(mean, share, "o-")
        axes.set(xlabel="probability", ylabel="share of voxels that is lesion")
        _write(out)


def _reliability(p: Array, t: Array) -> tuple[Array, Array, Array]:
    """Of each bin of probabilities: voxels, mean probability, share that is lesion."""
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    voxels = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, p, BINS), np.bincount(bins, t, BINS)
    mean, share = (total / np.maximum(voxels, 1) for total in sums)
    return voxels, mean, share


def _rule(rule: Rule) -> str:
    return f"threshold {rule.threshold}, minimum {rule.min_ml} ml"


def _judge(probability: Array, case: Case, rule: Rule) -> tuple[float, ...]:
    figures = agreement(rule.mask(probability), without_small(case.truth, LEAST_TRUTH_ML))
    area = average_precision(probability, case.truth, case.brain)
    return (figures.dsc, figures.ppv, figures.tpr, figures.lesion_tpr, figures.lesion_fdr,
            figures.found_ml / figures.true_ml, area)


def _plot(points: dict[str, tuple[float, float]], out: Path) -> None:
    _, axes = plt.subplots(figsize=(7, 5))
    for name, (sensitivity, precision) in points.items():
        axes.plot(sensitivity, precision, "o")
        axes.annotate(name, (sensitivity, precision), xytext=(5, 4), fontsize=8,
                      textcoords="offset points")
    axes.set(xlabel="sensitivity", ylabel="positive predictive value", title="losses at equal budget")
    axes.set(xlim=(-0.05, 1.4), ylim=(0, 1.1))
    _write(out)


def _write(out: Path) -> None:
    plt.tight_layout()
    plt.savefig(out, dpi=70)
    plt.close()


def votings(weights: list[Path], data: Path, rule: Rule) -> None:
    """Overlapping patches against one look, by overlap and weighting."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for path in weights:
        net, recipe = averaged_network(path)
        for case in read_cases(data / "labelled"):
            if was_seen(case.name, recipe):
                continue
            rows.setdefault("one look", []).append(
                _judge(lesion_probability(net, case.image, case.brain), case, rule))
            for overlap in OVERLAPS:
                for weighting, probability in voted(net, case, overlap).items():
                    judged = _judge(probability, case, rule)
                    rows.setdefault(f"{overlap:g}, {weighting}", []).append(judged)
    n = len(rows["one look"])
    print(f"patches of {PATCH}; {_rule(rule)}; mean of n = {n} scans\n\n"
          "| overlap, weighting | DSC | lesion TPR | lesion FDR | PR-AUC |\n" + "| --- " * 5 + "|")
    for name, several in rows.items():
        dsc, _, _, lesion_tpr, lesion_fdr, _, area = np.nanmean(several, 0)
        print(f"| {name} | {dsc:.3f} | {lesion_tpr:.2f} | {lesion_fdr:.2f} | {area:.3f} |")


def voted(net: FCDenseNet | Exported, case: Case, overlap: float) -> dict[str, Array]:
    """The probability that overlapping patches vote for, by weighting; 0 outside the brain."""
    windows = {name: _window(along) for name, along in _along_axis().items()}
    sums = {name: np.zeros(case.brain.shape) for name in windows}
    weights = {name: np.zeros(case.brain.shape) for name in windows}
    for box in _boxes(case.brain, overlap):
        cut = case.image[(slice(None), *box)]
        probability = torch.sigmoid(logits_of(net, cut, np.zeros(len(cut))))[0].numpy()
        for name, window in windows.items():
            sums[name][box] += window * probability
            weights[name][box] += window
    return {name: np.where(case.brain, sums[name] / np.maximum(weights[name], 1e-12), 0)
            for name in windows}


def _boxes(brain: Array, overlap: float) -> Iterator[tuple[slice, ...]]:
    """Patches that cover the brain's box evenly, those with any brain in them."""
    spans = [np.flatnonzero(brain.any(tuple(b for b in range(3) if b != a))) for a in range(3)]
    stride = round(PATCH * (1 - overlap))
    starts = []
    for span, edge in zip(spans, brain.shape, strict=True):
        first, last = int(span[0]), max(int(span[-1]) + 1 - PATCH, int(span[0]))
        gaps = max(-(-(last - first) // stride), 1)
        even = {first + (n * (last - first) + gaps // 2) // gaps for n in range(gaps + 1)}
        starts.append(sorted(min(start, edge - PATCH) for start in even))
    for start in product(*starts):
        box = tuple(slice(n, n + PATCH) for n in start)
        if brain[box].any():
            yield box


def _along_axis() -> dict[str, Array]:
    """Weights of a patch along one axis, as the service's `vote.rs` has them."""
    x = np.abs(2 * (np.arange(PATCH) + 0.5) / PATCH - 1)
    t = 1 - x
    return {"uniform": np.ones(PATCH), "Gaussian": np.exp(-0.5 * (4 * x) ** 2),
            "B-spline": np.where(t <= 0.5, 2 * t * t, 1 - 2 * (1 - t) ** 2)}


def _window(along: Array) -> Array:
    shapes: tuple[Shape, ...] = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))
    k, j, i = (along.reshape(shape) for shape in shapes)
    return k * j * i


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("what", choices=("losses", "votings", "calibration"))
    options.add_argument("sources", type=Path, nargs="+", help="a recipe, or weights")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--pool", type=Path)
    options.add_argument("--run", type=Path)
    options.add_argument("--start", type=Path, help="weights that every loss begins with")
    options.add_argument("--out", type=Path, help="a picture of what is printed")
    options.add_argument("--temperature", type=float, default=1.0)
    Rule.add_options(options)
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    rule = Rule.given(given)
    if given.what == "votings":
        votings(given.sources, given.data, rule)
        return
    if given.what == "calibration":
        calibration(given.sources, given.data, given.temperature, given.out)
        return
    if given.pool is None or given.run is None:
        options.error("losses needs --pool and --run")
    places = Places(given.pool, given.run, start=given.start)
    losses(read_recipe(given.sources[0]), given.data, places, rule, given.out)


if __name__ == "__main__":
    main()
