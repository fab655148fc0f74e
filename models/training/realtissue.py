"""Samples on real tissue: some real lesions carved out of it, others set into it.

No generator paints the septum, the vessels and the rim of the ventricles as a scanner shows them; the
scans of a patient do. A sample keeps a random share of the patient's lesions, fills the rest with the
tissue beside them, and receives lesions of the bank at places that white matter takes. What is not a
lesion there has no class: the side task leaves it out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from arrays import Array, Rng, Shape, blur, field, ghosted, thick_slices
from cases import Case, read_case
from contrasts import CONTRASTS
from heads import CLASS
from lesions import CONNECTED, Piece, Room, draw_load_ml, place_lesions
from normalise import CLIP, MISSING, OUTSIDE, within_brain
from recipe import UNKNOWN
from synthesis import gains, head_grid, misregistered, slices_mm, visible, warp

TO_MNI = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], float)  # (k, j, i) of a RAS grid to (x, y, z)
ORIGIN_MM = np.array([-91.0, -126.0, -72.0])
"""Centre of the first voxel of the labelled cases' grid in RAS+ order."""
FLUID = {"flair": (-4.0, -2.0), "t1w": (-4.0, -2.0), "t2w": (2.0, 6.0)}
"""Normalised brightness of the fluid around a brain, from least to most."""
CARVED_BELOW = 6000
"""Voxels; what would replace larger lesions is too far away to look like them."""


def read_patient(folder: Path, patient: str) -> list[Case]:
    """All visits of one patient."""
    return [read_case(path.parent) for path in sorted(folder.glob(f"{patient}*/lesions.nii.gz"))]


def real_sample(case: Case, bank: list[list[Piece]], shape: Shape, rng: Rng,
                *, thick: float = 0.0, worse: float = 0.0) -> tuple[Array, Array]:
    """Image, float16 `(c, k, j, i)`, and label, uint8: bit 7 lesion, the rest unknown tissue.

    `thick` is how often it is cut anew, in slices as clinical scans have them; `worse` how often it is
    blurred, ghosted, or has its contrasts apart.
    """
    box = _box(case.brain, 6)
    image, truth, brain = case.image[(slice(None), *box)].copy(), case.truth[box], case.brain[box]
    low = np.array([s.start for s in box])
    if rng.random() < 0.7:
        gone = _some_of(truth, rng.choice([0.3, 0.6, 1.0]), rng)
        image = _carve(image, gone, truth, brain, rng)
        truth = truth & ~gone
        if rng.random() < 0.8:
            room = _room(image, truth, brain, low)
            placed = place_lesions(room, bank, min(draw_load_ml(rng), 15.0), rng)
            placed &= ~ndimage.binary_dilation(truth, iterations=2)
            truth = _set_in(image, placed, truth, brain, rng)
    if rng.random() < 0.6:
        image, truth, brain = _moved(image, truth, brain, shape, rng)
    if worse and rng.random() < worse:
        image = _scanned_worse(image, brain, rng)
        truth = visible(truth, image[0])
    if thick and rng.random() < thick:
        image, truth, brain = _cut_anew(image, truth, brain, rng)
    image[:, ~brain] = OUTSIDE
    for n, contrast in enumerate(case.image):
        if not contrast.any():
            image[n] = MISSING
    label = np.where(brain, UNKNOWN, 0).astype(np.uint8) | (truth.astype(np.uint8) << 7)
    return np.clip(image, *CLIP).astype(np.float16), label


def _box(brain: Array, margin: int) -> tuple[slice, ...]:
    spans = ndimage.find_objects(brain.astype(np.uint8))[0]
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in spans)


def _some_of(truth: Array, share: float, rng: Rng) -> Array:
    """Each lesion with this chance, unless it is too large to be replaced."""
    parts, n_parts = ndimage.label(truth, CONNECTED)
    chosen = rng.random(n_parts + 1) < share
    chosen &= np.bincount(parts.ravel(), minlength=n_parts + 1) < CARVED_BELOW
    chosen[0] = False
    return chosen[parts]


def _carve(image: Array, gone: Array, truth: Array, brain: Array, rng: Rng) -> Array:
    """Fills lesions with the mean of the tissue around them and the grain of tissue elsewhere."""
    if not gone.any():
        return image
    tissue = _white(image, brain) & ~ndimage.binary_dilation(truth, iterations=2)
    if not tissue.any():
        return image
    weight = blur(tissue.astype(np.float32), 3.5)
    hole = blur(ndimage.binary_dilation(gone, iterations=2).astype(np.float32), 0.8) * brain
    shift = tuple(int(n) for n in rng.integers(-20, 21, 3))
    there = np.roll(tissue, shift, (0, 1, 2))
    filled = image.copy()
    for n, contrast in enumerate(image):
        if contrast.any():
            mean = blur(contrast * tissue, 3.5) / np.maximum(weight, 1e-3)
            rest = contrast - mean
            grain = rng.normal(0, rest[tissue].std(), rest.shape).astype(np.float32)
            grain[there] = np.roll(rest, shift, (0, 1, 2))[there]
            filled[n] = np.where(weight > 1e-3, contrast + hole * (mean + grain - contrast), contrast)
    return filled


def _white(image: Array, brain: Array) -> Array:
    """White matter by its brightness, away from the brain's surface."""
    deep = ndimage.distance_transform_edt(brain) > 5
    white = deep & (image[0] > -1.3) & (image[0] < 1.1)
    return white & (image[1] > -0.1) if image[1].any() else white


def _room(image: Array, truth: Array, brain: Array, low: Array) -> Room:
    deep = ndimage.distance_transform_edt(brain) > 12
    fluid = ndimage.binary_opening(deep & (image[0] < -1.6))
    parts, n_parts = ndimage.label(fluid)
    if n_parts:
        sizes = np.bincount(parts.ravel())
        fluid = (sizes >= 500)[parts] & fluid
    tissue = np.where(brain, CLASS["cortex"], CLASS["air"]).astype(np.uint8)
    white = ndimage.binary_opening(_white(image, brain)) & ~fluid
    tissue[white] = CLASS["white"]
    tissue[fluid] = CLASS["lateral_ventricle"]
    away = [np.minimum(ndimage.distance_transform_edt(tissue != CLASS[name]), 60).astype(np.uint8)
            for name in ("lateral_ventricle", "cortex")]
    none = np.zeros_like(truth)
    return Room(tissue, none, away[0], away[1], none, TO_MNI, ORIGIN_MM + TO_MNI @ low)


def _set_in(image: Array, placed: Array, truth: Array, brain: Array, rng: Rng) -> Array:
    """Paints lesions into the tissue, in the units the network sees; gives all that can be seen."""
    soft = np.maximum(blur(placed.astype(np.float32), rng.uniform(0.4, 1.3)), 0.5 * placed) * brain
    strength = gains(placed, rng) * (1 + 0.12 * field(rng, placed.shape, 28)) * soft
    core = blur(soft, 1.2) ** 1.5
    image[0] += rng.uniform(1.3, 3.0) * strength * (0.8 + 0.35 * core)
    if image[1].any():
        image[1] -= rng.uniform(0.1, 1.5) * strength * (0.6 + 0.8 * core)
    if image[2].any():
        image[2] += rng.uniform(0.6, 2.5) * strength
    return truth | visible(placed, image[0])


def _moved(image: Array, truth: Array, brain: Array, shape: Shape,
           rng: Rng) -> tuple[Array, Array, Array]:
    """The same head turned, stretched and bent a little, on a grid of `shape`."""
    grid, _ = head_grid(truth.shape, shape, rng)
    moved = np.stack([warp(contrast, grid, "bilinear") for contrast in image])
    return (moved, warp(truth.astype(np.float32), grid, "bilinear") > 0.5,
            warp(brain.astype(np.float32), grid, "bilinear") > 0.9)


def _scanned_worse(image: Array, brain: Array, rng: Rng) -> Array:
    """Each contrast by chance blurred and ghosted; T1w and T2w up to about a voxel off the FLAIR, on
    which the lesions were drawn."""
    worse = image.copy()
    for n, contrast in enumerate(image):
        if not contrast.any():
            continue
        whole = np.where(brain, contrast - OUTSIDE, 0)  # from 0: a ghost of nothing is nothing
        if n and rng.random() < 0.6:
            whole = misregistered(whole, rng, most_mm=0.5, most_degrees=0.15)
        if rng.random() < 0.5:
            whole = blur(whole, rng.uniform(0.3, 0.8))
        if rng.random() < 0.3:
            whole = ghosted(whole, rng)
        worse[n] = within_brain(whole, brain)
    return worse


def _cut_anew(image: Array, truth: Array, brain: Array, rng: Rng) -> tuple[Array, Array, Array]:
    """The head in thick slices, half of the time with the fluid that a brain found in it takes along.

    Slices mix what lies in them, so a brain's values spread less, and normalised by that spread all of
    them lie further apart: what a network sees of a lesion depends on both.
    """
    axis = 0 if rng.random() < 0.85 else int(rng.integers(1, 3))
    found = brain
    if rng.random() < 0.5:
        found = ndimage.binary_dilation(brain, iterations=int(rng.integers(1, 4)))
    cut = image.copy()
    for n, contrast in enumerate(CONTRASTS):
        if not image[n].any():
            continue
        whole = np.where(brain, image[n], np.float32(rng.uniform(*FLUID[contrast])))
        millimetres = slices_mm(contrast, rng)
        if millimetres > 1:
            whole = thick_slices(whole, rng, axis, millimetres)
        cut[n] = within_brain(whole, found)
    return cut, visible(truth, cut[0]), found
