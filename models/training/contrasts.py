"""Mean intensity of each compact class in FLAIR, T1w and T2w, in units of normal white matter.

Read off textbooks and real scans; orderings matter, digits don't: generators jitter all of them.
"""

from __future__ import annotations

from heads import CLASS

CONTRASTS = ("flair", "t1w", "t2w")
"""In the order of the network's channels; the first is required."""

_TABLE = {  # FLAIR, T1w, T2w
    "air": (0.02, 0.02, 0.02), "white": (1.0, 1.0, 1.0), "cortex": (1.20, 0.75, 1.35),
    "lateral_ventricle": (0.25, 0.25, 3.1), "middle_ventricle": (0.30, 0.26, 2.9),
    "csf": (0.30, 0.28, 2.7), "cerebellar_white": (1.04, 0.98, 1.05),
    "cerebellar_cortex": (1.18, 0.74, 1.32), "thalamus": (1.10, 0.86, 1.15),
    "caudate": (1.18, 0.76, 1.25), "putamen": (1.08, 0.82, 1.12), "pallidum": (0.92, 0.93, 0.82),
    "brainstem": (1.10, 0.94, 1.10), "hippocampus": (1.32, 0.74, 1.42),
    "amygdala": (1.30, 0.74, 1.40), "vessel": (0.45, 0.45, 0.60), "skin": (1.1, 1.1, 0.9),
    "soft": (0.9, 0.9, 0.9), "muscle": (0.8, 0.65, 0.5), "mucosa": (1.7, 0.8, 1.9),
    "bone": (0.15, 0.18, 0.15), "marrow": (0.8, 1.1, 0.8), "eye": (0.25, 0.28, 3.0),
    "nerve": (1.0, 0.85, 1.1), "cord": (1.1, 0.9, 1.2), "plexus": (1.0, 0.65, 2.0),
    "lesion": (1.0, 1.0, 1.0), "perivascular": (0.5, 0.5, 2.0),
}
BASE: dict[str, tuple[float, ...]] = {
    contrast: tuple(_TABLE[tissue][n] for tissue in CLASS) for n, contrast in enumerate(CONTRASTS)
}
