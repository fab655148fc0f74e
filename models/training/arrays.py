"""Random fields and filters that both generators use, on plain `(k, j, i)` arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Shape = tuple[int, int, int]
Rng = np.random.Generator


def field(rng: Rng, shape: Shape, cells: int) -> Array:
    """A smooth random field of mean 0 and deviation about 1, `cells` bumps along the longest axis."""
    coarse = [max(2, round(cells * n / max(shape)) + 1) for n in shape]
    bumps = rng.normal(size=coarse).astype(np.float32)
    # Trilinear, as three products of matrices: a patch takes a dozen fields.
    along_k, along_j, along_i = (_between(few, many) for few, many in zip(coarse, shape, strict=True))
    planes = along_j @ (bumps @ along_i.T)  # (coarse k, j, i)
    smooth = (along_k @ planes.reshape(coarse[0], -1)).reshape(shape)
    return smooth / (smooth.std() + 1e-6)


def _between(few: int, many: int) -> Array:
    """`(many, few)`: the shares of `few` points, the outermost at both ends, in `many` between them."""
    places = np.linspace(0, few - 1, many)
    below = np.minimum(places.astype(int), few - 2)
    shares = np.zeros((many, few), np.float32)
    rows = np.arange(many)
    shares[rows, below] = 1 - (places - below)
    shares[rows, below + 1] = places - below
    return shares


def blur(x: Array, sigma: float | Array) -> Array:
    """A Gaussian, cut off at three deviations (voxels), what lies beyond an edge mirrored in it."""
    sigmas = np.broadcast_to(sigma, (3,))
    if max(sigmas) <= 0.2 or not x.any():
        return x
    # As products of matrices, like a field.
    along_k, along_j, along_i = (_gaussian(n, s, x.dtype) for n, s in zip(x.shape, sigmas, strict=True))
    planes = along_j @ (x @ along_i.T)
    return (along_k @ planes.reshape(len(x), -1)).reshape(x.shape)


def _gaussian(n: int, sigma: float, dtype: np.dtype[Any]) -> Array:
    """`(n, n)`: what each of `n` points has of the others."""
    own = np.eye(n, dtype=dtype)
    return ndimage.gaussian_filter1d(own, sigma, axis=0, truncate=3.0) if sigma > 0 else own


def turned(x: Array) -> Array:
    """Turned by half a turn about the long axis of the body, `(..., k, j, i)`."""
    return x[..., ::-1, ::-1]


def ghosted(x: Array, rng: Rng) -> Array:
    """With a faint copy of itself beside it, in the plane of the slices, as motion leaves it."""
    ghost = np.roll(x, int(rng.integers(15, 60)), axis=int(rng.integers(1, 3)))
    return x + rng.uniform(0.01, 0.05) * ghost


def resize(x: Array, shape: Shape, blocky: bool = False) -> Array:
    """`x` on another grid of the same extent, interpolated or, `blocky`, by its nearest voxel."""
    samples = torch.from_numpy(np.ascontiguousarray(x, np.float32))[None, None]
    if blocky:
        return F.interpolate(samples, size=shape, mode="nearest-exact")[0, 0].numpy()
    return F.interpolate(samples, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()


def rotation(angles_rad: Array) -> Array:
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles_rad), np.sin(angles_rad)
    about_k = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_j = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_i = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_k @ about_j @ about_i


def thick_slices(x: Array, rng: Rng, axis: int, voxels: float) -> Array:
    """What slices of `voxels` thickness along `axis` leave of `x`, back on its own grid."""
    sigma = np.zeros(3)
    sigma[axis] = 0.38 * voxels  # a slice profile whose full width at half maximum is about 0.9
    coarse = list(x.shape)
    coarse[axis] = max(8, round(x.shape[axis] / (voxels * rng.uniform(0.9, 1.15))))
    thin = resize(blur(x, sigma), (coarse[0], coarse[1], coarse[2]))
    return resize(thin, x.shape, blocky=rng.random() < 0.25)


def flat_index(place: Array, shape: Shape) -> Array:
    """Index into a flattened array for `(..., 3)` places, rounded; places outside hit the edge."""
    index = np.zeros(place.shape[:-1], np.int64)
    for axis, n in enumerate(shape):
        index *= n
        index += np.clip(np.rint(place[..., axis]), 0, n - 1).astype(np.int64)
    return index
