"""Losses against cases worked out by hand, against MONAI and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses.tversky import TverskyLoss
from torch import Tensor

from losses import Kind, Term, asymmetric_similarity, sum_of, union

SURE = 40.0
"""A logit whose sigmoid is 0 or 1 to the last bit."""


def patch(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 1, -1)


def by_hand(hits: float, false: float, missed: float, beta: float, smooth: float) -> float:
    """1 - F_beta with `smooth` above and below, from counts of voxels."""
    alpha = 1 / (1 + beta**2)
    return 1 - (hits + smooth) / (hits + alpha * false + (1 - alpha) * missed + smooth)


def test_the_asymmetric_loss_counts_misses_more_than_false_alarms() -> None:
    truth = patch([1, 1, 1, 1, 0, 0, 0, 0])
    missed = patch([SURE] * 3 + [-SURE] * 5)
    false = patch([SURE] * 5 + [-SURE] * 3)
    assert asymmetric_similarity(missed, truth, 1.5) == pytest.approx(by_hand(3, 0, 1, 1.5, 1))
    assert asymmetric_similarity(false, truth, 1.5) == pytest.approx(by_hand(4, 1, 0, 1.5, 1))
    assert asymmetric_similarity(missed, truth, 1.5) > asymmetric_similarity(false, truth, 1.5)


def test_f_beta_written_out_is_the_same_loss() -> None:
    hits, false, missed, b2 = 3.0, 2.0, 1.0, 1.5**2
    f_beta = (1 + b2) * hits / ((1 + b2) * hits + b2 * missed + false)
    assert by_hand(hits, false, missed, 1.5, 0) == pytest.approx(1 - f_beta)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
def test_the_papers_formula_agrees_with_monai(beta: float) -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 1, 4, 4, 4), (torch.rand(2, 1, 4, 4, 4) > 0.7).float()
    alpha = 1 / (1 + beta**2)
    theirs = TverskyLoss(sigmoid=True, alpha=alpha, beta=1 - alpha, smooth_nr=1.0, smooth_dr=1.0)
    assert asymmetric_similarity(logits, truth, beta) == pytest.approx(theirs(logits, truth).item())


def test_dice_focal_and_cross_entropy_of_two_voxels() -> None:
    truth, logits = patch([1, 0]), patch([0, 0])  # both probabilities are 1/2
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert sum_of((Term("dice"),))(logits, truth).item() == pytest.approx(dice)
    assert sum_of((Term("cross_entropy"),))(logits, truth).item() == pytest.approx(math.log(2))
    weighted = sum_of((Term("cross_entropy", lesion_weight=3.0),))(logits, truth).item()
    assert weighted == pytest.approx(2 * math.log(2))
    focal = (0.25 + 0.75) / 2 * 0.5**2 * math.log(2)
    assert sum_of((Term("focal"),))(logits, truth).item() == pytest.approx(focal)


def test_generalised_dice_weighs_both_classes_by_their_volume() -> None:
    truth = patch([1, 0, 0, 0, 0])
    generalised = sum_of((Term("generalised_dice"),))
    assert generalised((truth * 2 - 1) * SURE, truth).item() < 1e-4
    # All probabilities are 1/2: hits and sizes of one lesion voxel and of four others.
    lesion, other = 1 / 1**2, 1 / 4**2
    hits = lesion * 0.5 + other * 2
    sizes = lesion * (1 + 2.5) + other * (4 + 2.5)
    assert generalised(patch([0] * 5), truth).item() == pytest.approx(1 - 2 * hits / sizes, abs=1e-4)


@pytest.mark.parametrize("false_positives", [0.2, 0.5, 0.7])
def test_tversky_weighs_what_is_false_and_what_is_missed(false_positives: float) -> None:
    truth, logits = patch([1, 1, 0, 0, 0]), patch([0, 1, -1, 0, 2])
    p, true = torch.sigmoid(logits), truth.bool()
    hits, false, missed = p[true].sum(), p[~true].sum(), (1 - p[true]).sum()
    index = (hits + 1) / (hits + false_positives * false + (1 - false_positives) * missed + 1)
    found = sum_of((Term("tversky", false_positives=false_positives),))(logits, truth).item()
    assert found == pytest.approx(1 - index.item(), abs=1e-6)


def test_an_empty_patch_still_pulls_probabilities_down() -> None:
    logits = torch.zeros(1, 1, 4, 4, 4, requires_grad=True)
    sum_of((Term("asymmetric", smooth=20.0),))(logits, torch.zeros(1, 1, 4, 4, 4)).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_a_union_forgives_which_of_its_classes_it_was() -> None:
    truth = torch.zeros(1, 3, 1, 1, 2)
    truth[0, 1, ..., 0] = truth[0, 0, ..., 1] = 1
    other = torch.zeros(1, 3, 1, 1, 2)
    other[0, 2, ..., 0] = other[0, 0, ..., 1] = SURE  # class 2 where 1 is true
    assert union(other, truth, (1, 2)).item() == pytest.approx(0, abs=1e-6)
    assert union(other, truth, (1,)).item() > 1
    even = torch.zeros(1, 3, 1, 1, 2)  # the union has 2/3 everywhere
    dice = 1 - (2 * 2 / 3 + 1) / (4 / 3 + 1 + 1)
    entropy = -(math.log(2 / 3) + math.log(1 / 3)) / 2
    assert union(even, truth, (1, 2)).item() == pytest.approx(dice + entropy)


def test_a_sum_weighs_its_terms() -> None:
    truth, logits = patch([1, 0, 0]), patch([0.3, -0.2, 0.8])
    both = sum_of((Term("dice", weight=2.0), Term("tversky", weight=0.5)))(logits, truth)
    dice, tversky = (sum_of((Term(kind),))(logits, truth) for kind in ("dice", "tversky"))
    assert both.item() == pytest.approx((2 * dice + 0.5 * tversky).item())


@pytest.mark.parametrize("kind", [
    "asymmetric", "tversky", "dice", "generalised_dice", "focal", "cross_entropy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_those_of_finite_differences(kind: Kind, channels: int) -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, channels, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    classes = torch.randint(0, max(channels, 2), (1, 2, 2, 2))
    truth = classes[:, None].double() if channels == 1 else (
        torch.nn.functional.one_hot(classes, channels).movedim(-1, 1).double())
    loss_of = sum_of((Term(kind),))
    # Steps of 1 %, since MONAI's focal loss works in single precision whatever it is given.
    assert torch.autograd.gradcheck(lambda z: loss_of(z, truth).double(), (logits,), eps=1e-2,
                                    atol=3e-3, rtol=1e-2)
