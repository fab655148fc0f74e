"""The paper's comparisons in small, losses, sizes and votes, and how often a probability is right.

    python compare.py losses recipes/compare.toml --data DATA --pool POOL --run RUN
        [--start WEIGHTS] [--out PNG]
    python compare.py sizes recipes/compare.toml --data DATA --pool POOL --run RUN
    python compare.py votings WEIGHTS [WEIGHTS ...] --data DATA --threshold T --min-ml V [--out PNG]
    python compare.py calibration WEIGHTS [WEIGHTS ...] --data DATA
        [--flips --temperature K --shift S] [--out PNG]
    python compare.py fit WEIGHTS [WEIGHTS ...] --data DATA [--flips] [--write FILE]

`losses` trains one network for each loss, from the same weights (random ones without `--start`) on the
same batches, and judges each on the real cases, which it never saw; a run that is there already is
judged as it is. `sizes` does so with one network for each size, all with one loss and from nothing.
`votings` and `calibration` judge each checkpoint on the cases that its training never saw. `fit` finds
the temperature and the shift of the logits that suit those cases best, each patient counting alike, and
says how those of the other patients suit each; FILE receives them as options, which `@FILE` stands for
in other commands.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy import optimize
from torch import Tensor

from arrays import Array, Shape
from cases import Case, read_cases
from checkpoints import averaged_network
from evaluate import never_seen, was_seen
from losses import Term
from measures import Rule, agreement, average_precision, dice, without_small
from network import COMPACT, LESION, PAPER, FCDenseNet, Sizes, gflop, n_parameters
from predict import (
    Asking,
    Exported,
    keep_options,
    lesion_logits,
    lesion_probability,
    looks_at,
    with_files_read,
)
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
SIZES: dict[str, Sizes] = {
    "growth 4, blocks of 2, 2, 2": replace(LESION, growth=4, layers=(2, 2, 2), first=4),
    "growth 8, blocks of 2, 2, 2": replace(LESION, growth=8, layers=(2, 2, 2), first=8),
    "growth 12, blocks of 2, 3, 3": replace(LESION, growth=12, layers=(2, 3, 3), first=12),
    "growth 16, blocks of 2, 3, 4, 4 (ships)": LESION,
}
UNTRAINED = {"the paper's compact form": COMPACT, "the paper's": PAPER}
"""Sizes whose cost is told; two cores do not train them."""
PATCH = 64
OVERLAPS = (0.0, 0.5, 0.75)
WHOLE = "whole brain"
LEAST_TRUTH_ML = 0.003
BINS = 10
THRESHOLDS = np.arange(1, 20) / 20


def losses(recipe: Recipe, data: Path, places: Places, rule: Rule, out: Path | None) -> None:
    """One row for each loss: means over the real cases with all their contrasts.

    The last column is what the probabilities could give at a threshold chosen on these very cases.
    """
    cases = [case for case in read_cases(data / "labelled") if not was_seen(case.name, recipe)]
    print(f"{recipe.training.steps} steps each; {rule}; mean of n = {len(cases)} scans\n\n"
          "| loss | DSC | PPV | sensitivity | lesion TPR | lesion FDR | found / true ml | PR-AUC "
          "| most DSC, at threshold |\n" + "| --- " * 9 + "|")
    points = {}
    for name, terms in LOSSES.items():
        net = _trained(name, replace(recipe, loss=terms), places)
        said = [lesion_probability(net, case.image, case.brain) for case in cases]
        judged = [_judge(p, case, rule) for p, case in zip(said, cases, strict=True)]
        best, at = _best(said, cases)
        dsc, ppv, tpr, lesion_tpr, lesion_fdr, ratio, area = np.nanmean(judged, 0)
        points[name] = (tpr, ppv)
        print(f"| {name} | {dsc:.3f} | {ppv:.2f} | {tpr:.2f} | {lesion_tpr:.2f} | {lesion_fdr:.2f} "
              f"| {ratio:.2f} | {area:.3f} | {best:.3f}, {at:.2f} |", flush=True)
    if out:
        _plot(points, out)


def sizes(recipe: Recipe, data: Path, places: Places) -> None:
    """One row for each size: what it costs, and what it finds after the same steps."""
    loss = "cross entropy, lesions x 20"
    cases = [case for case in read_cases(data / "labelled") if not was_seen(case.name, recipe)]
    print(f"{recipe.training.steps} steps each with {loss}; {torch.get_num_threads()} threads; "
          f"mean of n = {len(cases)} scans\n\n"
          "| size | parameters | GFLOP, 64^3 | one look at a scan, s | PR-AUC "
          "| most DSC, at threshold |\n" + "| --- " * 6 + "|")
    for name, size in SIZES.items():
        net = _trained(name, replace(recipe, network=size, loss=LOSSES[loss]), places)
        begun = time.monotonic()
        said = [lesion_probability(net, case.image, case.brain) for case in cases]
        each_s = (time.monotonic() - begun) / len(cases)
        areas = [average_precision(p, case.truth, case.brain)
                 for p, case in zip(said, cases, strict=True)]
        best, at = _best(said, cases)
        print(f"| {name} | {_cost(net.sizes)} | {each_s:.1f} | {np.mean(areas):.3f} "
              f"| {best:.3f}, {at:.2f} |", flush=True)
    for name, size in UNTRAINED.items():
        print(f"| {name} | {_cost(size)} | | | |")


def _cost(size: Sizes) -> str:
    size = replace(size, side_outputs=0)
    with torch.device("meta"):
        parameters = n_parameters(FCDenseNet(size))
    return f"{parameters:,} | {gflop(size):.1f}"


def _trained(name: str, recipe: Recipe, places: Places) -> FCDenseNet:
    """The network of a run by that name, trained unless it is there already."""
    run = places.run / "".join(letter if letter.isalnum() else "-" for letter in name)
    if (run / "weights.pt").exists():
        return averaged_network(run / "weights.pt")[0]
    return train(recipe, replace(places, run=run))


def _best(said: list[Array], cases: list[Case]) -> tuple[float, float]:
    """The most mean DSC that a threshold chosen on these very cases gives, and that threshold."""
    pairs = [(p, case.truth) for p, case in zip(said, cases, strict=True)]
    best = {float(t): float(np.mean([dice(p >= t, truth) for p, truth in pairs])) for t in THRESHOLDS}
    at = max(best, key=best.__getitem__)
    return best[at], at


def calibration(weights: list[Path], data: Path, asking: Asking, out: Path | None) -> None:
    """How often a voxel of a stated probability is lesion."""
    patients = _unseen(weights, data, flips=asking.flips).values()
    said = [scan for scans in patients for scan in scans]
    p = np.concatenate([scan.probability(asking) for scan in said])
    voxels, mean, share = _reliability(p, np.concatenate([scan.truth for scan in said]))
    print(f"{asking}, n = {len(said)} scans\n\n"
          "| probability | voxels | mean probability | share that is lesion |\n" + "| --- " * 4 + "|")
    for n in range(BINS):
        low, high = n / BINS, (n + 1) / BINS
        print(f"| {low:.1f} to {high:.1f} | {voxels[n]} | {mean[n]:.3f} | {share[n]:.3f} |")
    print(f"\nexpected calibration error above 0.05: {_error_of(said, asking):.3f}")
    if out:
        _, axes = plt.subplots(figsize=(4.5, 4.5))
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axes.plot(mean, share, "o-")
        axes.set(xlabel="probability", ylabel="share of voxels that is lesion")
        _write(out)


@dataclass(frozen=True)
class Said:
    """What one or two looks say of the brain of a scan, `(looks, voxels)`, and where lesions are."""

    logits: Tensor
    truth: Array

    def probability(self, asking: Asking) -> Array:
        return asking.probability(list(self.logits)).numpy().astype(np.float64)

    def surprise(self, asking: Asking) -> float:
        """The mean cross entropy."""
        p = np.clip(self.probability(asking), 1e-7, 1 - 1e-7)
        return float(-np.mean(np.where(self.truth, np.log(p), np.log(1 - p))))


def fit(weights: list[Path], data: Path, *, flips: bool) -> Asking:
    """Platt's scaling (Advances in Large Margin Classifiers, 1999) of logits on scans never seen."""
    said = _unseen(weights, data, flips=flips)
    if len(said) < 2:
        raise SystemExit(f"{len(said)} patients were never seen by these weights; two judge each other")
    print("| fitted on | judged on | temperature | shift | cross entropy before | and after "
          "| calibration error above 0.05 before | and after |\n" + "| --- " * 8 + "|")
    for left_out in (*said, None):
        fitted_on = [name for name in said if name != left_out]
        judged_on = [left_out] if left_out else fitted_on
        asking = _fitted([said[name] for name in fitted_on], flips=flips)
        scans = [scan for name in judged_on for scan in said[name]]
        print(f"| {', '.join(fitted_on)} | {', '.join(judged_on)} | {asking.temperature:.2f} "
              f"| {asking.shift:.2f} | " + " | ".join(
                  f"{measured(scans, how):.{digits}f}" for measured, digits in
                  ((_mean_surprise, 4), (_error_of, 3)) for how in (Asking(flips), asking)) + " |")
    return asking


def _mean_surprise(scans: list[Said], asking: Asking) -> float:
    return float(np.mean([scan.surprise(asking) for scan in scans]))


def _error_of(scans: list[Said], asking: Asking) -> float:
    p = np.concatenate([scan.probability(asking) for scan in scans])
    return _calibration_error(p, np.concatenate([scan.truth for scan in scans]))


def _fitted(patients: list[list[Said]], *, flips: bool) -> Asking:
    def asking(at: Array) -> Asking:
        return Asking(flips, float(np.exp(at[0])), float(at[1]))

    def surprise(at: Array) -> float:
        return float(np.mean([_mean_surprise(scans, asking(at)) for scans in patients]))

    found = optimize.minimize(surprise, np.zeros(2), method="Nelder-Mead",
                              options={"xatol": 1e-3, "fatol": 1e-7})
    return asking(found.x)


def _unseen(weights: list[Path], data: Path, *, flips: bool) -> dict[str, list[Said]]:
    """What each checkpoint says of the patients that it never saw, by patient."""
    said: dict[str, list[Said]] = {}
    for net, case in never_seen(weights, data):
        box, logits = lesion_logits(net, case.image, case.brain, flips=flips)
        brain = case.brain[box]
        inside = torch.from_numpy(brain)
        of_case = Said(torch.stack([z[inside] for z in logits]), case.truth[box][brain])
        said.setdefault(case.name.split("-")[0], []).append(of_case)
    return said


def _calibration_error(p: Array, t: Array) -> float:
    """The expected calibration error (Naeini et al., AAAI 2015) of the voxels above 0.05.

    The brain is nearly all surely healthy, and would hide everything else.
    """
    voxels, mean, share = _reliability(p[p > 0.05], t[p > 0.05])
    return float(np.average(np.abs(mean - share), weights=voxels))


def _reliability(p: Array, t: Array) -> tuple[Array, Array, Array]:
    """Of each bin of probabilities: voxels, mean probability, share that is lesion."""
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    voxels = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, p, BINS), np.bincount(bins, t, BINS)
    mean, share = (total / np.maximum(voxels, 1) for total in sums)
    return voxels, mean, share


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


def _way(overlap: float, weighting: str) -> str:
    return f"{overlap:g}, {weighting}"


def _plot_votings(points: dict[str, tuple[float, float, float]], n: int, out: Path) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(11, 4))
    titles = ("DSC", "lesion TPR", "lesion FDR")
    for column, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        for weighting in _along_axis():
            values = [points[_way(overlap, weighting)][column] for overlap in OVERLAPS]
            panel.plot(OVERLAPS, values, "o-", label=weighting)
        panel.axhline(points[WHOLE][column], color="grey", linestyle="--", label=WHOLE)
        panel.set(xlabel="overlap", title=title, xticks=OVERLAPS)
    panels[0].legend(fontsize=8)
    figure.suptitle(f"votes of patches of {PATCH}, mean of n = {n} scans")
    _write(out)


def _write(out: Path) -> None:
    plt.tight_layout()
    plt.savefig(out, dpi=70)
    plt.close()


def votings(weights: list[Path], data: Path, rule: Rule, asking: Asking, out: Path | None) -> None:
    """Overlapping patches against the whole brain at once, by overlap and weighting."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for net, case in never_seen(weights, data):
        rows.setdefault(WHOLE, []).append(
            _judge(lesion_probability(net, case.image, case.brain, asking), case, rule))
        for overlap in OVERLAPS:
            for weighting, probability in voted(net, case, overlap, asking).items():
                judged = _judge(probability, case, rule)
                rows.setdefault(_way(overlap, weighting), []).append(judged)
    n = len(rows[WHOLE])
    print(f"patches of {PATCH}; {asking}, {rule}; mean of n = {n} scans\n\n"
          "| overlap, weighting | DSC | lesion TPR | lesion FDR | PR-AUC |\n" + "| --- " * 5 + "|")
    points = {}
    for name, several in rows.items():
        dsc, _, _, lesion_tpr, lesion_fdr, _, area = np.nanmean(several, 0)
        points[name] = (dsc, lesion_tpr, lesion_fdr)
        print(f"| {name} | {dsc:.3f} | {lesion_tpr:.2f} | {lesion_fdr:.2f} | {area:.3f} |")
    if out:
        _plot_votings(points, n, out)


def voted(net: FCDenseNet | Exported, case: Case, overlap: float,
          asking: Asking) -> dict[str, Array]:
    """The probability that overlapping patches vote for, by weighting; 0 outside the brain."""
    windows = {name: _window(along) for name, along in _along_axis().items()}
    sums = {name: np.zeros(case.brain.shape) for name in windows}
    weights = {name: np.zeros(case.brain.shape) for name in windows}
    for box in _boxes(case.brain, overlap):
        cut = case.image[(slice(None), *box)]
        looks = looks_at(net, cut, np.zeros(len(cut)), flips=asking.flips)
        probability = asking.probability(looks).numpy()
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
    options.add_argument("what", choices=("losses", "sizes", "votings", "calibration", "fit"))
    options.add_argument("sources", type=Path, nargs="+", help="a recipe, or weights")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--pool", type=Path)
    options.add_argument("--run", type=Path)
    options.add_argument("--start", type=Path, help="weights that every loss begins with")
    options.add_argument("--out", type=Path, help="a picture of what is printed")
    Asking.add_options(options)
    Rule.add_options(options)
    options.add_argument("--write", type=Path,
                         help="fit: keep temperature and shift as options in this file")
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args(list(with_files_read(sys.argv[1:])))
    torch.set_num_threads(given.threads)
    rule = Rule.given(given)
    if given.write and given.what != "fit":
        options.error("--write keeps what fit finds")
    if given.what == "votings":
        votings(given.sources, given.data, rule, Asking.given(given), given.out)
        return
    if given.what == "calibration":
        calibration(given.sources, given.data, Asking.given(given), given.out)
        return
    if given.what == "fit":
        asking = fit(given.sources, given.data, flips=given.flips)
        if given.write:
            keep_options(asking.as_options(), given.write)
        return
    if given.pool is None or given.run is None:
        options.error(f"{given.what} needs --pool and --run")
    places = Places(given.pool, given.run, start=given.start)
    if given.what == "sizes":
        sizes(read_recipe(given.sources[0]), given.data, places)
        return
    losses(read_recipe(given.sources[0]), given.data, places, rule, given.out)


if __name__ == "__main__":
    main()
