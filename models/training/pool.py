"""Fills a folder with synthetic samples; sample n depends on the recipe, its seed and n alone.

    python pool.py recipes/anatomy.toml --data DATA --cache CACHE --pool POOL

Several of these may share the work (`--share 0/2`, `--share 1/2`). Training may begin meanwhile: it
waits for a sample that is not there yet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from arrays import Array, Rng
from heads import Head, read_head
from lesions import Piece, read_bank
from randomised import randomised_sample
from realtissue import read_patient, real_sample
from recipe import Recipe, read_recipe
from synthesis import prepare, synthetic_sample

Draw = Callable[[Rng], tuple[Array, Array]]
N_HEADS = 20


@dataclass(frozen=True)
class Sources:
    """What samples are made of."""

    data: Path
    cache: Path
    recipe: Recipe

    def heads(self, numbers: Iterable[int]) -> list[Head]:
        return [read_head(self.data / "label-maps" / f"head_{n:02d}.nii.gz", self.cache)
                for n in numbers]

    def kept_out(self) -> list[Head]:
        """The label maps that never train."""
        return self.heads(n for n in range(1, N_HEADS + 1) if n not in self.recipe.pool.heads)

    def bank(self) -> list[list[Piece]]:
        return read_bank(self.data / "lesion-bank" / "mni", self.recipe.pool.bank_without)


def painter(sources: Sources) -> Draw:
    """The function that draws one sample: image float16 `(c, k, j, i)`, label uint8 `(k, j, i)`.

    Bit 7 of a label marks a lesion, the rest is the class: of the side task, or of the anatomy.
    """
    pool = sources.recipe.pool
    heads = sources.heads(pool.heads)
    if sources.recipe.task == "anatomy":
        return lambda rng: randomised_sample(heads[rng.integers(len(heads))], pool.shape, rng)
    bank = sources.bank()
    prepared = [prepare(head) for head in heads]
    return lambda rng: synthetic_sample(
        prepared[rng.integers(len(prepared))], bank, pool.shape, rng, dura=pool.dura,
        insula=pool.insula)


def real_painter(sources: Sources) -> Draw:
    """The same on the scans of the patients that the recipe names, all of them equally often."""
    pool = sources.recipe.pool
    patients = [read_patient(sources.data / "labelled", name) for name in pool.real]
    bank = sources.bank()

    def draw(rng: Rng) -> tuple[Array, Array]:
        visits = patients[rng.integers(len(patients))]
        return real_sample(visits[rng.integers(len(visits))], bank, pool.shape, rng,
                           thick=pool.real_thick, worse=pool.real_worse)

    return draw


def label_of(image_path: Path) -> Path:
    return image_path.with_name(image_path.name.replace("image", "label"))


def paths_of(pool: Path, n: int) -> tuple[Path, Path]:
    image_path = pool / f"{n:05d}.image.npy"
    return image_path, label_of(image_path)


def wait_while_paused(pause_file: Path | None) -> None:
    """Returns once nobody asks for quiet, so that speed can be measured beside a long run."""
    while pause_file and pause_file.exists():
        time.sleep(1)


def fill(draw: Draw, seed: int, pool: Path, numbers: range, pause_file: Path | None) -> None:
    pool.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        image_path, label_path = paths_of(pool, n)
        if image_path.exists():
            continue
        wait_while_paused(pause_file)
        began = time.monotonic()
        image, label = draw(np.random.default_rng((seed, n)))
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
    options.add_argument("--real", action="store_true", help="the pool of the recipe's patients")
    options.add_argument("--share", default="0/1")
    options.add_argument("--pause-file", type=Path)
    given = options.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(given.recipe)
    share, shares = map(int, given.share.split("/"))
    sources = Sources(given.data, given.cache, recipe)
    draw = real_painter(sources) if given.real else painter(sources)
    samples = recipe.pool.real_samples if given.real else recipe.pool.samples
    fill(draw, recipe.pool.seed, given.pool, range(share, samples, shares), given.pause_file)


if __name__ == "__main__":
    main()
