"""Fixed synthetic heads of known load that no training sees: what a change of recipe is judged by.

    python graded.py recipes/lesion.toml --data DATA --cache CACHE --pool POOL [--judging]

Every load with slices of 1 mm and 3 mm, `--each` times, and heads without lesions; with `--judging` the
few kinds of heads by which a training is judged on its way. All are from the label maps that the recipe
keeps out. `grades.json` says what each sample was meant to be.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from arrays import Array, Rng
from mottle import as_real
from normalise import CLIP, OUTSIDE
from pool import Sources, paths_of, wait_while_paused
from recipe import Patches, Recipe, read_recipe
from synthesis import Grade, prepare, synthetic_sample

LOADS_ML = (0.3, 1.0, 3.0, 10.0, 30.0, 70.0)
SLICES_MM = (1.0, 3.0)
JUDGED = (
    Grade(1.0, 1.0, group="low load"),
    Grade(30.0, 1.0, group="high load"),
    Grade(0.5, 1.0, infratentorial=True, group="infratentorial"),
    Grade(0.0, 1.0, group="no lesions"),
    Grade(10.0, 3.0, group="thick slices"),
    Grade(10.0, 1.0, skull=True, group="skull on"),
)


def grades(each: int, lesion_free: int) -> list[Grade]:
    """What is wanted, load by load; the lesion-free heads come last, thin and thick in turn."""
    loaded = [Grade(load_ml, slices_mm)
              for load_ml in LOADS_ML for slices_mm in SLICES_MM for _ in range(each)]
    return loaded + [Grade(0.0, SLICES_MM[n % 2]) for n in range(lesion_free)]


def textured(image: Array, label: Array, plan: Patches, rng: Rng) -> Array:
    """The head as patches of it are seen in training, so that thresholds fit what looks real."""
    changed = as_real(image.astype(np.float32), label, replace(plan, clean=0.0), rng)
    changed[image <= OUTSIDE] = OUTSIDE
    return np.clip(changed, *CLIP).astype(np.float16)


def fill_graded(recipe: Recipe, wanted: list[Grade], given: argparse.Namespace) -> None:
    sources = Sources(given.data, given.cache, recipe)
    heads = [prepare(head) for head in sources.kept_out()]
    bank = sources.bank()
    given.pool.mkdir(parents=True, exist_ok=True)
    listed = {f"{n:05d}": asdict(grade) for n, grade in enumerate(wanted)}
    (given.pool / "grades.json").write_text(json.dumps(listed, indent=1))
    for n, grade in enumerate(wanted):
        wait_while_paused(given.pause_file)
        image_path, label_path = paths_of(given.pool, n)
        if image_path.exists():
            continue
        image, label = synthetic_sample(heads[n % len(heads)], bank, recipe.pool.shape,
                                        np.random.default_rng((given.seed, n)), grade)
        if not given.clean:
            image = textured(image, label, recipe.patches, np.random.default_rng((given.seed, n, 1)))
        np.save(label_path, label)
        np.save(image_path, image)
        print(f"sample {n}: wanted {grade.load_ml} ml, has {(label >> 7).sum() / 1000:.2f} ml",
              flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("recipe", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--pool", type=Path, required=True)
    options.add_argument("--each", type=int, default=5)
    options.add_argument("--lesion-free", type=int, default=20)
    options.add_argument("--seed", type=int, default=8)
    options.add_argument("--clean", action="store_true",
                         help="without the texture that the recipe gives to patches")
    options.add_argument("--judging", action="store_true",
                         help="`--each` of the kinds of heads that judge a training, no more")
    options.add_argument("--pause-file", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    wanted = grades(given.each, given.lesion_free)
    if given.judging:
        wanted = [grade for grade in JUDGED for _ in range(given.each)]
    fill_graded(read_recipe(given.recipe), wanted, given)


if __name__ == "__main__":
    main()
