"""A whole run in small: same seed, same curve; resumed equals uninterrupted; export equals PyTorch."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import shorter

from checkpoints import averaged_network, keep, load_weights, start_from
from data import Batch, PatchSource
from evaluate import judge_pool
from export import (
    TOLERANCE,
    description,
    export,
    golden_image,
    golden_table,
    write_model,
)
from measures import Rule
from network import FCDenseNet
from normalise import MISSING, OUTSIDE
from predict import Asking, Exported, lesion_probability
from recipe import LESION_BIT, Patches, Recipe, Training, read_recipe
from smoke import RECIPE, fill_with_balls
from train import Places, rate_at, train


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small heads that every test of this file draws from."""
    folder = tmp_path_factory.mktemp("pool")
    fill_with_balls(read_recipe(RECIPE), folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run: Path, which: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_weights(run / "weights.pt")[which]
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_seed_makes_one_curve_of_fifty_steps_and_another_seed_another(
    smoke: Recipe, pool: Path, tmp_path: Path
) -> None:
    longer = shorter(smoke, 50)
    losses = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        training = replace(longer.training, seed=seed, bf16=True)
        train(replace(longer, training=training), Places(pool, tmp_path / name))
        rows = (tmp_path / name / "history.jsonl").read_text().splitlines()
        losses.append(json.loads(rows[0])["loss"])
    first, again, other = (weights(tmp_path / name, "weights") for name in "abc")
    assert same(first, again)
    assert losses[0] == losses[1]
    assert not same(first, other)
    assert losses[0] != losses[2]


def test_a_resumed_run_ends_as_an_uninterrupted_one(
    smoke: Recipe, pool: Path, tmp_path: Path
) -> None:
    train(smoke, Places(pool, tmp_path / "whole"))
    # Saved after every step; what stops it is the source of batches.
    often = replace(smoke, training=replace(smoke.training, checkpoint_s=-1))
    with pytest.raises(_StoppedError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatchSource, "batches", _only_seven)
        train(often, Places(pool, tmp_path / "parts"))
    assert load_weights(tmp_path / "parts" / "state.pt")["step"] == 7
    train(often, Places(pool, tmp_path / "parts"))
    for which in ("weights", "average"):
        assert same(weights(tmp_path / "whole", which), weights(tmp_path / "parts", which))


def _only_seven(source: PatchSource, first_step: int) -> Iterator[list[object]]:
    for step in range(first_step, 7):
        yield [source.batch(step, part) for part in range(source.recipe.training.accumulate)]
    raise _StoppedError


class _StoppedError(Exception):
    pass


def test_statistics_stand_still_at_the_end(smoke: Recipe, pool: Path, tmp_path: Path) -> None:
    frozen = replace(smoke, training=replace(smoke.training, steps=2, frozen_steps=2))
    train(frozen, Places(pool, tmp_path))
    means = [t for name, t in weights(tmp_path, "weights").items() if "running_mean" in name]
    assert means
    assert all(not mean.any() for mean in means)  # as they began


def test_the_loss_falls_and_the_curve_is_written(
    smoke: Recipe, pool: Path, tmp_path: Path
) -> None:
    longer = shorter(smoke, 60)
    net = train(longer, Places(pool, tmp_path, judge=pool))
    rows = [json.loads(row) for row in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] < 1.5 + 0.2 * np.log(6)  # what an untrained network has
    assert rows[-1]["dsc"] == judge_pool(net, longer, pool)["dsc"]


def test_a_checkpoint_is_judged_by_group_and_where_nothing_is(
    smoke: Recipe, pool: Path, tmp_path: Path
) -> None:
    judging = tmp_path / "judging"
    shutil.copytree(pool, judging)
    groups = {"00000": {"group": "low load"}, "00001": {"group": "skull on"}}
    (judging / "grades.json").write_text(json.dumps(groups))
    np.save(judging / "00002.label.npy", np.load(judging / "00002.label.npy") & (2**LESION_BIT - 1))
    train(smoke, Places(pool, tmp_path / "run", judge=judging))
    rows = [json.loads(row) for row in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    scores = rows[-1]
    assert set(scores) == {"step", "dsc", "low load", "skull on", "false ml"}
    assert scores["dsc"] == pytest.approx((scores["low load"] + scores["skull on"]) / 2)


def test_patches_keep_what_lies_outside_and_miss_contrasts_whole(smoke: Recipe, pool: Path) -> None:
    source = PatchSource(smoke, pool)
    missing, alone = 0, 0
    for step in range(12):
        batch = source.batch(step)
        assert batch.image.shape == (2, 3, 32, 32, 32)
        assert batch.lesion.shape == (2, 1, 32, 32, 32)
        for image in batch.image.numpy():
            assert (image[0] >= OUTSIDE * 2).all()
            assert image[0].any()  # the FLAIR is always there
            missing += sum(not contrast.any() for contrast in image[1:])
            alone += not image[1:].any()
    assert 2 < missing < 24  # a quarter of 48
    assert alone


def test_a_contrast_has_its_own_ramp_where_another_is_missing(smoke: Recipe, pool: Path) -> None:
    nothing = (0.0,) * 3
    untouched = Patches(smoke.patches.size, ramp=nothing, drop=nothing, darker=nothing, flip=False)
    only_the_last = replace(untouched, drop=(0.0, 1.0, 0.0), ramp=(0.0, 0.0, 0.5))
    one = replace(smoke, training=replace(smoke.training, batch=1))
    plain, ramped = (PatchSource(replace(one, patches=patches), pool).batch(0).image
                     for patches in (untouched, only_the_last))
    assert torch.equal(plain[:, 0], ramped[:, 0])
    assert (ramped[:, 1] == MISSING).all()
    outside = plain[:, 2] <= OUTSIDE
    assert outside.any()
    assert (ramped[:, 2][outside] == OUTSIDE).all()
    assert not torch.equal(plain[:, 2], ramped[:, 2])


def test_what_patches_cost_is_told(
    smoke: Recipe, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = PatchSource.batch

    def slowly(source: PatchSource, step: int, part: int = 0) -> Batch:
        until = time.thread_time() + 0.5
        while time.thread_time() < until:
            pass
        return drawn(source, step, part)

    monkeypatch.setattr(PatchSource, "batch", slowly)
    monkeypatch.setattr("train.REPORT_STEPS", 6)
    train(shorter(smoke, 12), Places(pool, tmp_path))
    rows = [json.loads(row) for row in (tmp_path / "history.jsonl").read_text().splitlines()]
    shares = [row["sampling"] for row in rows if "sampling" in row]
    assert len(shares) == 2
    assert all(0.3 < share < 1.3 for share in shares)


def test_every_other_patch_is_turned_by_half_a_turn_if_asked(smoke: Recipe, pool: Path) -> None:
    nothing = (0.0,) * 3
    untouched = Patches(smoke.patches.size, ramp=nothing, drop=nothing, darker=nothing, flip=False)
    plain = replace(smoke, training=replace(smoke.training, batch=1), patches=untouched)
    turning = replace(plain, patches=replace(plain.patches, turn=True))
    turned = []
    for step in range(12):
        still, maybe = (PatchSource(recipe, pool).batch(step) for recipe in (plain, turning))
        turned.append(not torch.equal(still.image, maybe.image))
        axes = (-1, -2) if turned[-1] else ()
        assert torch.equal(still.image.flip(axes), maybe.image)
        assert torch.equal(still.lesion.flip(axes), maybe.lesion)
        assert torch.equal(still.classes.flip(axes), maybe.classes)
    assert 2 < sum(turned) < 10


def test_the_rate_rises_stays_and_falls() -> None:
    plan = Training(steps=100, batch=1, accumulate=1, rate=1.0, warmup_steps=10, anneal_steps=50,
                    frozen_steps=0, average=0.9, weight_decay=0.0, clip=1.0, seed=0, bf16=False,
                    checkpoint_s=1)
    rates = [rate_at(plan, step) for step in (0, 9, 40, 50, 75, 99)]
    assert rates == pytest.approx([0.1, 1, 1, 1, 0.5, 0.02])


def test_the_exported_graph_answers_as_pytorch(smoke: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for network in (smoke.network, replace(smoke.network, outputs=4, side_outputs=0,
                                           normalisation="instance")):
        net = FCDenseNet(network).eval()
        torch.nn.init.normal_(net.head.weight, std=0.5)
        assert export(net, tmp_path / "model.onnx", Asking(temperature=1.3, shift=-0.4)) < TOLERANCE


def test_the_manifest_tells_the_golden_answer(smoke: Recipe, tmp_path: Path) -> None:
    import tomllib

    net = FCDenseNet(smoke.network).eval()
    export(net, tmp_path / "model.onnx")
    text = description(smoke, "1.2.3", "0" * 64, Rule(0.4, 0.006),
                       golden_table(tmp_path / "model.onnx", smoke))
    manifest = tomllib.loads(text)
    image = golden_image(tuple(manifest["golden"]["peaks"]))
    with torch.no_grad():
        probability = net(torch.from_numpy(image)[None])[0, 0].sigmoid().numpy()  # (k, j, i)
    for row in manifest["golden"]["expected"]:
        i, j, k = row["at"]
        assert probability[k, j, i] == pytest.approx(row["probability"], abs=1e-4)
    assert manifest["output"]["threshold"] == 0.4
    assert manifest["version"] == "1.2.3"


def test_an_exported_model_says_what_the_checkpoint_says_asked_alike(
    smoke: Recipe, tmp_path: Path
) -> None:
    import tomllib

    net = FCDenseNet(smoke.network).eval()
    torch.nn.init.normal_(net.head.weight, std=0.5)
    asking = Asking(flips=True, temperature=1.3, shift=-0.4)
    write_model(net, smoke, tmp_path, "1.2.3", Rule(0.6, 0.006), asking)
    manifest = tomllib.loads((tmp_path / "model.toml").read_text())
    assert manifest["output"]["threshold"] == 0.6
    assert manifest["patches"]["flips"] is True
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 24, 28, 20)).astype(np.float32)
    brain = np.zeros(image.shape[1:], bool)
    brain[5:19, 6:22, 5:15] = True
    exported = Exported(tmp_path / "model.onnx")
    said = lesion_probability(net, image, brain, asking)
    again = lesion_probability(exported, image, brain, Asking(flips=True))
    assert np.abs(said - again).max() < 0.02  # bfloat16 on one side


def test_kept_weights_are_half_as_large_and_start_another_run(
    smoke: Recipe, pool: Path, tmp_path: Path
) -> None:
    train(shorter(smoke, 2), Places(pool, tmp_path / "run"))
    keep(tmp_path / "run" / "weights.pt", tmp_path / "kept.pt")
    full, _ = averaged_network(tmp_path / "run" / "weights.pt")
    kept, _ = averaged_network(tmp_path / "kept.pt")
    image = torch.randn(1, 3, 32, 32, 32)
    with torch.no_grad():
        assert np.abs((full(image) - kept(image)).numpy()).max() < 0.02
    other = FCDenseNet(smoke.network)
    start_from(other, tmp_path / "kept.pt")
    assert (tmp_path / "kept.pt").stat().st_size < (tmp_path / "run" / "weights.pt").stat().st_size
