"""Samples for the anatomy network: one image of any contrast, every voxel's class known.

Billot et al. (2023): whoever has seen every contrast needs no particular one. Each class gets a random
mean, mostly one of the order that FLAIR, T1w or T2w have, sometimes one that no scanner makes; then
come the scanner's faults, stripping, defacing and cut fields of view. Lesions are a class of their own.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from arrays import Array, Rng, Shape, blur, field, flat_index, rotation, thick_slices
from contrasts import BASE
from heads import CEREBRUM, CLASS, PARENCHYMA, Head
from normalise import whole_head

CLASSES = ("background", "scalp and skull", "cortex", "white matter", "deep grey", "ventricles",
           "other csf", "brainstem", "cerebellum", "lesion")
SPACING_MM = 2.0

_TARGET = np.ones(len(CLASS), np.uint8)  # what is not named below lies outside the brain
for _names, _target in (
    (("air",), 0), (("cortex", "hippocampus", "amygdala"), 2), (("white",), 3),
    (("thalamus", "caudate", "putamen", "pallidum", "perivascular"), 4),
    (("lateral_ventricle", "middle_ventricle", "plexus"), 5), (("csf",), 6), (("brainstem",), 7),
    (("cerebellar_white", "cerebellar_cortex"), 8), (("lesion",), 9),
):
    for _name in _names:
        _TARGET[CLASS[_name]] = _target

_CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.5  # mm, a tetrahedron


def classes_of(tissue: Array) -> Array:
    """Compact classes to the ten of the anatomy network."""
    return _TARGET[tissue]


def randomised_sample(head: Head, shape: Shape, rng: Rng) -> tuple[Array, Array]:
    """Gives the image, float16 `(1, k, j, i)`, and its classes, uint8 `(k, j, i)`."""
    places = _places(head, shape, rng)  # (k, j, i, 3)
    tissue = _look_up(head.tissue, places)
    lesions = _extra_lesions(tissue, rng)
    tissue[lesions] = CLASS["lesion"]
    dura = _dura(tissue, rng)

    mean = _class_means(rng)
    dura_mean = rng.uniform(0.2, 1.2) * mean[CLASS["cortex"]]
    image = np.zeros(shape, np.float32)
    for corner in _CORNERS:  # four looks into each voxel stand for its partial volumes
        seen = _look_up(head.tissue, places + corner)
        seen[lesions] = CLASS["lesion"]
        image += np.where(dura, dura_mean, mean[seen]) / len(_CORNERS)
    deviation = rng.uniform(0, 0.06, len(mean)).astype(np.float32)[tissue]
    image += deviation * rng.normal(size=shape).astype(np.float32)
    image += deviation * field(rng, shape, int(rng.integers(8, 30)))

    hidden = _hidden(tissue, shape, rng)
    image[hidden] = 0
    image = _acquire(image, rng)
    if rng.random() < 0.8:  # most tools write exact zeros there
        image[hidden] = 0
    target = classes_of(tissue)
    target[dura] = CLASSES.index("scalp and skull")
    target[hidden] = np.where(np.isin(target[hidden], (0, 1, 6)), 0, target[hidden])
    return whole_head(image)[None].astype(np.float16), target


def _places(head: Head, shape: Shape, rng: Rng) -> Array:
    """Where each voxel of the sample lies in the head: affine, elastic, sometimes mirrored."""
    matrix = rotation(np.deg2rad(rng.normal(0, 8, 3).clip(-20, 20)))
    zoom = rng.uniform(0.82, 1.15, 3) * (rng.uniform(1, 1.25) if rng.random() < 0.3 else 1)
    matrix = matrix @ np.diag(zoom) + rng.normal(0, 0.03, (3, 3))
    if rng.random() < 0.5:
        matrix[:, 2] *= -1
    inside = np.argwhere(np.isin(head.tissue[::4, ::4, ::4], CEREBRUM)) * 4
    centre = (inside.min(0) + inside.max(0)) / 2 + rng.normal(0, 1, 3) * (10, 8, 6)
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * SPACING_MM for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    places = grid @ matrix.T.astype(np.float32) + centre.astype(np.float32)
    for axis in range(3):
        places[..., axis] += rng.uniform(0.3, 3.0) * field(rng, shape, int(rng.integers(3, 9)))
    return places


def _look_up(labels: Array, places: Array) -> Array:
    """Nearest label; outside the label map there is air."""
    found = labels.ravel()[flat_index(places, labels.shape)]
    limits = np.array(labels.shape, np.float32) - 0.5
    found[((places < -0.5) | (places >= limits)).any(-1)] = 0
    return found


def _extra_lesions(tissue: Array, rng: Rng) -> Array:
    """Blobs in white matter, from none to many, beside those that the head has."""
    if rng.random() < 0.4:
        return np.zeros(tissue.shape, bool)
    bumps = field(rng, tissue.shape, int(rng.integers(12, 36)))
    near = ndimage.binary_dilation(tissue == CLASS["lateral_ventricle"], iterations=3)
    bumps = bumps + 0.7 * near * rng.random()
    return (bumps > rng.uniform(1.9, 3.2)) & (tissue == CLASS["white"])


def _dura(tissue: Array, rng: Rng) -> Array:
    """Part of the outermost fluid, which the label maps let reach the bone: dura and its sinuses."""
    if rng.random() < 0.4:
        return np.zeros(tissue.shape, bool)
    outer = ndimage.binary_dilation(classes_of(tissue) == CLASSES.index("scalp and skull"))
    here = field(rng, tissue.shape, int(rng.integers(6, 20))) > rng.uniform(-1.2, 0.6)
    return outer & here & (tissue == CLASS["csf"])


def _class_means(rng: Rng) -> Array:
    mean = rng.uniform(0, 1, len(CLASS))
    if rng.random() < 0.85:
        contrast = str(rng.choice(list(BASE)))
        mean = _real_means(contrast, rng) * rng.uniform(0.6, 1.0) / max(BASE[contrast])
        for outer in ("skin", "soft", "muscle", "mucosa", "bone", "marrow", "eye", "vessel"):
            if rng.random() < 0.3:
                mean[CLASS[outer]] = rng.uniform(0, 1)
    else:
        if rng.random() < 0.7:  # parts of one tissue look alike in every real contrast
            mean[CLASS["cerebellar_white"]] = mean[CLASS["white"]] + rng.normal(0, 0.05)
            mean[CLASS["cerebellar_cortex"]] = mean[CLASS["cortex"]] + rng.normal(0, 0.05)
            mean[CLASS["hippocampus"]] = mean[CLASS["cortex"]] + rng.normal(0, 0.05)
            mean[CLASS["amygdala"]] = mean[CLASS["cortex"]] + rng.normal(0, 0.05)
            mean[CLASS["middle_ventricle"]] = mean[CLASS["lateral_ventricle"]]
        if rng.random() < 0.7:
            mean[CLASS["csf"]] = mean[CLASS["lateral_ventricle"]] + rng.normal(0, 0.08)
    mean[CLASS["air"]] = 0.0 if rng.random() < 0.7 else rng.uniform(0, 0.15)
    return np.maximum(mean, 0).astype(np.float32)


def _real_means(contrast: str, rng: Rng) -> Array:
    """In units of white matter, as wide as scanners differ: cortex against white matter stretched,
    deep grey anywhere between the two, the brainstem darker than both or brighter, fluid free."""
    base = np.array(BASE[contrast])
    mean = base + rng.normal(0, 0.04, len(base))
    grey = _numbers("cortex", "cerebellar_cortex", "hippocampus", "amygdala")
    mean[grey] = 1 + (mean[grey] - 1) * np.clip(np.exp(rng.normal(0, 0.4)), 0.45, 1.8)
    deep = _numbers("thalamus", "caudate", "putamen", "pallidum")
    mean[deep] = 1 + (mean[deep] - 1) * rng.uniform(0, 1.1) + rng.normal(0, 0.05)
    mean[CLASS["brainstem"]] += rng.normal(0, 0.1)
    mean[_numbers("cerebellar_cortex", "cerebellar_white")] += rng.normal(0, 0.07)
    low, high = {"flair": (0.08, 0.5), "t1w": (0.1, 0.55), "t2w": (1.8, 4.0)}[contrast]
    fluid = _numbers("lateral_ventricle", "middle_ventricle", "csf")
    mean[fluid] = rng.uniform(low, high) * (1 + rng.normal(0, 0.08, len(fluid)))
    if contrast != "t2w" and rng.random() < 0.6:  # vessels and meninges lie in the outer fluid
        mean[CLASS["csf"]] += rng.uniform(0, 0.25)
    mean[CLASS["lesion"]] = mean[CLASS["white"]] + rng.normal(0, 0.35) * max(base)
    return mean


def _numbers(*names: str) -> list[int]:
    return [CLASS[name] for name in names]


def _hidden(tissue: Array, shape: Shape, rng: Rng) -> Array:
    """What stripping, defacing or a short field of view takes away."""
    hidden = np.zeros(shape, bool)
    kind = rng.random()
    if kind < 0.4:  # stripped: tight or loose, smooth, with some of the dura left
        near = blur(np.isin(tissue, CEREBRUM).astype(np.float32), rng.uniform(0.6, 2.0))
        near += 0.1 * field(rng, shape, 16)
        kept = ndimage.binary_fill_holes(near > rng.uniform(0.15, 0.6))
        hidden |= ~(kept | np.isin(tissue, PARENCHYMA) & (near > 0.35))
    elif kind < 0.65:  # defaced: everything in front of and below an oblique plane
        k, j, _ = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
        brain = np.argwhere(np.isin(tissue, PARENCHYMA))
        if len(brain):
            low, high = brain.min(0), brain.max(0)
            front = high[1] - rng.uniform(-4, 20)
            level = low[0] + rng.uniform(0.0, 0.35) * (high[0] - low[0])
            hidden |= ((j > front) & (k < level)) & ~np.isin(tissue, CEREBRUM)
    if rng.random() < 0.3:  # a field of view that ends early at the top or, more often, below
        cut = int(rng.integers(1, shape[0] // 5))
        if rng.random() < 0.75:
            hidden[:cut] = True
        else:
            hidden[-cut // 2:] = True
    return hidden


def _acquire(image: Array, rng: Rng) -> Array:
    """Slice profile, blur, bias field, noise, gamma."""
    shape = image.shape
    if rng.random() < 0.5:
        axis = 0 if rng.random() < 0.7 else int(rng.integers(1, 3))
        image = thick_slices(image, rng, axis, rng.uniform(2.2, 6.0) / SPACING_MM)
    else:
        image = blur(image, rng.uniform(0.0, 0.6))
    image = image * np.exp(rng.uniform(0, 0.35) * field(rng, shape, int(rng.integers(2, 5))))
    image = image + rng.uniform(0.002, 0.05) * rng.normal(size=shape).astype(np.float32)
    return np.abs(image) ** rng.uniform(0.7, 1.4)
