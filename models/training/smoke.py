"""The whole recipe in small, on a head of ellipsoids: pool, training, judgement, export.

    python smoke.py OUT

Less than a minute from nothing to `OUT/model.onnx`, of no use for scans: it shows that every step
works.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch

from arrays import Array
from evaluate import judge_pool
from export import write_model
from heads import CLASS, Head
from measures import Rule
from pool import fill
from recipe import Recipe, read_recipe
from synthesis import Grade, prepare, synthetic_sample
from train import Places, train

RECIPE = Path(__file__).parent / "recipes" / "smoke.toml"


def ball_head(edge: int = 96) -> Head:
    """Scalp, bone, fluid, cortex, white matter and two ventricles."""
    tissue = np.zeros((edge,) * 3, np.uint8)
    for radius, name in ((46, "skin"), (43, "bone"), (40, "csf"), (37, "cortex"), (33, "white")):
        tissue[_ball(edge, radius, 0.0)] = CLASS[name]
    for side in (-9.0, 9.0):
        tissue[_ball(edge, 7, side)] = CLASS["lateral_ventricle"]
    tissue[62:66, 40:44, 40:44] = CLASS["lesion"]
    return Head("balls", tissue, np.eye(3)[:, ::-1].copy(), np.full(3, -edge / 2))


def _ball(edge: int, radius: float, shift_i: float) -> Array:
    k, j, i = np.meshgrid(*[np.arange(edge) - (edge - 1) / 2] * 3, indexing="ij")
    return k**2 + j**2 + (i - shift_i) ** 2 < radius**2


def fill_with_balls(recipe: Recipe, pool: Path) -> None:
    room = prepare(ball_head())
    fill(lambda rng: synthetic_sample(room, [[]], recipe.pool.shape, rng, Grade(2.0, 1.0)),
         recipe.pool.seed, pool, range(recipe.pool.samples), None)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    out = options.parse_args().out
    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE)
    shutil.rmtree(out, ignore_errors=True)
    fill_with_balls(recipe, out / "pool")
    net = train(recipe, Places(out / "pool", out / "run"))
    print("mean DSC on its own heads", judge_pool(net, recipe, out / "pool")["dsc"])
    write_model(net, recipe, out, "0.0.0", Rule(0.5, 0.003))


if __name__ == "__main__":
    main()
