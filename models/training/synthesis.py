"""Samples for the lesion network: FLAIR, T1w and T2w of one head with known lesions.

Contrasts keep the order that real ones have, with jitter: the channels are known. What decides is
that lesions have the brightness that real ones have *in the units the network sees*, that
unlabelled brightness stays weaker than theirs, and that the contrasts don't fit each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from arrays import Array, Rng, Shape, blur, field, ghosted, rotation, thick_slices
from contrasts import BASE, CONTRASTS
from heads import CEREBRUM, CLASS, PARENCHYMA, Head, brain_box
from lesions import CONNECTED, Piece, Room, draw_load_ml, place_lesions
from normalise import CLIP, OUTSIDE, within_brain

_SIDE = np.zeros(len(CLASS), np.uint8)
"""Classes of the side task: white matter, cortex, fluid, deep grey, below the tentorium."""
for _names, _side in (
    (("white", "lesion"), 1), (("cortex", "hippocampus"), 2),
    (("lateral_ventricle", "middle_ventricle", "csf", "plexus"), 3),
    (("thalamus", "caudate", "putamen", "pallidum", "amygdala", "perivascular"), 4),
    (("cerebellar_white", "cerebellar_cortex", "brainstem"), 5),
):
    _SIDE[[CLASS[_name] for _name in _names]] = _side
_FLUID = [CLASS[n] for n in ("lateral_ventricle", "middle_ventricle", "csf", "eye")]
_GREY = [CLASS[n] for n in (
    "cortex", "cerebellar_cortex", "cerebellar_white", "thalamus", "caudate", "putamen",
    "pallidum", "hippocampus", "amygdala", "brainstem")]


FAINTEST = 0.7
"""Mean FLAIR of a lesion, in normalised units, below which a rater overlooks it."""


@dataclass(frozen=True)
class Scene:
    """One head as it lies in the sample: everything that all contrasts share."""

    tissue: Array
    lesion: Array
    """Soft, 0..1."""
    core: Array
    halo: Array
    gain: Array
    """Each lesion's own strength."""
    texture: Array
    haze: Array
    """Dirty white matter around the ventricles, 0..1, unlabelled."""
    rim: Array
    caps: Array
    """Patches beside the ventricles that are brighter than haze and still no lesions, 0..1."""
    limbic: Array
    flow: Array
    septum: Array
    plexus: Array
    fatty: Array
    insula: Array
    """How much brighter it is than other cortex, 0..1; nothing in most heads."""
    dura: Array
    """What stripping left of it; nothing in most heads."""
    brain: Array


def prepare(head: Head, margin: int = 14) -> Room:
    """A head cut to its brain's surroundings."""
    low, high = brain_box(head, margin)
    stored = head.tissue[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    tissue = np.where(stored == CLASS["lesion"], CLASS["white"], stored).astype(np.uint8)
    ventricle = tissue == CLASS["lateral_ventricle"]
    to_ventricle = ndimage.distance_transform_edt(~ventricle)
    to_cortex = ndimage.distance_transform_edt(tissue != CLASS["cortex"])
    return Room(tissue, stored == CLASS["lesion"], np.minimum(to_ventricle, 60).astype(np.uint8),
                np.minimum(to_cortex, 60).astype(np.uint8),
                _septum(tissue, ventricle, to_ventricle), head.to_mni,
                head.mni_offset + head.to_mni @ low)


def _septum(tissue: Array, ventricle: Array, to_ventricle: Array) -> Array:
    """The thin wall between the lateral ventricles: many label maps give it to them."""
    k, j, i = np.nonzero(ventricle)
    if not len(i):
        return ventricle
    plane = np.linalg.lstsq(np.stack([np.ones(len(i)), k, j], 1), i, rcond=None)[0]
    grid = np.meshgrid(*[np.arange(n) for n in tissue.shape], indexing="ij")
    off = grid[2] - plane[0] - plane[1] * grid[0] - plane[2] * grid[1]
    wall = np.isin(tissue, [CLASS["white"], CLASS["lateral_ventricle"]]) & (to_ventricle <= 4.5)
    # Both ventricles lie beside it: a little further to each side there is fluid.
    beside = [ndimage.binary_dilation(ventricle & (off * side > 0), iterations=5)
              for side in (-1, 1)]
    return wall & (np.abs(off) <= 1.0) & beside[0] & beside[1]


@dataclass(frozen=True)
class Grade:
    """What a judging sample is to be, instead of drawn at random."""

    load_ml: float
    slices_mm: float
    skull: bool | None = None
    """Whether the skull is kept; by chance if that is not said."""
    infratentorial: bool = False
    """Whether all lesions lie in brainstem and cerebellum."""
    group: str = ""
    """What it is called where groups are judged apart."""


def synthetic_sample(head: Room, bank: list[list[Piece]], shape: Shape, rng: Rng,
                     grade: Grade | None = None, *, dura: float = 0.0,
                     insula: float = 0.0) -> tuple[Array, Array]:
    """Image, float16 `(c, k, j, i)`, and label, uint8: bit 7 lesion, the rest the side task.

    `dura` is how often stripping left some of it on the brain, `insula` how often that is as bright as
    cortex gets.
    """
    load_ml = grade.load_ml if grade else draw_load_ml(rng)
    grid, growth = head_grid(head.tissue.shape, shape, rng)
    placed = place_lesions(head, bank, load_ml / growth, rng,
                           infratentorial=grade is not None and grade.infratentorial)
    truth = warp(placed.astype(np.float32), grid, "bilinear") > 0.5
    scene = _scene(head, placed, truth, grid, shape, rng)
    if insula and rng.random() < insula:
        scene = replace(scene, insula=_insula(scene.tissue, rng))
    if dura and rng.random() < dura:
        scene = _with_dura(scene, rng)
    image = np.empty((len(CONTRASTS), *shape), np.float32)
    loose = rng.random() < 0.25  # a quarter keeps the skull
    if grade and grade.skull is not None:
        loose = grade.skull
    moved = rng.random() < 0.6  # the rest was registered perfectly
    for n, contrast in enumerate(CONTRASTS):
        painted = _paint(scene, contrast, rng)
        if n and moved:
            painted = misregistered(painted, rng)
        samples = _acquire(painted, slices_mm(contrast, rng, grade), rng)
        image[n] = within_brain(samples, scene.brain)
        if not loose:
            image[n][~_own_mask(scene.brain, rng)] = OUTSIDE
    if not loose:
        image[:, ~scene.brain] = OUTSIDE
    truth = visible(truth, image[0])
    label = _SIDE[scene.tissue] | (truth.astype(np.uint8) << 7)
    return np.clip(image, *CLIP).astype(np.float16), label


def head_grid(head: Shape, shape: Shape, rng: Rng) -> tuple[torch.Tensor, float]:
    """Where the sample's voxels lie in the head (for grid_sample), and how much volume grows."""
    matrix = rotation(np.deg2rad(rng.normal(0, 6, 3)))
    zoom = rng.uniform(0.88, 1.14, 3)  # below 1: the brain looks larger, as scaled to a template
    matrix = matrix @ np.diag(zoom) + rng.normal(0, 0.015, (3, 3))
    axes = [np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ matrix.T.astype(np.float32)
    places += ((np.array(head) - 1) / 2 + rng.normal(0, 4, 3)).astype(np.float32)
    for axis in range(3):
        places[..., axis] += rng.uniform(0.3, 2.0) * field(rng, shape, int(rng.integers(4, 8)))
    if rng.random() < 0.5:
        places[..., 2] = head[2] - 1 - places[..., 2]
    places = places[..., ::-1] * (2 / (np.array(head[::-1]) - 1)).astype(np.float32) - 1
    grid = torch.from_numpy(np.ascontiguousarray(places, np.float32))[None]
    return grid, float(1 / abs(np.linalg.det(matrix)))


def warp(x: Array, grid: torch.Tensor, mode: str) -> Array:
    samples = torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]
    return F.grid_sample(samples, grid, mode=mode, padding_mode="zeros",
                         align_corners=True)[0, 0].numpy()


def _scene(head: Room, placed: Array, truth: Array, grid: torch.Tensor, shape: Shape,
           rng: Rng) -> Scene:
    tissue = warp(head.tissue, grid, "nearest").astype(np.uint8)
    to_ventricle = warp(head.to_ventricle, grid, "bilinear")
    septum = warp(head.septum.astype(np.float32), grid, "nearest") > 0
    if rng.random() < 0.85:
        tissue[septum] = CLASS["white"]
    white = tissue == CLASS["white"]
    plexus = (tissue == CLASS["lateral_ventricle"]) & (field(rng, shape, 8) > 0.6)
    plexus &= field(rng, shape, 34) > rng.uniform(0.6, 2.0)
    plexus |= tissue == CLASS["plexus"]
    tissue[plexus] = CLASS["plexus"]
    edge = rng.uniform(0.4, 1.0) if rng.random() < 0.7 else rng.uniform(1.0, 1.8)
    soft = warp(placed.astype(np.float32), grid, "bilinear")
    soft = np.maximum(blur(soft, edge), 0.5 * truth)  # tiny lesions stay visible
    parenchyma = np.isin(tissue, PARENCHYMA)
    fluid = np.isin(tissue, [CLASS["lateral_ventricle"], CLASS["middle_ventricle"], CLASS["csf"]])
    return Scene(
        tissue=tissue, lesion=soft, core=blur(soft, 1.2) ** 1.5,
        halo=blur(soft, rng.uniform(1.5, 3.0)) * (1 - soft) * parenchyma,
        gain=gains(truth, rng), texture=1 + 0.12 * field(rng, shape, 28),
        haze=np.clip(field(rng, shape, 7), 0, 1.2) / 1.2
        * np.exp(-(((to_ventricle - 4) / 9) ** 2)) * white,
        rim=np.exp(-np.maximum(to_ventricle - 0.5, 0) / rng.uniform(0.6, 1.6)) * white
        * np.clip(1 + 0.5 * field(rng, shape, 10), 0, 1.5),
        caps=np.exp(-np.maximum(to_ventricle - 0.5, 0) / rng.uniform(1.5, 4.0)) * white
        * np.clip(field(rng, shape, 9) - 0.4, 0, 1),
        limbic=np.clip(field(rng, shape, 9), 0, 2)
        * np.isin(tissue, [CLASS[n] for n in ("cortex", "hippocampus", "amygdala")]),
        flow=blur(np.clip(field(rng, shape, 12) - rng.uniform(0.8, 2.0), 0, 1), 1.0) * fluid,
        septum=septum & white,
        plexus=plexus, fatty=field(rng, shape, 20) > rng.uniform(-0.6, 0.6),
        insula=np.zeros(shape, np.float32), dura=np.zeros(shape, bool),
        brain=_brain_mask(tissue, rng),
    )


def _insula(tissue: Array, rng: Rng) -> Array:
    """The cortex beside the putamen, more of it in places, 0..1."""
    putamen = tissue == CLASS["putamen"]
    if not putamen.any():
        return np.zeros(tissue.shape, np.float32)
    near = ndimage.distance_transform_edt(~putamen) < 10
    here = (near & (tissue == CLASS["cortex"])).astype(np.float32)
    return blur(here, 0.5) * np.clip(0.7 + 0.4 * field(rng, tissue.shape, 14), 0, 1)


def _with_dura(scene: Scene, rng: Rng) -> Scene:
    """Patches of the outermost fluid, which the label maps let reach the bone, are dura and stay on the
    brain with the fluid below."""
    inside = np.isin(scene.tissue, CEREBRUM) | (scene.tissue == CLASS["csf"])
    here = field(rng, scene.tissue.shape, int(rng.integers(5, 14))) > rng.uniform(0.6, 1.6)
    near = ndimage.binary_dilation(scene.brain, iterations=int(rng.integers(2, 6)))
    left = near & here & (scene.tissue == CLASS["csf"])
    dura = left & ndimage.binary_dilation(~inside, iterations=int(rng.integers(1, 3)))
    return replace(scene, dura=dura, brain=ndimage.binary_fill_holes(scene.brain | left))


def gains(truth: Array, rng: Rng) -> Array:
    """Each lesion has its own strength; small ones are often faint, since voxels blur them."""
    parts, n_parts = ndimage.label(truth, CONNECTED)
    gain = np.clip(rng.normal(1, 0.16, n_parts + 1), 0.7, 1.5).astype(np.float32)
    size = np.bincount(parts.ravel(), minlength=n_parts + 1)
    small = size < 60
    gain[small] *= rng.uniform(0.8, 1.1, small.sum())
    near: Array = ndimage.grey_dilation(parts, 5) if n_parts else parts
    return gain[near]


def visible(truth: Array, flair: Array) -> Array:
    """Without the lesions that no rater would mark: under 3 voxels, or lost in the scan."""
    parts, n_parts = ndimage.label(truth, CONNECTED)
    if not n_parts:
        return truth
    size = np.bincount(parts.ravel(), minlength=n_parts + 1)
    mean = np.bincount(parts.ravel(), flair.ravel(), n_parts + 1) / np.maximum(size, 1)
    kept = (size >= 3) & (mean >= FAINTEST)
    kept[0] = False
    return kept[parts]


def _means(contrast: str, rng: Rng) -> Array:
    """Tissue means with jitter: grey against white stretched, fluid free, fat bright or not."""
    mean = np.array(BASE[contrast]) * (1 + rng.normal(0, 0.035, len(CLASS)))
    stretch = np.clip(np.exp(rng.normal(0, 0.45)), 0.45, 1.7)
    mean[_GREY] = 1 + (mean[_GREY] - 1) * stretch
    mean[CLASS["white"]] = 1
    low, high = {"flair": (0.08, 0.5), "t1w": (0.12, 0.45), "t2w": (1.9, 4.2)}[contrast]
    mean[_FLUID] = rng.uniform(low, high) * (1 + rng.normal(0, 0.08, len(_FLUID)))
    fat = rng.uniform(0.25, 0.8) if rng.random() < 0.4 else rng.uniform(0.9, 2.2)
    mean[CLASS["marrow"]], mean[CLASS["skin"]] = fat * rng.uniform(0.5, 1, 2)
    if contrast == "t1w" and rng.random() < 0.2:  # after gadolinium the sinuses shine
        mean[CLASS["vessel"]] = rng.uniform(1.2, 2.2)
    return np.maximum(mean, 0).astype(np.float32)


def _paint(scene: Scene, contrast: str, rng: Rng) -> Array:
    """The head in one contrast, before any scanner."""
    mean, shape = _means(contrast, rng), scene.tissue.shape
    image = mean[scene.tissue]
    image[(scene.tissue == CLASS["soft"]) & scene.fatty] = mean[CLASS["marrow"]]
    image *= 1 + rng.uniform(0.01, 0.03) * field(rng, shape, 14)
    if scene.dura.any():
        low, high = {"flair": (0.7, 1.5), "t1w": (0.4, 1.0), "t2w": (0.2, 0.8)}[contrast]
        image[scene.dura] = rng.uniform(low, high)
    grain = rng.standard_normal(shape, np.float32)
    image += rng.uniform(0.0, 0.03) * grain * image
    if scene.insula.any():
        low, high = {"flair": (0.05, 0.3), "t1w": (-0.1, 0.0), "t2w": (0.0, 0.5)}[contrast]
        image += rng.uniform(low, high) * scene.insula
    match contrast:
        case "flair":
            _paint_flair(image, scene, mean, rng)
        case "t1w":  # from iso-intense to black holes
            low = 1 - (1 - mean[CLASS["cortex"]]) * rng.uniform(0.4, 1.7)
            black = rng.uniform(0.1, 1.0) * (0.5 + 0.8 * scene.core)
            drop = (1 - low) * scene.gain * (0.55 + 0.45 * black) * _own_strength(shape, rng)
            image -= np.clip(np.minimum(drop, image - 0.3), 0, None) * scene.lesion
            image -= rng.uniform(0, 0.08) * (scene.halo + scene.haze + scene.caps)
            enhanced = rng.random() < 0.3
            image[scene.plexus] = rng.uniform(0.9, 1.6) if enhanced else rng.uniform(0.5, 0.9)
        case "t2w":
            peak = rng.uniform(0.5, 2.2)
            strength = scene.gain * scene.texture * (0.75 + 0.4 * scene.core)
            image += peak * strength * _own_strength(shape, rng) * scene.lesion
            image += peak * rng.uniform(0, 0.2) * (scene.halo + scene.haze + scene.caps)
            image += rng.uniform(0, 0.3) * scene.rim
            image[scene.plexus] = rng.uniform(1.3, 2.6)
    return image


def _own_strength(shape: Shape, rng: Rng) -> Array:
    """What is bright in FLAIR may hardly show in T1w or T2w, and the lesion beside it clearly."""
    return np.clip(0.8 + 0.35 * field(rng, shape, 14), 0.05, 1.4)


def _paint_flair(image: Array, scene: Scene, mean: Array, rng: Rng) -> None:
    """Lesions 2.2 to 4.2 normalised units above the brain's median; haze at a fifth of that."""
    low, middle, high = np.percentile(image[scene.brain][::11], (25, 50, 75))
    unit = max(1.15 * (high - low) / 1.349, 0.07)
    units = rng.uniform(2.2, 4.2) if rng.random() < 0.9 else rng.uniform(4.0, 5.5)
    cortex = max(float(mean[CLASS["cortex"]]), 1.0)
    peak = max(middle + units * unit, cortex + rng.uniform(0.05, 0.2), 1.22) - 1
    in_grey = np.where(np.isin(scene.tissue, [CLASS["cortex"], CLASS["thalamus"]]), 0.75, 1.0)
    strength = scene.gain * scene.texture * (0.8 + 0.35 * scene.core) * in_grey
    image += peak * strength * scene.lesion
    # Where several of them meet the brightest is seen, three quarters of a common lesion at most.
    unlabelled = (
        rng.uniform(0, 0.3) * scene.halo, rng.uniform(0, 0.2) * scene.haze,
        rng.uniform(0, 0.75) * (rng.random() < 0.75) * scene.rim,
        rng.uniform(0, 0.5) * (rng.random() < 0.6) * scene.caps,
    )
    image += peak * np.minimum(np.maximum.reduce(unlabelled), 0.75)
    image += rng.uniform(0, 0.14) * scene.limbic
    image[scene.septum] = np.maximum(image[scene.septum], 1 + rng.uniform(0, 0.9) * peak)
    image[scene.plexus] = rng.uniform(0.5, 1.6)
    image += scene.flow * rng.uniform(0.2, 1.6)


def misregistered(x: Array, rng: Rng, most_mm: float = 1.5, most_degrees: float = 1.0) -> Array:
    """Shifted by up to `most_mm` and turned by up to `most_degrees` about each axis, as registration
    leaves it; at the rim the last voxels are repeated."""
    away = rng.normal(size=3)
    away *= rng.uniform(0, most_mm) / (np.linalg.norm(away) + 1e-6)
    matrix = rotation(np.deg2rad(rng.uniform(-most_degrees, most_degrees, 3)))
    theta = np.zeros((1, 3, 4), np.float32)
    theta[0, :, :3] = matrix
    theta[0, :, 3] = 2 * away / np.array(x.shape[::-1])
    samples = torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]
    grid = F.affine_grid(torch.from_numpy(theta), list(samples.shape), align_corners=False)
    return F.grid_sample(samples, grid, padding_mode="border", align_corners=False)[0, 0].numpy()


def slices_mm(contrast: str, rng: Rng, grade: Grade | None = None) -> float:
    """Slices of 1 mm, as 3D sequences have, in under half of the scans; T2w is mostly thick, also
    where FLAIR is thin."""
    if grade:
        return grade.slices_mm
    thin, thickest = {"flair": (0.45, 5.0), "t1w": (0.5, 5.0), "t2w": (0.25, 6.0)}[contrast]
    return 1.0 if rng.random() < thin else rng.uniform(1.5, thickest)


def _acquire(image: Array, slices_mm: float, rng: Rng) -> Array:
    """Slice profile, blur, noise, bias field, gamma, sometimes a ghost of motion."""
    shape = image.shape
    if slices_mm <= 1:
        image = blur(image, rng.uniform(0.3, 0.75))
    else:
        axis = 0 if rng.random() < 0.85 else int(rng.integers(1, 3))
        in_plane = np.full(3, rng.uniform(0.3, 0.6))
        in_plane[axis] = 0
        image = thick_slices(blur(image, in_plane), rng, axis, slices_mm)
    if rng.random() < 0.08:
        image = ghosted(image, rng)
    noise = rng.standard_normal(shape, np.float32)
    if rng.random() < 0.4:
        noise = blur(noise, 0.6) * 2  # as interpolation leaves it
    image = np.abs(image + rng.uniform(0.005, 0.05) * noise)
    strong = 1.0 if rng.random() < 0.25 else 0.35  # what a bias correction leaves, or none
    bias = field(rng, shape, int(rng.integers(2, 4))) * rng.uniform(0, 0.08)
    bias += field(rng, shape, 2) * rng.uniform(0, 0.07)
    return np.maximum(image * np.exp(strong * bias), 0) ** rng.uniform(0.85, 1.2)


def _brain_mask(tissue: Array, rng: Rng) -> Array:
    """From tight to loose, sometimes without any outer fluid."""
    soft = blur(np.isin(tissue, CEREBRUM).astype(np.float32), rng.uniform(1.0, 3.0))
    if rng.random() < 0.6:
        soft = soft + 0.12 * field(rng, tissue.shape, 16)
    mask = soft > rng.uniform(0.2, 0.6)
    if rng.random() < 0.15:
        mask &= tissue != CLASS["csf"]
    return ndimage.binary_fill_holes(mask)


def _own_mask(brain: Array, rng: Rng) -> Array:
    """Some tools strip each contrast by itself; then a little more is gone from one of them."""
    if rng.random() < 0.85:
        return brain
    worn = blur(brain.astype(np.float32), 1.5) + 0.08 * field(rng, brain.shape, 14)
    return worn > rng.uniform(0.4, 0.7)
