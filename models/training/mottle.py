"""What real tissue has and a painted label map lacks: texture, faint spots that are no lesions, cortex
and fluid of uneven brightness, and lesions that are bright only in places.

Real white matter varies by 0.15 to 0.2 normalised units at every scale from 1 to 5 mm, for the most
part alike in FLAIR and T2w and the other way round in T1w. Painted tissue had a third of that, and a
network took any faint spot for a lesion, the more surely the more contrasts showed it. In T2w real
cortex and fluid reach far above painted ones, and vessels and dura far below, so that painted lesions
stood out too well.
"""

from __future__ import annotations

import numpy as np

from arrays import Array, Rng, Shape, blur, field
from recipe import LESION_BIT, UNKNOWN, Patches

_SIGNS = (1, -1, 1)
"""Whether lesions are brighter or darker than white matter, contrast by contrast."""
_BACKGROUND, _WHITE, _CORTEX, _FLUID = range(4)
_TISSUE = (_WHITE, _CORTEX, 4, 5)
"""Classes of the side task that are neither background nor fluid."""


def as_real(image: Array, label: Array, plan: Patches, rng: Rng) -> Array:
    """A patch or a whole sample with all of this, as much as the recipe says, drawn anew; a share of
    them is left as painted, so that smooth tissue is known too."""
    if plan.clean and rng.random() < plan.clean and not (label == UNKNOWN).any():
        return image
    if any(plan.fade):
        image = faded(image, label, plan.fade, rng)
    if any(plan.mottle) or any(plan.spots):
        image = image + mottle(label, plan.mottle, plan.spots, rng)
    if any(plan.cortex) or any(plan.fluid) or any(plan.dark):
        image = image + uneven(label, plan.cortex, plan.fluid, plan.dark, rng)
    return image


def mottle(label: Array, texture: tuple[float, ...], spots: tuple[float, ...], rng: Rng) -> Array:
    """What a patch gains, `(c, k, j, i)`; nothing in unknown tissue, and no spot near a lesion.

    `texture` and `spots` are the most of each contrast, below 0 where it darkens what FLAIR brightens.
    """
    shape = label.shape
    tissue = blur(np.isin(label & (2**LESION_BIT - 1), _TISSUE).astype(np.float32), 0.6)
    gained = np.zeros((max(len(texture), len(spots)), *shape), np.float32)
    if not tissue.any():
        return gained
    if any(texture):
        shared = _texture(shape, rng)
        for n, most in _painted(texture):
            common = rng.uniform(0.3, 0.95)
            own = _texture(shape, rng)
            gained[n] += rng.uniform(0.1, 1) * most * (
                common * shared + (1 - common**2) ** 0.5 * own)
    if any(spots) and rng.random() < 0.75:
        lesion = blur((label >> LESION_BIT).astype(np.float32), 1.5)
        where = _spots(shape, rng) * np.clip(1 - 4 * lesion, 0, 1)
        for n, most in _painted(spots):
            gained[n] += rng.uniform(0, 1) * most * where
    return gained * tissue


def uneven(label: Array, cortex: tuple[float, ...], fluid: tuple[float, ...], dark: tuple[float, ...],
           rng: Rng) -> Array:
    """What a patch gains, `(c, k, j, i)`: cortex and fluid brighter in places, dark vessels and dura in
    both and beyond; the most of it contrast by contrast, none of it in a lesion."""
    classes, shape = label & (2**LESION_BIT - 1), label.shape
    lesion = blur((label >> LESION_BIT).astype(np.float32), 1.5)
    clear = np.clip(1 - 4 * lesion, 0, 1)
    gained = np.zeros((max(len(cortex), len(fluid), len(dark)), *shape), np.float32)
    for tissue, brightest in ((_CORTEX, cortex), (_FLUID, fluid)):
        where = (classes == tissue).astype(np.float32)
        if not any(brightest) or not where.any():
            continue
        cells = round(max(shape) / rng.uniform(4, 20))
        where = blur(where, 0.5) * clear * np.clip(0.6 + 0.5 * field(rng, shape, cells), 0, 1)
        for n, most in _painted(brightest):
            gained[n] += rng.uniform(0, 1) * most * where
    outer = np.isin(classes, (_BACKGROUND, _CORTEX, _FLUID)).astype(np.float32)
    if any(dark) and outer.any():
        where = blur(outer, 0.5) * clear * _spots(shape, rng)
        for n, most in _painted(dark):
            gained[n] -= rng.uniform(0, 1) * most * where
    return gained


def faded(patch: Array, label: Array, chances: tuple[float, ...], rng: Rng) -> Array:
    """Lesions that stand out in places only, as confluent ones do, by a share of their contrast that
    varies from place to place: in FLAIR down to a floor, in T1w and T2w until nothing is left of it."""
    white = (label == _WHITE) | ((label == UNKNOWN) & (np.abs(patch[0]) < 1))
    lesion = blur((label >> LESION_BIT).astype(np.float32), 0.7)
    changed = patch.copy()
    for n, chance in enumerate(chances):
        if rng.random() >= chance or (n and not white.any()):
            continue
        level = np.median(patch[n][white]) if n else rng.uniform(1.2, 1.9)
        cells = round(max(label.shape) / rng.uniform(8, 24))
        share = np.clip(rng.uniform(0.3, 0.9) + 0.6 * field(rng, label.shape, cells), 0, 1)
        beyond = np.maximum(_SIGNS[n] * (patch[n] - level), 0)
        changed[n] -= _SIGNS[n] * share * lesion * beyond
    return changed


def _painted(most: tuple[float, ...]) -> list[tuple[int, float]]:
    """The contrasts into which something is painted, and the most of it."""
    return [(n, value) for n, value in enumerate(most) if value]


def _texture(shape: Shape, rng: Rng) -> Array:
    """Bumps of 2 to 4 and of 4 to 14 voxels, deviation about 1."""
    share, longest = rng.uniform(0.2, 0.8), max(shape)
    fine = field(rng, shape, round(longest / rng.uniform(2, 4)))
    coarse = field(rng, shape, round(longest / rng.uniform(4, 14)))
    return share**0.5 * fine + (1 - share) ** 0.5 * coarse


def _spots(shape: Shape, rng: Rng) -> Array:
    """0 to 1; spots of 3 to 12 voxels with hard or soft edges, few or many."""
    bumps = field(rng, shape, round(max(shape) / rng.uniform(3, 9)))
    soft = rng.uniform(0.2, 1.2)
    return np.clip((bumps - rng.uniform(1.3, 2.4)) / soft, 0, 1)
