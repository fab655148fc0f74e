"""The losses that the paper compares, as sums that a recipe names.

Each takes logits and truth, both `(n, c, k, j, i)` with the truth one-hot (c = 1: lesion or not), and
gives one number. Where MONAI has a loss it is MONAI's, with the arguments that make it the paper's; the
asymmetric similarity loss is written out, since it is what the paper is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss, GeneralizedDiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor

Kind = Literal["asymmetric", "tversky", "dice", "generalised_dice", "focal", "cross_entropy", "union"]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Term:
    """One summand of a loss, as a recipe writes it."""

    kind: Kind
    weight: float = 1.0
    beta: float = 1.5
    """asymmetric: recall counts beta^2 times as much as precision."""
    false_positives: float = 0.3
    """tversky: weight of false positives; false negatives get the rest of 1."""
    gamma: float = 2.0
    """focal: how fast well-classified voxels lose their say."""
    lesion_weight: float = 1.0
    """cross_entropy on one channel: what a lesion voxel counts against any other."""
    classes: tuple[int, ...] = ()
    """union: the classes that are taken together."""
    smooth: float = 1.0
    """asymmetric, tversky, dice, union: voxels added above and below, so that an empty patch has a loss
    and a gradient."""


def sum_of(terms: tuple[Term, ...]) -> Loss:
    """The weighted sum of all terms."""
    parts = [(term.weight, _loss(term)) for term in terms]

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        return torch.stack([weight * part(logits, truth) for weight, part in parts]).sum()

    return loss


def probabilities(logits: Tensor) -> Tensor:
    """Sigmoid of one channel, softmax over several."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def asymmetric_similarity(
    logits: Tensor, truth: Tensor, beta: float = 1.5, smooth: float = 1.0
) -> Tensor:
    """1 - F_beta, the paper's equation 5, for each patch and class, then their mean.

    F_beta = (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP); dividing by 1 + b^2 gives Tversky's index with
    alpha = 1 / (1 + b^2) for false positives and b^2 / (1 + b^2) for false negatives.
    """
    p = probabilities(logits)
    space = (2, 3, 4)
    hits = (p * truth).sum(space)  # (n, c)
    false = (p * (1 - truth)).sum(space)
    missed = ((1 - p) * truth).sum(space)
    recall_share = beta**2 / (1 + beta**2)
    weighted = hits + (1 - recall_share) * false + recall_share * missed
    return (1 - (hits + smooth) / (weighted + smooth)).mean()


def generalised_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Each class weighs by one over the square of its volume (Sudre et al. 2017); what is no lesion is
    a class too, since the weight of a single one would cancel."""
    p = probabilities(logits)
    if logits.shape[1] == 1:
        p, truth = torch.cat([1 - p, p], 1), torch.cat([1 - truth, truth], 1)
    loss: Tensor = GeneralizedDiceLoss()(p, truth)
    return loss


def cross_entropy(logits: Tensor, truth: Tensor, lesion_weight: float = 1.0) -> Tensor:
    if logits.shape[1] == 1:
        weight = torch.tensor(lesion_weight)
        return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
    return F.cross_entropy(logits, truth.argmax(1))


def union(logits: Tensor, truth: Tensor, classes: tuple[int, ...], smooth: float = 1.0) -> Tensor:
    """Dice and cross entropy of several classes taken together: where the brain ends matters more
    than which of its parts ends there."""
    inside = torch.zeros(logits.shape[1], dtype=torch.bool)
    inside[list(classes)] = True
    together = logits[:, inside].logsumexp(1) - logits[:, ~inside].logsumexp(1)  # (n, k, j, i)
    true, p = truth[:, inside].sum(1), together.sigmoid()
    hits, all_of = 2 * (p * true).sum() + smooth, (p + true).sum() + smooth
    return 1 - hits / all_of + F.binary_cross_entropy_with_logits(together, true)


def _loss(term: Term) -> Loss:
    def region(name: Callable[..., torch.nn.Module], **arguments: float) -> Loss:
        def loss(logits: Tensor, truth: Tensor) -> Tensor:
            many = logits.shape[1] > 1
            return name(sigmoid=not many, softmax=many, **arguments)(logits, truth)

        return loss

    def focal(logits: Tensor, truth: Tensor) -> Tensor:
        many = logits.shape[1] > 1
        alpha = None if many else 0.25  # softmax has no background to weigh against
        return FocalLoss(gamma=term.gamma, alpha=alpha, use_softmax=many)(logits, truth)

    smooth = {"smooth_nr": term.smooth, "smooth_dr": term.smooth}
    match term.kind:
        case "asymmetric":
            return partial(asymmetric_similarity, beta=term.beta, smooth=term.smooth)
        case "tversky":
            alpha = term.false_positives
            return region(TverskyLoss, alpha=alpha, beta=1 - alpha, **smooth)
        case "dice":
            return region(DiceLoss, **smooth)
        case "generalised_dice":
            return generalised_dice
        case "focal":
            return focal
        case "union":
            return partial(union, classes=term.classes, smooth=term.smooth)
        case "cross_entropy":
            return partial(cross_entropy, lesion_weight=term.lesion_weight)
