"""Fills a folder with synthetic samples; sample n depends on the recipe, its seed and n alone.

    python pool.py recipes/anatomy.toml --data DATA --cache CACHE --pool POOL

Several of these may share the work (`--share 0/2`, `--share 1/2`). Training may begin meanwhile: it
waits for a sample that is not there yet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from arrays import Array, Rng
from heads import read_head
from lesions import read_bank
from randomised import randomised_sample
from recipe import Recipe, read_recipe
from synthesis import prepare, synthetic_sample

Draw = Callable[[Rng], tuple[Array, Array]]


def painter(recipe: Recipe, data: Path, cache: Path) -> Draw:
    """The function that draws one sample: image float16 `(c, k, j, i)`, label uint8 `(k, j, i)`.

    Bit 7 of a label marks a lesion, the rest is the class: of the side task, or of the anatomy.
    """
    paths = [data / "label-maps" / f"head_{n:02d}.nii.gz" for n in recipe.pool.heads]
    heads = [read_head(path, cache) for path in paths]
    shape = recipe.pool.shape
    if recipe.task == "anatomy":
        return lambda rng: randomised_sample(heads[rng.integers(len(heads))], shape, rng)
    bank = read_bank(data / "lesion-bank" / "mni", recipe.pool.bank_without)
    prepared = [prepare(head) for head in heads]
    return lambda rng: synthetic_sample(
        prepared[rng.integers(len(prepared))], bank, shape, rng)


def paths_of(pool: Path, n: int) -> tuple[Path, Path]:
    return pool / f"{n:05d}.image.npy", pool / f"{n:05d}.label.npy"


def wait_while_paused(pause_file: Path | None) -> None:
    """Returns once nobody asks for quiet, so that speed can be measured beside a long run."""
    while pause_file and pause_file.exists():
        time.sleep(1)


def fill(draw: Draw, recipe: Recipe, pool: Path, numbers: range, pause_file: Path | None) -> None:
    pool.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        image_path, label_path = paths_of(pool, n)
        if image_path.exists():
            continue
        wait_while_paused(pause_file)
        began = time.monotonic()
        image, label = draw(np.random.default_rng((recipe.pool.seed, n)))
        np.save(label_path, label)
        unfinished = image_path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.save(file, image)
        unfinished.replace(image_path)
        lesion_ml = int((label >> 7).sum()) / 1000
        print(f"sample {n} in {time.monotonic() - began:.1f} s, lesion {lesion_ml:.2f} ml",
              flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("recipe", type=Path)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--cache", type=Path, required=True)
    options.add_argument("--pool", type=Path, required=True)
    options.add_argument("--share", default="0/1")
    options.add_argument("--pause-file", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(given.recipe)
    share, shares = map(int, given.share.split("/"))
    fill(painter(recipe, given.data, given.cache), recipe, given.pool,
         range(share, recipe.pool.samples, shares), given.pause_file)


if __name__ == "__main__":
    main()
