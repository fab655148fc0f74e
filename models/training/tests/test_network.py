"""The network has the paper's sizes, sees as far as it says, and learns one patch by heart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from losses import Term, sum_of
from network import (
    ANATOMY,
    COMPACT,
    LESION,
    PAPER,
    FCDenseNet,
    ImageNorm,
    Sizes,
    gflop,
    n_parameters,
    receptive_field,
)

TINY = Sizes(inputs=1, growth=4, layers=(1, 2), first=4, stem=1, bottleneck=0, dropout=0.0)


@pytest.mark.parametrize(("sizes", "parameters"), [
    (PAPER, 1_394_065), (replace(PAPER, bottleneck=0), 2_036_977), (COMPACT, 3_410_965),
    (LESION, 1_041_543), (ANATOMY, 598_898)])
def test_the_sizes_of_the_paper_have_the_parameters_that_they_must_have(
    sizes: Sizes, parameters: int
) -> None:
    assert n_parameters(FCDenseNet(sizes)) == parameters


def test_the_paper_has_eleven_blocks_of_four_layers() -> None:
    net = FCDenseNet(PAPER)
    blocks = [*net.down, net.mid, *net.upblock]
    assert len(blocks) == 11
    assert all(len(block.layers) == 4 for block in blocks)


@pytest.mark.parametrize("sizes", [PAPER, COMPACT, LESION, ANATOMY])
def test_logits_have_the_grid_of_the_image(sizes: Sizes) -> None:
    edge = sizes.multiple
    net = FCDenseNet(replace(sizes, growth=4, first=4, layers=tuple(1 for _ in sizes.layers))).eval()
    logits = net(torch.zeros(2, sizes.inputs, edge, 2 * edge, edge))
    assert logits.shape == (2, sizes.outputs + sizes.side_outputs, edge, 2 * edge, edge)


@pytest.mark.parametrize("sizes", [
    TINY, replace(TINY, entry_stride=2, up_kernel=2), replace(TINY, stem=3, bottleneck=2),
    replace(TINY, layers=(1, 1, 1), up_kernel=2)])
def test_no_voxel_sees_farther_than_the_receptive_field(sizes: Sizes) -> None:
    net = FCDenseNet(sizes).eval()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1)  # nothing cancels, no ReLU blocks
    edge = 96
    widest = 0
    for voxel in range(edge // 2, edge // 2 + sizes.multiple):
        image = torch.ones(1, 1, 16, 16, edge, requires_grad=True)
        logits = net(image)
        (gradient,) = torch.autograd.grad(logits[0, 0, 8, 8, voxel], image)
        seen = torch.nonzero(gradient.abs().sum((0, 1, 2, 3)))
        widest = max(widest, int(seen.max() - seen.min()) + 1)
    assert widest <= receptive_field(sizes)
    assert widest >= receptive_field(sizes) - 2 * sizes.multiple  # max pooling picks one of two


@pytest.mark.parametrize(("sizes", "voxels"), [
    (PAPER, 852), (COMPACT, 2082), (LESION, 342), (ANATOMY, 262)])
def test_how_far_each_network_sees_is_known(sizes: Sizes, voxels: int) -> None:
    assert receptive_field(sizes) == voxels


@pytest.mark.parametrize(("sizes", "cost"), [(PAPER, 175.6), (COMPACT, 68.0), (LESION, 13.7)])
def test_what_a_patch_costs_is_known(sizes: Sizes, cost: float) -> None:
    assert gflop(replace(sizes, side_outputs=0)) == pytest.approx(cost, abs=0.1)


def test_one_patch_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    sizes = replace(TINY, inputs=2, growth=8, first=8, entry_stride=2, up_kernel=2)
    net, loss_of = FCDenseNet(sizes), sum_of((Term("asymmetric"), Term("cross_entropy")))
    image = torch.randn(1, 2, 16, 16, 16)
    truth = torch.zeros(1, 1, 16, 16, 16)
    truth[..., 5:9, 4:10, 6:11] = 1
    image[:, :1] += 3 * truth
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = loss_of(net(image), truth)
        loss.backward()
        optimiser.step()
    found = net(image) > 0
    assert 2 * (found * truth).sum() / (found.sum() + truth.sum()) > 0.97


def test_an_image_is_normalised_alike_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    norm = ImageNorm(3)
    torch.nn.init.normal_(norm.weight)
    both = torch.randn(2, 3, 4, 5, 6)
    alone = torch.cat([norm(image) for image in both.split(1)])
    assert torch.allclose(alone, norm(both), atol=1e-6)
