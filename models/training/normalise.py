"""How samples become what a network sees; the service does the same, from `model.toml`.

Before it the service divides a contrast by its bias field where that spans more than 0.42
(docs/method.md, 4a). Training does not: the fields of `synthesis.py` and of the labelled scans are
weaker.
"""

from __future__ import annotations

import numpy as np

from arrays import Array

CLIP = (-4.0, 8.0)
OUTSIDE = -4.0
"""Value of every voxel outside the brain mask, and of padding."""
MISSING = 0.0
"""Value of every voxel of a contrast that is not there."""


def within_brain(samples: Array, brain: Array) -> Array:
    """(x - median) / (IQR / 1.349) over the brain mask, clipped. The mask itself is not applied."""
    low, middle, high = np.percentile(samples[brain], (25, 50, 75))
    scale = max(float(high - low) / 1.349, 1e-6)
    return np.clip((samples - middle) / scale, *CLIP).astype(np.float32)


def whole_head(samples: Array) -> Array:
    """x / (99 % quantile of the voxels above 0), clipped to 0..1.5: nothing need be known."""
    positive = samples[samples > 0]
    scale = float(np.percentile(positive, 99)) if positive.size else 1.0
    return np.clip(samples / max(scale, 1e-6), 0.0, 1.5).astype(np.float32)
