import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import compare
from cases import Case
from evaluate import graded
from measures import Rule
from normalise import MISSING, OUTSIDE
from predict import ONE_LOOK, Asking, Exported, lesion_logits


class SaysFlair(Exported):
    """Says at each voxel what its FLAIR says, so that every patch agrees with every other."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.sizes = SimpleNamespace(multiple=16, outputs=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1]


def case(shape: tuple[int, int, int]) -> Case:
    rng = np.random.default_rng(4)
    brain = np.zeros(shape, bool)
    brain[5:-3, 4:-9, 7:-6] = True
    image = np.full((3, *shape), MISSING, np.float32)
    image[0] = rng.normal(size=shape)
    return Case("x", image, brain & (image[0] > 2), brain)


def test_patches_that_agree_vote_for_what_they_say() -> None:
    one = case((90, 120, 80))
    for asking in (ONE_LOOK, Asking(flips=True, temperature=2.0, shift=-1.0)):
        for overlap in compare.OVERLAPS:
            logits = one.image[0] / asking.temperature + asking.shift
            wanted = np.where(one.brain, 1 / (1 + np.exp(-logits)), 0)
            for probability in compare.voted(SaysFlair(), one, overlap, asking).values():
                assert np.allclose(probability, wanted, atol=2e-2)  # bf16 on the way


def test_heads_without_lesions_are_told_together(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = np.zeros((32, 32, 32), np.uint8)
    label[8:24, 8:24, 8:24] = 1
    for n, bright_voxels in enumerate((0, 27, 8)):
        image = np.where(label > 0, -1, OUTSIDE)[None].repeat(3, 0).astype(np.float16)
        image[0][np.unravel_index(np.flatnonzero(label)[:bright_voxels], label.shape)] = 1
        np.save(tmp_path / f"{n:05d}.image.npy", image)
        np.save(tmp_path / f"{n:05d}.label.npy", label)
    listed = {f"{n:05d}": {"load_ml": 0.0, "slices_mm": 1.0 + 2 * (n == 2)} for n in range(3)}
    (tmp_path / "grades.json").write_text(json.dumps(listed))
    graded(SaysFlair(), tmp_path, Rule(0.5, 0.003), ONE_LOOK)
    told = capsys.readouterr().out
    assert "lesion-free, n = 3: nothing found in 1, median 0.008 ml, most 0.027 ml" in told, told


def test_the_weights_are_those_of_the_service() -> None:
    along = compare._along_axis()["B-spline"]
    half = compare.PATCH // 2
    assert np.allclose(along[:half] + along[half:], 1)
    assert along[0] < 1e-3 and along.argmax() in (half - 1, half)
    window = compare._window(along)
    for axis in range(3):
        assert window.take([0, -1], axis).max() < 1e-3


def test_a_probability_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    p = rng.random(200_000)
    voxels, mean, share = compare._reliability(p, rng.random(len(p)) < p)
    assert voxels.sum() == len(p)
    assert np.abs(mean - share).max() < 0.02
    _, mean, share = compare._reliability(p, rng.random(len(p)) < p**2)
    assert np.abs(mean - share).max() > 0.1


def test_the_scaling_that_made_the_truth_is_found() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(0, 4, (1, 200_000)).astype(np.float32)
    truth = rng.random(z.shape[1]) < 1 / (1 + np.exp(-(z[0] / 1.6 - 0.9)))
    found = compare._fitted([[compare.Said(torch.from_numpy(z), truth)]], flips=False)
    assert abs(found.temperature - 1.6) < 0.05
    assert abs(found.shift + 0.9) < 0.05


def test_a_second_look_is_turned_and_turned_back() -> None:
    class Ramp(Exported):
        """Says of a voxel what it shows, less where it lies: another thing once turned."""

        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.sizes = SimpleNamespace(multiple=4, outputs=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            j = torch.arange(image.shape[-2])[:, None]
            return image[:, :1] - torch.arange(image.shape[-1]) - 2 * j

    image = np.random.default_rng(0).normal(size=(1, 12, 13, 14)).astype(np.float32)
    brain = np.zeros(image.shape[1:], bool)
    brain[4:8, 4:9, 4:10] = True  # with its margin of 4: all of the image
    box, (first, second) = lesion_logits(Ramp(), image, brain, flips=True)
    seen, ramp = image[0][box], 2 * np.arange(13)[:, None] + np.arange(14)
    assert np.allclose(first.numpy(), seen - ramp, atol=0.2)  # bfloat16
    assert np.allclose(second.numpy(), seen - ramp[::-1, ::-1], atol=0.2)
