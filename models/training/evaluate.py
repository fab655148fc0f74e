"""Judges checkpoints: the lesion network on real cases and graded heads, the anatomy on brain masks.

    python evaluate.py labelled WEIGHTS --data DATA         real cases, by subset of contrasts
    python evaluate.py graded WEIGHTS --pool POOL           synthetic heads of known load (or an ONNX)
    python evaluate.py tune WEIGHTS --pool POOL             threshold, minimum volume
    python evaluate.py anatomy WEIGHTS --data DATA          brain masks
    python evaluate.py classes WEIGHTS --pool POOL          DSC of each class on heads kept out

Every command prints a table with its n. `--flips`, `--temperature` and `--shift` say how the lesion
network is asked (`predict.Asking`); thresholds are for what it says then. `tune --write FILE` keeps the
best rule, and `@FILE` stands for the options that a file holds. The network is the averaged
one; a real patient's figure means something only if the recipe kept that patient out of the lesion
bank.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from arrays import Array
from cases import Case, read_cases
from checkpoints import averaged_network
from contrasts import CONTRASTS
from measures import (
    SIZES_ML,
    Agreement,
    Rule,
    agreement,
    average_precision,
    dice,
    without_small,
)
from network import FCDenseNet
from normalise import OUTSIDE
from predict import (
    Asking,
    Exported,
    keep_options,
    lesion_probability,
    look_at,
    with_files_read,
)
from randomised import CLASSES
from rawscans import brain_figures
from recipe import LESION_BIT, Recipe

SUBSETS = (("flair",), ("flair", "t1w"), ("flair", "t2w"), CONTRASTS)
TRUTH_MIN_ML = 0.003
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
MINIMA_ML = (0.003, 0.006, 0.01)
"""What `tune` chooses among."""


def judge_pool(net: FCDenseNet, recipe: Recipe, pool: Path) -> dict[str, float]:
    """Mean DSC (lesions) or DSC per class (anatomy) on a pool that is never trained on.

    Of lesions also by the groups that the pool names, and what is found where there are none."""
    net.eval()
    scores: dict[str, list[float]] = defaultdict(list)
    for image, label, grade in pool_samples(pool):
        if recipe.task == "lesion":
            found = lesion_probability(net, image, brain_of(image, label)) >= 0.5
            truth = (label >> LESION_BIT) > 0
            if truth.any():
                for name in filter(None, ("dsc", grade.get("group"))):
                    scores[name].append(dice(found, truth))
            else:
                scores["false ml"].append(found.sum() / 1000)
        else:
            likeliest = look_at(net, image[0]).probability.argmax(0)
            for n, name in enumerate(CLASSES):
                scores[name].append(dice(likeliest == n, label == n))
    return {name: float(np.nanmean(values)) for name, values in scores.items()}


def judge_left_out(net: FCDenseNet, recipe: Recipe, data: Path) -> dict[str, float]:
    """DSC on each real case that the training never sees, with all contrasts that it has."""
    net.eval()
    return {case.name: dice(lesion_probability(net, case.image, case.brain) >= 0.5, case.truth)
            for case in read_cases(data / "labelled") if not was_seen(case.name, recipe)}


def pool_samples(pool: Path) -> Iterator[tuple[Array, Array, dict[str, Any]]]:
    """Image, label and, for a graded pool, what each sample was meant to be."""
    listed = pool / "grades.json"
    grades = json.loads(listed.read_text()) if listed.exists() else {}
    for path in sorted(pool.glob("*.image.npy")):
        label = np.load(path.with_name(path.name.replace("image", "label")))
        yield np.load(path).astype(np.float32), label, grades.get(path.name.split(".")[0], {})


def brain_of(image: Array, label: Array) -> Array:
    """Where FLAIR is not outside; with the skull on, the tissue classes with a rim of 2 mm."""
    inside = image[0] > OUTSIDE
    if inside[0].mean() > 0.01 or inside[:, :, 0].mean() > 0.01:
        tissue = (label & (2**LESION_BIT - 1)) > 0
        inside = ndimage.binary_dilation(tissue, iterations=2)
    return ndimage.binary_fill_holes(inside)


def labelled(net: FCDenseNet, recipe: Recipe, data: Path, rule: Rule, asking: Asking) -> None:
    """Every real case with every subset of contrasts that it has; of patients never seen only."""
    print(f"{asking}, {rule}\n")
    print("| case | contrasts | true ml | found ml | DSC | PPV | TPR | lesion TPR | lesion FDR "
          "| PR-AUC | volume error |\n" + "| --- " * 11 + "|")
    rows: dict[str, list[tuple[Agreement, float]]] = defaultdict(list)
    for case in read_cases(data / "labelled"):
        if was_seen(case.name, recipe):
            print(f"| {case.name} | left out: scan or masks were trained on |" + " |" * 9)
            continue
        present = tuple(c for n, c in enumerate(CONTRASTS) if case.image[n].any())
        for subset in SUBSETS:
            if not set(subset) <= set(present):
                continue
            seen = case.only(subset)
            probability = lesion_probability(net, seen.image, seen.brain, asking)
            figures = agreement(rule.mask(probability), without_small(seen.truth, TRUTH_MIN_ML))
            area = average_precision(probability, seen.truth, seen.brain)
            rows["all that it has" if subset == present else "+".join(subset)].append(
                (figures, area))
            print(f"| {case.name} | {'+'.join(subset)} | {_row(figures)} | {area:.3f} "
                  f"| {figures.volume_error:.2f} |", flush=True)
    for name, several in rows.items():
        dsc = [figures.dsc for figures, _ in several]
        print(f"| mean, n = {len(several)} scans | {name} | | | {np.mean(dsc):.3f} | | | "
              f"{np.mean([f.lesion_tpr for f, _ in several]):.2f} | "
              f"{np.nanmean([f.lesion_fdr for f, _ in several]):.2f} | "
              f"{np.mean([area for _, area in several]):.3f} | |")
    print("\n| touched of all, lesion ml |" + _sizes())
    for name, several in rows.items():
        print(_touched([figures for figures, _ in several], name))


def _sizes() -> str:
    sizes = list(pairwise(SIZES_ML))
    return "".join(f" {low:g} to {high:g} |" for low, high in sizes) + "\n|" + " --- |" * (
        len(sizes) + 1)


def _touched(several: list[Agreement], name: str) -> str:
    """How many of the true lesions of each size have a voxel that was found."""
    totals = np.sum([figures.touched for figures in several], 0)
    return f"| {name} |" + "".join(f" {touched} of {whole} |" for touched, whole in totals)


def was_seen(case: str, recipe: Recipe) -> bool:
    """Whether the patient's scans or its masks had a part in the training."""
    return case.startswith(recipe.pool.real or ("//",)) or not case.startswith(
        recipe.pool.bank_without or ("//",))


def never_seen(weights: list[Path], data: Path) -> Iterator[tuple[FCDenseNet, Case]]:
    """The network of each checkpoint with each real case that its training never saw."""
    for path in weights:
        net, recipe = averaged_network(path)
        for case in read_cases(data / "labelled"):
            if not was_seen(case.name, recipe):
                yield net, case


def graded(net: FCDenseNet | Exported, pool: Path, rule: Rule, asking: Asking) -> None:
    """Synthetic heads by load and slice thickness, lesions by size, and heads without lesions."""
    groups: dict[tuple[float, float], list[Agreement]] = defaultdict(list)
    for image, label, grade in pool_samples(pool):
        truth = (label >> LESION_BIT) > 0
        found = rule.mask(lesion_probability(net, image, brain_of(image, label), asking))
        groups[grade["load_ml"], grade["slices_mm"]].append(agreement(found, truth))
    print(f"{asking}, {rule}\n")
    print("| load ml | slices mm | n | DSC | lesion TPR | lesion TPR from 0.03 ml | lesion FDR "
          "| volume error | false ml |\n" + "| --- " * 9 + "|")
    for (load_ml, slices_mm), several in sorted(groups.items()):
        large = [t for f in several for t in f.touched[2:]]
        touched, whole = sum(t for t, _ in large), sum(n for _, n in large)
        if load_ml == 0:
            found_ml = [f.found_ml for f in several]
            print(f"| 0 | {slices_mm:g} | {len(several)} | | | | | | median "
                  f"{np.median(found_ml):.3f}, most {max(found_ml):.3f} |")
            continue
        print(f"| {load_ml:g} | {slices_mm:g} | {len(several)} "
              f"| {np.mean([f.dsc for f in several]):.3f} "
              f"| {np.mean([f.lesion_tpr for f in several]):.2f} "
              f"| {touched / max(whole, 1):.2f} ({whole}) "
              f"| {np.nanmean([f.lesion_fdr for f in several]):.2f} "
              f"| {np.mean([f.volume_error for f in several]):.2f} | |")
    free = [f.found_ml for (load_ml, _), several in groups.items() if not load_ml for f in several]
    if free:
        print(f"\nlesion-free, n = {len(free)}: nothing found in {free.count(0)}, median "
              f"{np.median(free):.3f} ml, most {max(free):.3f} ml")
    print("\n| lesion ml |" + _sizes())
    print(_touched([f for several in groups.values() for f in several], "touched of all"))


def tune(net: FCDenseNet, pool: Path, asking: Asking) -> Rule:
    """The rule with the best mean DSC and lesion F1, less false volume where there are no lesions."""
    rules = [Rule(threshold, min_ml) for threshold in THRESHOLDS for min_ml in MINIMA_ML]
    score: dict[Rule, list[float]] = defaultdict(list)
    for image, label, _ in pool_samples(pool):
        brain = brain_of(image, label)
        truth = (label >> LESION_BIT) > 0
        probability = lesion_probability(net, image, brain, asking)
        box = ndimage.find_objects(brain.astype(np.uint8))[0]
        for rule in rules:
            figures = agreement(rule.mask(probability[box]), truth[box])
            f1 = _harmonic(figures.lesion_tpr, 1 - figures.lesion_fdr)
            score[rule].append(figures.dsc + f1 if truth.any() else -figures.found_ml)
    n = len(next(iter(score.values())))
    print(f"{asking}, n = {n} heads")
    best = sorted(score, key=lambda rule: -np.nanmean(score[rule]))
    for rule in best[:8]:
        print(f"{rule}: DSC + lesion F1 {np.nanmean(score[rule]):.3f}")
    return best[0]


def anatomy(net: FCDenseNet, data: Path) -> None:
    """Brain masks of native scans and stripped FLAIRs."""
    print("| scan | truth | brain DSC | found ml | true ml | scalp |\n" + "| --- " * 6 + "|")
    for row in brain_figures(net, data):
        print(f"| {row.scan} | {row.truth} | {row.dice:.3f} | {row.found_ml:.0f} "
              f"| {row.true_ml:.0f} | {row.scalp:.2f} |", flush=True)


def classes(net: FCDenseNet, recipe: Recipe, pool: Path) -> None:
    n = len(list(pool.glob("*.image.npy")))
    print(f"| class | DSC, mean of n = {n} synthetic samples |\n| --- | --- |")
    for name, value in judge_pool(net, recipe, pool).items():
        print(f"| {name} | {value:.3f} |")


def _harmonic(one: float, other: float) -> float:
    one, other = np.nan_to_num(one), np.nan_to_num(other)
    return float(2 * one * other / max(one + other, 1e-9))


def _row(f: Agreement) -> str:
    return (f"{f.true_ml:.1f} | {f.found_ml:.1f} | {f.dsc:.3f} | {f.ppv:.2f} | {f.tpr:.2f} "
            f"| {f.lesion_tpr:.2f} | {f.lesion_fdr:.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("what", choices=("labelled", "graded", "tune", "anatomy", "classes"))
    options.add_argument("weights", type=Path)
    options.add_argument("--data", type=Path)
    options.add_argument("--pool", type=Path)
    Rule.add_options(options)
    Asking.add_options(options)
    options.add_argument("--write", type=Path, help="tune: keep the rule as options in this file")
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args(list(with_files_read(sys.argv[1:])))
    torch.set_num_threads(given.threads)
    rule, asking = Rule.given(given), Asking.given(given)
    if given.write and given.what != "tune":
        options.error("--write keeps what tune finds")
    needed = "pool" if given.what in ("graded", "tune", "classes") else "data"
    if getattr(given, needed) is None:
        options.error(f"{given.what} needs --{needed}")
    if given.weights.suffix == ".onnx":
        if given.what != "graded":
            options.error(f"{given.what} needs a checkpoint, not an exported network")
        if (asking.temperature, asking.shift) != (1.0, 0.0):
            options.error("an exported network has its temperature and shift in it")
        graded(Exported(given.weights), given.pool, rule, asking)
        return
    net, recipe = averaged_network(given.weights)
    match given.what:
        case "labelled":
            labelled(net, recipe, given.data, rule, asking)
        case "graded":
            graded(net, given.pool, rule, asking)
        case "tune":
            best = tune(net, given.pool, asking)
            if given.write:
                keep_options(best.as_options(), given.write)
        case "anatomy":
            anatomy(net, given.data)
        case "classes":
            classes(net, recipe, given.pool)


if __name__ == "__main__":
    main()
