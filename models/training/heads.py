"""Whole-head label maps, read once and kept as small arrays.

A head is a `(k, j, i)` array of compact classes in RAS+ order at 1 mm, with its rough place in MNI
space. The compact classes are what the generators paint: one intensity each. Nothing is random here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from arrays import Array

TISSUES: dict[str, tuple[int, ...]] = {
    "air": (0,), "white": (2, 41), "cortex": (3, 42), "lateral_ventricle": (4, 43, 5, 44),
    "middle_ventricle": (14, 15, 72), "csf": (24,), "cerebellar_white": (7, 46),
    "cerebellar_cortex": (8, 47), "thalamus": (10, 49), "caudate": (11, 50), "putamen": (12, 51),
    "pallidum": (13, 52), "brainstem": (16, 28, 60), "hippocampus": (17, 53),
    "amygdala": (18, 54, 26, 58), "vessel": (202, 214), "skin": (211,), "soft": (207,),
    "muscle": (208,), "mucosa": (209,), "bone": (215,), "marrow": (216,), "eye": (206,),
    "nerve": (230, 85), "cord": (212,), "plexus": (136, 137, 163, 164), "lesion": (25, 57),
    "perivascular": (30, 62),
}
"""Compact class (its place in this table) and the stored labels that it gathers."""
CLASS = {name: n for n, name in enumerate(TISSUES)}
PARENCHYMA = tuple(CLASS[name] for name in (
    "white", "cortex", "cerebellar_white", "cerebellar_cortex", "thalamus", "caudate", "putamen",
    "pallidum", "brainstem", "hippocampus", "amygdala", "lesion", "perivascular"))
CEREBRUM = PARENCHYMA + tuple(CLASS[n] for n in ("lateral_ventricle", "middle_ventricle", "plexus"))
"""All that lies inside the pia, ventricles included."""

_MNI_MM = {(10, 49): (11, -18, 7), (11, 50): (13, 10, 9), (12, 51): (26, 1, 0),
           (13, 52): (20, -4, 0), (17, 53): (26, -22, -14), (18, 54): (24, -4, -19)}
"""Rough centres of paired structures in MNI space, right side (Talairach-like atlases)."""


@dataclass(frozen=True)
class Head:
    """One label map."""

    name: str
    tissue: Array
    """Compact classes, uint8 `(k, j, i)`."""
    to_mni: Array
    """3x3: `(k, j, i)` voxel to `(x, y, z)` in MNI millimetres, linear part."""
    mni_offset: Array


def read_ras(path: Path) -> tuple[Array, Array]:
    """Gives the samples with their slope applied, `(k, j, i)` in RAS+ order, and the affine."""
    image = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
    samples = np.asarray(image.dataobj).transpose(2, 1, 0)  # file order is (i, j, k)
    return np.ascontiguousarray(samples), image.affine


def read_head(path: Path, cache: Path) -> Head:
    """Reads a label map, from `cache` where it has been read before."""
    name = path.name.split(".")[0]
    kept = cache / f"{name}.npz"
    if not kept.exists():
        stored, _ = read_ras(path)
        lut = np.full(256, CLASS["white"], np.uint8)
        for compact, labels in enumerate(TISSUES.values()):
            lut[list(labels)] = compact
        to_mni, offset = _place_in_mni(stored)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(kept, tissue=lut[stored], to_mni=to_mni, mni_offset=offset)
    with np.load(kept) as found:
        return Head(name, found["tissue"], found["to_mni"], found["mni_offset"])


def brain_box(head: Head, margin: int) -> tuple[Array, Array]:
    """The corners of the brain's box, widened by `margin` voxels."""
    inside = np.isin(head.tissue, CEREBRUM)
    spans = ndimage.find_objects(inside.astype(np.uint8))[0]
    low = np.array([max(s.start - margin, 0) for s in spans])
    high = np.array([min(s.stop + margin, n) for s, n in zip(spans, inside.shape, strict=True)])
    return low, high


def _place_in_mni(stored: Array) -> tuple[Array, Array]:
    """Rotation from the centres of deep structures, scale from the brain's extent."""
    middle_i = np.argwhere(np.isin(stored, (2, 41))).mean(0)[2]
    found, wanted = [], []
    for pair, (x, y, z) in _MNI_MM.items():
        for label in pair:
            centre = np.argwhere(stored == label).mean(0)
            found.append(centre[::-1])  # (x, y, z)
            wanted.append((x if centre[2] > middle_i else -x, y, z))
    here, there = np.array(found), np.array(wanted, float)
    u, _, vt = np.linalg.svd((here - here.mean(0)).T @ (there - there.mean(0)))  # Kabsch
    rotation = (u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt).T
    cerebrum = np.argwhere(np.isin(stored, (2, 3, 41, 42)))[::50, ::-1]
    placed = (cerebrum - here.mean(0)) @ rotation.T + there.mean(0)
    low, high = np.percentile(placed, 0.3, 0), np.percentile(placed, 99.7, 0)
    scale = np.array([134 / (high[0] - low[0]), 172 / (high[1] - low[1]),
                      74 / max(high[2] - there[:, 2].mean(), 1.0)])  # the MNI brain's extent in mm
    matrix = np.diag(np.clip(scale, 0.8, 1.25)) @ rotation
    return matrix[:, ::-1], there.mean(0) - matrix @ here.mean(0)
