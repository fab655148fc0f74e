"""Whole scans through a network: probability of lesions, or the ten anatomy classes."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import onnxruntime
import torch
from nibabel.processing import resample_from_to
from scipy import ndimage
from torch import Tensor, nn

from arrays import Array, turned
from network import FCDenseNet
from normalise import MISSING, OUTSIDE, whole_head
from randomised import CLASSES, SPACING_MM

BRAIN = ("cortex", "white matter", "deep grey", "ventricles", "brainstem", "cerebellum", "lesion")
_TISSUE = [CLASSES.index(name) for name in BRAIN]
_OUTER_CSF = CLASSES.index("other csf")
BOX_ABOVE = 0.1
"""Normalised intensity from which a voxel belongs to the head's box."""
STRIPPED_BELOW = 0.25
"""Share of scalp in the head below which a scan counts as stripped."""
AIR = 8
"""Voxels of air that a stripped scan is given on every side."""
CSF_WITHIN_MM = 2.0
"""Outer CSF this near to tissue belongs to the brain mask."""
STRIPPED_CSF_WITHIN_MM = 100.0
"""The same in a stripped scan: whoever stripped it drew the line, and all that is left belongs."""


class Exported(nn.Module):
    """An exported lesion network with its `model.toml` beside it, asked as one that trains is asked."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        described = tomllib.loads((path.parent / "model.toml").read_text())
        self.sizes = SimpleNamespace(multiple=described["input"]["multiple"], outputs=1)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> Tensor:
        (probability,) = self.session.run(None, {"image": image.contiguous().numpy()})
        return torch.logit(torch.from_numpy(probability))


def logits_of(net: FCDenseNet | Exported, image: Array, filling: Array) -> Tensor:
    """Pads `(c, k, j, i)` at its far ends to the network's multiple; gives logits of the image."""
    shape, multiple = image.shape[1:], net.sizes.multiple
    padded = np.empty((len(image), *[-(-n // multiple) * multiple for n in shape]), np.float32)
    padded[:] = filling[:, None, None, None]
    box = tuple(slice(0, n) for n in shape)
    padded[(slice(None), *box)] = image
    batch = torch.from_numpy(padded)[None].contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(batch)[0].float()  # (outputs + side_outputs, k, j, i)
    return logits[(slice(net.sizes.outputs), *box)]


@dataclass(frozen=True)
class Asking:
    """How a lesion network is asked, and how its logits become probabilities.

    `flips` asks a second time, the head turned by half a turn about its long axis, and takes the mean.
    """

    flips: bool = False
    temperature: float = 1.0
    shift: float = 0.0

    @staticmethod
    def add_options(options: argparse.ArgumentParser) -> None:
        options.add_argument("--flips", action="store_true", help="look again, turned by half a turn")
        options.add_argument("--temperature", type=float, default=1.0, help="logits are divided by it")
        options.add_argument("--shift", type=float, default=0.0, help="added to the logits then")

    @staticmethod
    def given(options: argparse.Namespace) -> Asking:
        return Asking(options.flips, options.temperature, options.shift)

    def as_options(self) -> list[str]:
        """What `given` reads, to two decimals."""
        flips = ["--flips"] if self.flips else []
        return [*flips, f"--temperature={self.temperature:.2f}", f"--shift={self.shift:.2f}"]

    def __str__(self) -> str:
        looks = "two looks" if self.flips else "one look"
        return f"{looks}, temperature {self.temperature:g}, shift {self.shift:g}"

    def probability(self, logits: list[Tensor]) -> Tensor:
        """What the looks say together."""
        each = [torch.sigmoid(z / self.temperature + self.shift) for z in logits]
        return torch.stack(each).mean(0)


ONE_LOOK = Asking()


def keep_options(options: list[str], path: Path) -> None:
    """Writes options into a file, one on each line, for `@FILE` to stand for them."""
    path.write_text("\n".join(options) + "\n")


def with_files_read(words: list[str]) -> Iterator[str]:
    """The words of a command, those that a file keeps in the place of its `@FILE`."""
    for word in words:
        if not word.startswith("@"):
            yield word
            continue
        try:
            yield from Path(word[1:]).read_text().split()
        except OSError as failure:
            raise SystemExit(f"{word}: {failure.strerror}") from failure


def lesion_probability(net: FCDenseNet | Exported, image: Array, brain: Array,
                       asking: Asking = ONE_LOOK) -> Array:
    """The probability on the grid of `image`; 0 outside the brain."""
    box, logits = lesion_logits(net, image, brain, flips=asking.flips)
    probability = np.zeros(brain.shape, np.float32)
    probability[box] = asking.probability(logits).numpy()
    return probability * brain


def lesion_logits(net: FCDenseNet | Exported, image: Array, brain: Array, *,
                  flips: bool) -> tuple[tuple[slice, ...], list[Tensor]]:
    """The brain's box, and what one or two looks at it say."""
    margin = 4
    spans = ndimage.find_objects(brain.astype(np.uint8))[0]
    box = tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in spans)
    cut = image[(slice(None), *box)]
    filling = np.array([OUTSIDE if contrast.any() else MISSING for contrast in cut])
    return box, looks_at(net, cut, filling, flips=flips)


def looks_at(net: FCDenseNet | Exported, image: Array, filling: Array, *,
             flips: bool) -> list[Tensor]:
    """Logits `(k, j, i)` of one look at `(c, k, j, i)`, or of two."""
    looks = [logits_of(net, image, filling)[0]]
    if flips:
        looks.append(logits_of(net, np.ascontiguousarray(turned(image)), filling)[0].flip(1, 2))
    return looks


@dataclass(frozen=True)
class Looked:
    """What the network says about an image."""

    probability: Array
    """`(c, k, j, i)`."""
    scalp: float
    """How much of what is brighter than air it takes for scalp."""

    @property
    def stripped(self) -> bool:
        return self.scalp < STRIPPED_BELOW

    @property
    def csf_within_mm(self) -> float:
        return STRIPPED_CSF_WITHIN_MM if self.stripped else CSF_WITHIN_MM


@dataclass(frozen=True)
class Anatomy:
    """The classes of a scan, on its own grid (file order) or the network's."""

    classes: Array
    brain: Array


def anatomy_of(net: FCDenseNet, scan: nib.Nifti1Image) -> Anatomy:
    """Classes and brain mask of `scan` on its own grid, `(i, j, k)` as the file has it.

    Probabilities, not classes, are brought to that grid; the brain is cut there.
    """
    looked, affine = _look_at_scan(net, scan)
    fine = np.stack([_resampled(p, affine, scan) for p in looked.probability])
    return Anatomy(fine.argmax(0).astype(np.uint8), _brain(fine, looked, scan))


def brain_of_scan(net: FCDenseNet, scan: nib.Nifti1Image) -> tuple[Array, float]:
    """The brain mask, for which only two sums of classes need be brought to the scan's grid, and the
    share of scalp."""
    looked, affine = _look_at_scan(net, scan)
    fine = np.zeros((len(CLASSES), *scan.shape[:3]), np.float32)
    fine[_TISSUE[0]] = _resampled(looked.probability[_TISSUE].sum(0), affine, scan)
    fine[_OUTER_CSF] = _resampled(looked.probability[_OUTER_CSF], affine, scan)
    return _brain(fine, looked, scan), looked.scalp


def _look_at_scan(net: FCDenseNet, scan: nib.Nifti1Image) -> tuple[Looked, Array]:
    """What the network says on its own grid, `(c, i, j, k)` in RAS+ order, and that grid's affine."""
    coarse = at_spacing(nib.as_closest_canonical(scan), SPACING_MM)
    image = whole_head(np.asarray(coarse.dataobj, np.float32).transpose(2, 1, 0))
    looked = look_at(net, image)
    return Looked(looked.probability.transpose(0, 3, 2, 1), looked.scalp), coarse.affine


def _brain(fine: Array, looked: Looked, scan: nib.Nifti1Image) -> Array:
    superior = next(axis for axis, toward in enumerate(nib.aff2axcodes(scan.affine)) if toward in "SI")
    return brain_mask(fine, scan.header.get_zooms()[:3], looked.csf_within_mm, superior)


def look_at(net: FCDenseNet, image: Array) -> Looked:
    """The ten classes of a normalised `(k, j, i)` image; outside the head's box all is background.

    The frame matters, since the network takes air on all sides for the sign of a stripped scan: a
    whole head is shown without any. Where that finds hardly any scalp, the scan is stripped, and is
    shown again with air around it.
    """
    box = head_box(image)
    inside = logits_of(net, image[box][None], np.zeros(1)).softmax(0).numpy()
    scalp = scalp_share(inside, image[box])
    if scalp < STRIPPED_BELOW:
        wide = np.pad(image[box], AIR)
        inside = logits_of(net, wide[None], np.zeros(1)).softmax(0).numpy()
        inside = inside[:, AIR:-AIR, AIR:-AIR, AIR:-AIR]
    probability = np.zeros((len(CLASSES), *image.shape), np.float32)
    probability[CLASSES.index("background")] = 1
    probability[(slice(None), *box)] = inside
    return Looked(probability, scalp)


def scalp_share(probability: Array, image: Array) -> float:
    """How much of what is brighter than air was found to lie outside the brain."""
    bright = image > BOX_ABOVE
    scalp = probability.argmax(0) == CLASSES.index("scalp and skull")
    return float((scalp & bright).sum() / max(int(bright.sum()), 1))


def head_box(image: Array) -> tuple[slice, ...]:
    """The smallest box with every voxel above `BOX_ABOVE`; everything if there is none."""
    spans = ndimage.find_objects((image > BOX_ABOVE).astype(np.uint8))
    return tuple(spans[0]) if spans else tuple(slice(0, n) for n in image.shape)


def brain_mask(probability: Array, spacing_mm: tuple[float, ...], csf_mm: float,
               superior: int) -> Array:
    """Tissue and ventricles, and outer CSF within `csf_mm` of them; one piece, without holes in any
    slice across the axis `superior`: the cisterns open a brain below."""
    tissue = probability[_TISSUE].sum(0)
    core = largest(tissue > 0.5)
    if not core.any():
        return core
    near = ndimage.distance_transform_edt(~core, sampling=spacing_mm) <= csf_mm
    inside = core | (near & (tissue + probability[_OUTER_CSF] > 0.5))
    slices = np.moveaxis(largest(inside), superior, 0)
    return np.moveaxis(np.stack([ndimage.binary_fill_holes(s) for s in slices]), 0, superior)


def largest(mask: Array) -> Array:
    parts, n_parts = ndimage.label(mask)
    if n_parts < 2:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def at_spacing(image: nib.Nifti1Image, spacing_mm: float) -> nib.Nifti1Image:
    """The scan on a grid of the same orientation and cubic voxels, smoothed before it is thinned."""
    samples = np.asarray(image.dataobj, np.float32)
    zooms = np.array(image.header.get_zooms()[:3])
    ratio = spacing_mm / zooms
    sigma = np.where(ratio > 1, 0.4 * np.sqrt(np.maximum(ratio**2 - 1, 0)), 0)
    smooth = ndimage.gaussian_filter(samples, sigma, truncate=3.0)
    shape = tuple(int(n) for n in np.ceil(np.array(samples.shape) / ratio))
    shift = (ratio - 1) / 2  # the outer faces of both grids meet
    thin = ndimage.affine_transform(smooth, ratio, shift, shape, order=1, mode="nearest")
    affine = image.affine.copy()
    affine[:3, 3] += image.affine[:3, :3] @ shift
    affine[:3, :3] = image.affine[:3, :3] * ratio
    return nib.Nifti1Image(thin, affine)


def _resampled(samples: Array, affine: Array, target: nib.Nifti1Image) -> Array:
    source = nib.Nifti1Image(samples, affine)
    return np.asarray(resample_from_to(source, (target.shape[:3], target.affine), order=1).dataobj)
