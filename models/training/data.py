"""Batches of patches from the pool.

A batch is a function of the recipe and the step alone: a run that stopped goes on with the very batches
it would have had. Nothing here knows the network or the loss.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from arrays import Array, Rng, Shape, blur, turned
from lesions import CONNECTED
from mottle import as_real
from normalise import MISSING, OUTSIDE
from pool import label_of, paths_of
from recipe import LESION_BIT, Recipe

OPEN_SAMPLES = 200
"""Samples whose labels stay in memory, at 10 to 15 MB each; their images are mapped."""


@dataclass(frozen=True)
class Batch:
    image: Tensor
    """`(n, c, k, j, i)`, float32."""
    lesion: Tensor
    """`(n, 1, k, j, i)`, float32, 0 or 1."""
    uncounted: Tensor
    """`(n, 1, k, j, i)`, bool: where it is not asked whether a lesion is there."""
    classes: Tensor
    """`(n, k, j, i)`, int64."""


class PatchSource:
    """Draws patches from a pool, by the paper's rule: many near lesions, moved at random; some of them
    from the pool of real scans, if the recipe has any."""

    def __init__(self, recipe: Recipe, pool: Path, real_pool: Path | None = None) -> None:
        if recipe.pool.real_samples and not real_pool:
            raise ValueError(f"the recipe trains on {recipe.pool.real}: their pool is missing")
        self.recipe, self.pool, self.real_pool = recipe, pool, real_pool
        self.busy_s = 0.0
        """Processor time that the thread of `batches` took so far, seconds."""
        self._open: OrderedDict[Path, tuple[Array, Array, Array, Array]] = OrderedDict()

    def batch(self, step: int, part: int = 0) -> Batch:
        """The batch of one step; `part` counts those whose gradients are added up."""
        rng = np.random.default_rng((self.recipe.training.seed, step, part))
        drawn = [self._patch(step, rng) for _ in range(self.recipe.training.batch)]
        image, label, uncounted = (torch.from_numpy(np.stack(each))
                                   for each in zip(*drawn, strict=True))
        return Batch(image, (label >> LESION_BIT)[:, None].float(), uncounted[:, None],
                     (label & (2**LESION_BIT - 1)).long())

    def batches(self, first_step: int) -> Iterator[list[Batch]]:
        """All batches of each step from `first_step` on, made ahead of their use in a thread."""
        ready: queue.Queue[list[Batch]] = queue.Queue(2)

        def work() -> None:
            for step in range(first_step, self.recipe.training.steps):
                parts = range(self.recipe.training.accumulate)
                batches = [self.batch(step, part) for part in parts]
                self.busy_s = time.thread_time()
                ready.put(batches)

        threading.Thread(target=work, daemon=True).start()
        for _ in range(first_step, self.recipe.training.steps):
            yield ready.get()

    def _patch(self, step: int, rng: Rng) -> tuple[Array, Array, Array]:
        plan = self.recipe.patches
        from_real = self.real_pool is not None and self.recipe.pool.real_samples > 0
        is_real = from_real and rng.random() < plan.on_real
        image, label, lesion, inside = self._sample(self._drawn(is_real, step, rng))
        source = lesion if len(lesion) and rng.random() < plan.on_lesion else inside
        size, shape = np.array(plan.size), np.array(label.shape)
        centre = np.array(np.unravel_index(source[rng.integers(len(source))], label.shape))
        centre += rng.integers(-plan.shift, plan.shift + 1, 3)
        low = np.clip(centre - size // 2, 0, shape - size)
        box = tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))
        halves = np.array(image[(slice(None), *box)])  # (c, k, j, i), copied off the disk
        patch = torch.from_numpy(halves).float().numpy()  # sooner than numpy widens them
        classes = label[box]
        if plan.flip and rng.random() < 0.5:
            patch, classes = patch[..., ::-1], classes[..., ::-1]
        if plan.turn and rng.random() < 0.5:
            patch, classes = turned(patch), turned(classes)
        spared = is_real and not plan.real_rim
        uncounted = rim_of(classes >> LESION_BIT) if spared else np.zeros(classes.shape, bool)
        return self._disturb(patch, classes, is_real, rng), np.ascontiguousarray(classes), uncounted

    def _disturb(self, patch: Array, classes: Array, is_real: bool, rng: Rng) -> Array:
        """The patch as a scan might show it; nothing is spent on contrasts that are missing."""
        plan = self.recipe.patches
        drop = plan.drop_real if is_real and plan.drop_real else plan.drop
        missing = rng.random(len(patch)) < np.array(drop)
        shown = np.flatnonzero(~missing)
        contrasts = (len(shown), 1, 1, 1)
        outside = patch[shown]
        hidden = outside <= OUTSIDE if self.recipe.task == "lesion" else outside == 0
        seen = as_real(patch, classes, plan.painting(shown.tolist()), rng)[shown]
        seen *= np.exp(rng.uniform(-plan.scale, plan.scale, contrasts)).astype(np.float32)
        seen += rng.normal(0, plan.offset, contrasts).astype(np.float32)
        if any(plan.darker):
            soft = blur((classes >> LESION_BIT).astype(np.float32), 0.7)
            seen -= rng.random(contrasts, np.float32) * _column(plan.darker)[shown] * soft
        seen += _ramps(np.array(plan.ramp)[shown], seen.shape[1:], rng)
        noise = rng.standard_normal(seen.shape, np.float32)
        noise *= np.float32(rng.uniform(0, plan.noise))
        seen += noise
        seen[hidden] = OUTSIDE if self.recipe.task == "lesion" else 0.0
        disturbed = np.full(patch.shape, MISSING, np.float32)
        disturbed[shown] = seen
        return disturbed

    def _drawn(self, is_real: bool, step: int, rng: Rng) -> Path:
        """The image of a sample, out of those that are due by this step."""
        plan = self.recipe.pool
        if is_real and self.real_pool:
            return paths_of(self.real_pool, int(rng.integers(plan.real_samples)))[0]
        late = max(plan.samples - plan.first, 0) * step / max(self.recipe.training.steps * 0.6, 1)
        number = int(rng.integers(min(plan.first + int(late), plan.samples)))
        return paths_of(self.pool, number)[0]

    def _sample(self, image_path: Path) -> tuple[Array, Array, Array, Array]:
        """Image (mapped), label, and the flat places of its lesion voxels and of its brain."""
        if image_path not in self._open:
            while not image_path.exists():
                time.sleep(0.2)
            label = np.load(label_of(image_path))
            self._open[image_path] = (np.load(image_path, mmap_mode="r"), label,
                                      _places_of(label >= 1 << LESION_BIT),
                                      _places_of(label & (2**LESION_BIT - 1) > 0))
            if len(self._open) > OPEN_SAMPLES:
                self._open.popitem(last=False)
        return self._open[image_path]


def rim_of(lesions: Array) -> Array:
    """The voxels on both sides of the lesions' borders. Lesions with no voxel inside of theirs are kept
    whole: of them only what lies around is rim."""
    lesions = lesions > 0
    inside = ndimage.binary_erosion(lesions, CONNECTED, border_value=1)
    thick = ndimage.binary_propagation(inside, CONNECTED, mask=lesions)
    return (ndimage.binary_dilation(lesions, CONNECTED) & ~lesions) | (thick & ~inside)


def _places_of(mask: Array) -> Array:
    return np.flatnonzero(mask).astype(np.int32)


def _column(values: tuple[float, ...]) -> Array:
    """One value per contrast, `(c, 1, 1, 1)`."""
    return np.array(values, np.float32)[:, None, None, None]


def _ramps(deviations: Array, shape: Shape, rng: Rng) -> Array:
    """A plane through each contrast, `(c, k, j, i)`: from the middle to a face it rises by a draw of
    the contrast's deviation along each axis."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))  # (3, k, j, i)
    slopes = rng.normal(size=(len(deviations), 3)) * deviations[:, None] / np.sqrt(3)
    return np.tensordot(slopes.astype(np.float32), grid, 1)
