"""Native scans and stripped FLAIRs with a known brain, to judge the anatomy network.

The transforms of `raw/` are ITK text files (y = A (x - c) + t + c in LPS millimetres) that map a point
of the common space to the FLAIR, and a point of the FLAIR to another contrast. The network sees the
native scan; its mask is carried to the common space, where the truth lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from arrays import Array
from measures import dice
from network import FCDenseNet
from predict import brain_of_scan

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class BrainFigure:
    scan: str
    truth: str
    dice: float
    found_ml: float
    true_ml: float
    scalp: float
    """Share of what is bright in the head; little in a stripped scan."""


def brain_figures(net: FCDenseNet, data: Path) -> Iterator[BrainFigure]:
    """Every scan of `raw/` against its brain mask, every stripped FLAIR against its support."""
    for patient in sorted((data / "raw").iterdir()):
        if not (patient / "common_brainmask.nii.gz").exists():
            continue
        mask = nib.Nifti1Image.from_filename(patient / "common_brainmask.nii.gz")
        truth = np.asarray(mask.dataobj) > 0
        for path in sorted(patient.glob("study*.nii.gz")):
            study, contrast = path.name.split(".")[0].split("_")
            to_native = _common_to_native(patient, study, contrast)
            if to_native is None:
                continue
            scan = nib.Nifti1Image.from_filename(path)
            found, scalp = brain_of_scan(net, scan)
            carried = carry(found, scan.affine, mask, to_native)
            name = f"{patient.name} {study} {contrast}"
            yield _figure(name, "brain mask", carried, truth, mask, scalp)
    for case in sorted((data / "labelled").iterdir()):
        scan = nib.Nifti1Image.from_filename(case / "flair.nii.gz")
        truth = ndimage.binary_fill_holes(np.asarray(scan.dataobj) > 0)
        found, scalp = brain_of_scan(net, scan)
        yield _figure(f"{case.name} flair", "support", found, truth, scan, scalp)


def read_itk(path: Path) -> Array:
    """The 4x4 matrix of an ITK text transform, for RAS millimetres."""
    lines = dict(line.split(": ", 1) for line in path.read_text().splitlines() if ": " in line)
    numbers = np.array(lines["Parameters"].split(), float)
    centre = np.array(lines["FixedParameters"].split(), float)
    matrix = np.eye(4)
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    return LPS_TO_RAS @ matrix @ LPS_TO_RAS


def carry(mask: Array, affine: Array, target: nib.Nifti1Image, to_source: Array) -> Array:
    """A mask on the grid of `target`; `to_source` maps the target's points to the mask's, RAS mm."""
    step = np.linalg.inv(affine) @ to_source @ target.affine
    soft = ndimage.affine_transform(mask.astype(np.float32), step[:3, :3], step[:3, 3],
                                    target.shape[:3], order=1)
    return soft > 0.5


def _common_to_native(patient: Path, study: str, contrast: str) -> Array | None:
    to_flair = patient / f"{study}_flair_to_common_space.txt"
    if not to_flair.exists():
        return None
    matrix = read_itk(to_flair)
    if contrast != "flair":
        onward = patient / f"{study}_{contrast}_intrastudy_to_flair.txt"
        if not onward.exists():
            return None
        matrix = read_itk(onward) @ matrix
    return matrix


def _figure(scan: str, kind: str, found: Array, truth: Array, grid: nib.Nifti1Image,
            scalp: float) -> BrainFigure:
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    return BrainFigure(scan, kind, dice(found, truth), float(found.sum()) * voxel_ml,
                       float(truth.sum()) * voxel_ml, scalp)
