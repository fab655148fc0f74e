"""Trains the network of a recipe on its pool; stops and goes on at any step with the same outcome.

    python train.py recipes/lesion.toml --pool POOL --run RUN [--real-pool POOL] [--start WEIGHTS]
        [--judge POOL] [--judge-data DATA]

Every checkpoint is judged on the samples of `--judge` and on the patients of `--judge-data` that the
recipe leaves out. RUN receives `weights.pt` (recipe, weights and their average: what is kept),
`state.pt` (with the optimiser's moments: what resuming needs) and `history.jsonl` (a line per 50 steps
and checkpoint). `sampling` is the share of the processor time of those steps that patches took; it is
true where each is drawn by one thread (OPENBLAS_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoints import load_weights, recipe_as_text, start_from
from data import Batch, PatchSource
from evaluate import judge_left_out, judge_pool
from losses import Loss, sum_of
from network import FCDenseNet, channels_last, n_parameters, receptive_field
from pool import wait_while_paused
from recipe import UNKNOWN, Recipe, Training, read_recipe

REPORT_STEPS = 50
NO_LESION = -30.0
"""A logit that costs nothing, in any loss, where there is no lesion."""


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a run reads and writes; none of it changes the weights."""

    pool: Path
    run: Path
    real_pool: Path | None = None
    judge: Path | None = None
    judge_data: Path | None = None
    start: Path | None = None
    pause_file: Path | None = None


def train(recipe: Recipe, places: Places) -> FCDenseNet:
    """Runs the recipe to its last step and gives the averaged network."""
    plan = recipe.training
    torch.manual_seed(plan.seed)
    net = channels_last(FCDenseNet(recipe.network))
    if places.start:
        start_from(net, places.start)
    average = channels_last(FCDenseNet(recipe.network))
    average.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), plan.rate, weight_decay=plan.weight_decay)
    loss_of = sum_of(recipe.loss)
    step = _resume(places.run, net, average, optimiser)
    source = PatchSource(recipe, places.pool, places.real_pool)
    _announce(recipe, net, step)

    stop = _stop_when_asked()
    seen: list[float] = []
    began, saved_at = time.monotonic(), time.monotonic()
    spent_s, sampled_s = time.process_time(), 0.0
    for parts in source.batches(step):
        wait_while_paused(places.pause_file)
        net.train()
        if step >= plan.steps - plan.frozen_steps:
            net.freeze_statistics()
        for group in optimiser.param_groups:
            group["lr"] = rate_at(plan, step)
        optimiser.zero_grad()
        for batch in parts:
            loss = batch_loss(net, batch, recipe, loss_of) / len(parts)
            loss.backward()
            seen.append(loss.item() * len(parts))
        torch.nn.utils.clip_grad_norm_(net.parameters(), plan.clip)
        optimiser.step()
        step += 1
        _follow(average, net, min(plan.average, step / (step + 10)))

        if step % REPORT_STEPS == 0:
            recent = seen[-REPORT_STEPS * len(parts):]
            _log(places.run, step=step, loss=sum(recent) / len(recent), rate=rate_at(plan, step),
                 minutes=(time.monotonic() - began) / 60,
                 sampling=(source.busy_s - sampled_s) / (time.process_time() - spent_s))
            spent_s, sampled_s = time.process_time(), source.busy_s
        if step == plan.steps or stop.is_set() or time.monotonic() - saved_at > plan.checkpoint_s:
            saved_at, training_s = time.monotonic(), time.process_time()
            score = {} if stop.is_set() else _judged(average, recipe, places)
            _save(places.run, recipe, step, score, net, average, optimiser)
            _log(places.run, step=step, **score)
            spent_s += time.process_time() - training_s
        if stop.is_set():
            break
    return average.eval()


def _judged(net: FCDenseNet, recipe: Recipe, places: Places) -> dict[str, float]:
    """What a checkpoint is worth, on whatever it is to be judged by."""
    score = judge_pool(net, recipe, places.judge) if places.judge else {}
    if places.judge_data:
        score |= judge_left_out(net, recipe, places.judge_data)
    return score


def rate_at(plan: Training, step: int) -> float:
    """A short rise, a plateau, a straight fall to zero."""
    rising = (step + 1) / max(plan.warmup_steps, 1)
    falling = (plan.steps - step) / max(plan.anneal_steps, 1)
    return plan.rate * min(1.0, rising, falling)


def batch_loss(net: FCDenseNet, batch: Batch, recipe: Recipe, loss_of: Loss) -> Tensor:
    """The recipe's loss, and the side task's cross entropy if it has one."""
    image = batch.image.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.training.bf16):
        logits = net(image)  # (n, outputs + side_outputs, k, j, i)
    outputs = recipe.network.outputs
    main, side = logits[:, :outputs].float(), logits[:, outputs:].float()
    truth = truth_of(batch, recipe)
    if recipe.task == "lesion":
        main = main.masked_fill(batch.uncounted, NO_LESION)
        truth = truth.masked_fill(batch.uncounted, 0.0)
    loss = loss_of(main, truth)
    if recipe.network.side_outputs:
        loss = loss + recipe.training.side_weight * _side_loss(side, batch.classes)
    return loss


def _side_loss(side: Tensor, classes: Tensor) -> Tensor:
    """Mean over the voxels whose class is known; 0 if none is."""
    known = (classes != UNKNOWN).sum().clamp(min=1)
    return F.cross_entropy(side, classes, ignore_index=UNKNOWN, reduction="sum") / known


def truth_of(batch: Batch, recipe: Recipe) -> Tensor:
    """One-hot truth, `(n, outputs, k, j, i)`; for the anatomy a lesion is the last class."""
    if recipe.task == "lesion":
        return batch.lesion
    classes = torch.where(batch.lesion[:, 0] > 0, recipe.network.outputs - 1, batch.classes)
    return F.one_hot(classes, recipe.network.outputs).movedim(-1, 1).float()


def _stop_when_asked() -> threading.Event:
    """Set once the process is asked to end: the step under way is finished and saved."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for asked in (signal.SIGTERM, signal.SIGINT):
            signal.signal(asked, lambda *_: stop.set())
    return stop


def _follow(average: FCDenseNet, net: FCDenseNet, decay: float) -> None:
    """Moves the running average, BatchNorm's statistics included, towards the network."""
    with torch.no_grad():
        pairs = zip(average.state_dict().values(), net.state_dict().values(), strict=True)
        for mean, now in pairs:
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)


def _announce(recipe: Recipe, net: FCDenseNet, step: int) -> None:
    plan = recipe.training
    print(f"{recipe.name}: {n_parameters(net)} parameters, receptive field "
          f"{receptive_field(recipe.network)} voxels, patches of {recipe.patches.size}, "
          f"{plan.batch} x {plan.accumulate} per step, steps {step} to {plan.steps}, "
          f"seed {plan.seed}, {torch.get_num_threads()} threads", flush=True)


def _log(run: Path, **figures: float) -> None:
    with (run / "history.jsonl").open("a") as file:
        file.write(json.dumps(figures) + "\n")
    print(" ".join(f"{name} {value:.5g}" for name, value in figures.items()), flush=True)


def _save(run: Path, recipe: Recipe, step: int, score: dict[str, float], net: FCDenseNet,
          average: FCDenseNet, optimiser: torch.optim.Optimizer) -> None:
    kept: dict[str, Any] = {
        "recipe": recipe_as_text(recipe), "step": step, "score": score,
        "threads": torch.get_num_threads(), "torch": str(torch.__version__),
        "weights": net.state_dict(), "average": average.state_dict(),
    }
    resumable = {**kept, "optimiser": optimiser.state_dict(), "random": torch.get_rng_state()}
    for name, content in (("weights.pt", kept), ("state.pt", resumable)):
        torch.save(content, run / f"{name}.part")
        (run / f"{name}.part").replace(run / name)


def _resume(run: Path, net: FCDenseNet, average: FCDenseNet,
            optimiser: torch.optim.Optimizer) -> int:
    """Takes up the state that `run` holds, if any; gives the step to go on with."""
    run.mkdir(parents=True, exist_ok=True)
    if not (run / "state.pt").exists():
        return 0
    state = load_weights(run / "state.pt")
    net.load_state_dict(state["weights"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    return int(state["step"])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("recipe", type=Path)
    options.add_argument("--pool", type=Path, required=True)
    options.add_argument("--real-pool", type=Path, help="samples of the recipe's patients")
    options.add_argument("--run", type=Path, required=True)
    options.add_argument("--judge", type=Path, help="a pool that is never trained on")
    options.add_argument("--judge-data", type=Path, help="the data whose patients are left out")
    options.add_argument("--start", type=Path, help="weights to begin with")
    options.add_argument("--pause-file", type=Path, help="wait while this file exists")
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    train(read_recipe(given.recipe),
          Places(given.pool, given.run, given.real_pool, given.judge, given.judge_data, given.start,
                 given.pause_file))


if __name__ == "__main__":
    main()
