from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

import compare
from cases import Case
from normalise import MISSING
from predict import Exported


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
    for overlap in compare.OVERLAPS:
        for probability in compare.voted(SaysFlair(), one, overlap).values():
            wanted = np.where(one.brain, 1 / (1 + np.exp(-one.image[0])), 0)
            assert np.allclose(probability, wanted, atol=2e-2)  # bf16 on the way


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
