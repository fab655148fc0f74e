"""What real tissue has and a painted label map lacks: texture, faint spots that are no lesions, and
lesions that are bright only in places.

Real white matter varies by 0.15 to 0.2 normalised units at every scale from 1 to 5 mm, for the most
part alike in FLAIR and T2w and the other way round in T1w. Painted tissue had a third of that, and a
network took any faint spot for a lesion, the more surely the more contrasts showed it.
"""

from __future__ import annotations

import numpy as np

from arrays import Array, Rng, Shape, blur, field
from recipe import LESION_BIT

_SIGNS = (1, -1, 1)
"""Whether lesions are brighter or darker than white matter, contrast by contrast."""
_WHITE = 1
_TISSUE = (_WHITE, 2, 4, 5)
"""Classes of the side task that are neither background nor fluid."""


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
        for n, most in enumerate(texture):
            common = rng.uniform(0.3, 0.95)
            own = _texture(shape, rng)
            gained[n] += rng.uniform(0.1, 1) * most * (
                common * shared + (1 - common**2) ** 0.5 * own)
    if any(spots) and rng.random() < 0.75:
        lesion = blur((label >> LESION_BIT).astype(np.float32), 1.5)
        where = _spots(shape, rng) * np.clip(1 - 4 * lesion, 0, 1)
        for n, most in enumerate(spots):
            gained[n] += rng.uniform(0, 1) * most * where
    return gained * tissue


def faded(patch: Array, label: Array, chances: tuple[float, ...], rng: Rng) -> Array:
    """Lesions that stand out in places only, as confluent ones do, by a share of their contrast that
    varies from place to place: in FLAIR down to a floor, in T1w and T2w until nothing is left of it."""
    white = label == _WHITE
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
