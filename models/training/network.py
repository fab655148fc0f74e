"""The paper's network: a 3D fully convolutional DenseNet in which every size is a parameter.

Hashemi et al., IEEE Access 7 (2019), figure 1 and table 1, after Jegou et al. (2017). `PAPER` has the
paper's sizes; `LESION` and `ANATOMY` are the smaller instances that two CPU cores can train. The
network answers with logits: the losses want them, and export adds the sigmoid or softmax.
It knows nothing of contrasts, spacing or normalisation; those are the recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Everything that can be chosen about the network."""

    inputs: int = 3
    """Channels of the image: one per contrast."""
    outputs: int = 1
    """Channels of the logits."""
    side_outputs: int = 0
    """Further logits for a side task; export drops them."""
    growth: int = 12
    """Maps that each dense layer adds."""
    layers: tuple[int, ...] = (4, 4, 4, 4, 4, 4)
    """Dense layers per block on the way down; the last entry is the middle block."""
    first: int = 48
    """Maps after the stem."""
    stem: int = 3
    """3x3x3 convolutions in the stem."""
    bottleneck: int = 4
    """Maps of the 1x1x1 convolution before each 3x3x3 one, in units of growth; 0 leaves it out."""
    compression: float = 0.5
    """Share of the maps that a transition down keeps."""
    dropout: float = 0.2
    up_kernel: Literal[2, 3] = 3
    """Kernel of the transposed convolutions on the way up."""
    entry_stride: Literal[1, 2] = 1
    """2: the dense blocks work at half the image's grid, as in the paper's compact form."""
    normalisation: Literal["batch", "instance"] = "batch"
    """The paper's BN; or statistics of each image by itself, for images of any contrast."""

    @property
    def levels(self) -> int:
        return len(self.layers) - 1

    @property
    def multiple(self) -> int:
        """Every axis of an image must be a multiple of this."""
        return self.entry_stride * 2**self.levels


PAPER = Sizes()
"""11 dense blocks of 4 layers, growth 12, 48 first maps, 5 poolings."""
COMPACT = replace(PAPER, inputs=4, growth=16, layers=(5,) * 6, entry_stride=2)
"""The form that the authors released: 128^3 patches, blocks at half the grid."""
LESION = Sizes(growth=16, layers=(2, 3, 4, 4), first=16, stem=1, bottleneck=0, dropout=0.0,
               up_kernel=2, entry_stride=2, side_outputs=6)
ANATOMY = replace(LESION, inputs=1, outputs=10, side_outputs=0, layers=(2, 2, 3, 3), first=15,
                  normalisation="instance")


def convolution(maps_in: int, maps_out: int, kernel: int) -> nn.Conv3d:
    return nn.Conv3d(maps_in, maps_out, kernel, padding=kernel // 2, bias=False)


def normalisation(maps: int, sizes: Sizes) -> nn.Module:
    if sizes.normalisation == "batch":
        return nn.BatchNorm3d(maps)
    return ImageNorm(maps)


class ImageNorm(nn.InstanceNorm3d):
    """Instance normalisation. One image by itself is a batch of its own: BatchNorm's kernel gives the
    same numbers and keeps the layout, which saves a quarter of a training step on CPUs."""

    def __init__(self, maps: int) -> None:
        super().__init__(maps, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export() and len(x) == 1:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(x)


class DenseLayer(nn.Module):
    """[BN, ReLU, 1x1x1 convolution,] BN, ReLU, 3x3x3 convolution to `growth` maps, dropout."""

    def __init__(self, maps: int, sizes: Sizes) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        if sizes.bottleneck:
            wide = sizes.bottleneck * sizes.growth
            steps += [normalisation(maps, sizes), nn.ReLU(True), convolution(maps, wide, 1)]
            maps = wide
        steps += [normalisation(maps, sizes), nn.ReLU(True), convolution(maps, sizes.growth, 3)]
        if sizes.dropout:
            steps.append(nn.Dropout3d(sizes.dropout))
        self.f = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)  # (n, growth, k, j, i)


class DenseBlock(nn.Module):
    """Every layer sees the maps of all before it; gives (all maps, only the new ones)."""

    def __init__(self, maps: int, layers: int, sizes: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(maps + done * sizes.growth, sizes) for done in range(layers)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        new: list[Tensor] = []
        for layer in self.layers:
            new.append(layer(torch.cat([x, *new], 1)))
        made = torch.cat(new, 1)  # (n, layers * growth, k, j, i)
        return torch.cat([x, made], 1), made


class TransitionUp(nn.Module):
    """Transposed convolution of stride 2, ReLU."""

    def __init__(self, maps: int, kernel: int) -> None:
        super().__init__()
        self.f = nn.ConvTranspose3d(
            maps, maps, kernel, stride=2, padding=(kernel - 1) // 2, output_padding=kernel % 2
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.f(x))  # (n, c, 2k, 2j, 2i)


class FCDenseNet(nn.Module):
    """Down path, middle block, up path with skip connections; logits on the image's grid."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        maps = sizes.first
        self.stem = self._stem()
        # Down: dense block, keep its maps as the skip, then BN, ReLU, 1x1x1 convolution, pooling.
        self.down, self.trans = nn.ModuleList(), nn.ModuleList()
        skips = []
        for layers in sizes.layers[:-1]:
            self.down.append(DenseBlock(maps, layers, sizes))
            maps += sizes.growth * layers
            skips.append(maps)
            kept = int(maps * sizes.compression)
            self.trans.append(nn.Sequential(
                normalisation(maps, sizes), nn.ReLU(True), convolution(maps, kept, 1), nn.MaxPool3d(2)
            ))
            maps = kept
        self.mid = DenseBlock(maps, sizes.layers[-1], sizes)
        # Up: only the maps that the last block made go up; the skip joins them.
        self.up, self.upblock = nn.ModuleList(), nn.ModuleList()
        made = sizes.growth * sizes.layers[-1]
        for layers, skip in zip(reversed(sizes.layers[:-1]), reversed(skips), strict=True):
            self.up.append(TransitionUp(made, sizes.up_kernel))
            maps = made + skip
            self.upblock.append(DenseBlock(maps, layers, sizes))
            made = sizes.growth * layers
            maps += made
        self.tail = nn.Sequential(normalisation(maps, sizes), nn.ReLU(True))
        if sizes.entry_stride == 2:  # back to the image's grid, where the image itself joins
            self.expand = nn.Sequential(nn.ConvTranspose3d(maps, sizes.first, 2, stride=2),
                                        nn.ReLU(True))
            maps = max(sizes.first // 2, 8)
            self.refine = convolution(sizes.first + sizes.inputs, maps, 3)
        self.head = nn.Conv3d(maps, sizes.outputs + sizes.side_outputs, 1)
        self._initialise()

    def _stem(self) -> nn.Sequential:
        sizes = self.sizes
        steps: list[nn.Module] = []
        maps = sizes.inputs
        if sizes.entry_stride == 2:
            steps += [nn.Conv3d(maps, sizes.first, 2, stride=2), nn.ReLU(True)]
            maps = sizes.first
        for n in range(sizes.stem):
            if n:
                steps += [normalisation(maps, sizes), nn.ReLU(True)]
            steps.append(convolution(maps, sizes.first, 3))
            maps = sizes.first
        return nn.Sequential(*steps)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        if self.sizes.outputs == 1 and self.head.bias is not None:
            nn.init.constant_(self.head.bias, -3.0)  # lesions are rare: start near zero

    def forward(self, image: Tensor) -> Tensor:  # (n, c, k, j, i)
        x, skips = self.stem(image), []
        for block, transition in zip(self.down, self.trans, strict=True):
            x, _ = block(x)
            skips.append(x)
            x = transition(x)  # (n, c', k/2, j/2, i/2)
        _, made = self.mid(x)
        for up, block in zip(self.up, self.upblock, strict=True):
            x, made = block(torch.cat([up(made), skips.pop()], 1))
        x = self.tail(x)
        if self.sizes.entry_stride == 2:
            x = F.relu(self.refine(torch.cat([self.expand(x), image], 1)))
        return self.head(x)  # (n, outputs + side_outputs, k, j, i)

    def freeze_statistics(self) -> None:
        """Trains on with the running averages of BatchNorm as they stand."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()


def channels_last(net: FCDenseNet) -> FCDenseNet:
    """The same network with its weights laid out as CPUs like them: twice as fast in bfloat16."""
    return net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def receptive_field(sizes: Sizes) -> int:
    """Voxels per axis of the image that can change one voxel of the logits, at the most.

    Along the deepest path: a convolution of kernel k adds (k - 1) steps of the grid it works on.
    """
    step, field = 1, 1
    if sizes.entry_stride == 2:
        field, step = field + step, 2
    field += 2 * step * sizes.stem
    for layers in sizes.layers[:-1]:
        field += 2 * step * layers
        field, step = field + step, step * 2  # pooling
    field += 2 * step * sizes.layers[-1]
    for layers in reversed(sizes.layers[:-1]):
        field += step if sizes.up_kernel == 3 else 0
        step //= 2
        field += 2 * step * layers
    if sizes.entry_stride == 2:
        field += 2  # the 3x3x3 convolution on the image's grid
    return field


def gflop(sizes: Sizes, edge: int = 64) -> float:
    """Multiply-adds times two of all convolutions, for one cubic patch."""
    net = FCDenseNet(sizes).eval()
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv3d):
            total += 2 * made.numel() * module.in_channels * module.kernel_size[0] ** 3
        elif isinstance(module, nn.ConvTranspose3d):
            total += 2 * inputs[0].numel() * module.out_channels * module.kernel_size[0] ** 3

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        net(torch.zeros(1, sizes.inputs, edge, edge, edge))
    return total / 1e9
