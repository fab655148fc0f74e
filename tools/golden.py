#!/usr/bin/env python3
"""Compute the golden patch of a model and write its answers into model.toml.

    .venv/bin/python tools/golden.py models/ms-lesion/0.1.0

The patch is made by the formula in docs/models.md; the answers are those of ONNX Runtime's CPU
provider. Run it once when a model is made: from then on the numbers hold every engine to account.
"""
import pathlib
import re
import sys
import tomllib

import numpy as np
import onnxruntime


def image(golden: dict) -> np.ndarray:
    """Intensities, float32 [c, k, j, i]."""
    ni, nj, nk = golden["shape"]
    k, j, i = np.meshgrid(np.arange(nk), np.arange(nj), np.arange(ni), indexing="ij")
    r2 = (i - ni // 2) ** 2 + (j - nj // 2) ** 2 + (k - nk // 2) ** 2
    ball = np.exp(-r2 / (2 * golden["sigma"] ** 2))
    channels = [
        0.8 * np.sin(0.9 * i + c) * np.cos(0.7 * j) * np.sin(0.5 * k + 1) + peak * ball
        for c, peak in enumerate(golden["peaks"])
    ]
    return np.stack(channels).astype(np.float32)


def main(folder: pathlib.Path) -> None:
    path = folder / "model.toml"
    text = path.read_text()
    manifest = tomllib.loads(text)
    golden = manifest["golden"]
    session = onnxruntime.InferenceSession(
        str(folder / manifest["file"]), providers=["CPUExecutionProvider"])
    (answer,) = session.run([manifest["output"]["name"]], {manifest["input"]["name"]: image(golden)[None]})
    probability = answer[0, 0]                                    # (k, j, i)
    ni, nj, nk = golden["shape"]
    # The middle, and places on the slope of the ball where a wrong axis would show.
    voxels = [(ni // 2 + di, nj // 2 + dj, nk // 2 + dk)
              for di, dj, dk in ((0, 0, 0), (5, 0, 0), (0, 6, 0), (0, 0, 7), (-4, 3, 0), (3, -2, 5), (-9, -9, -9))]
    rows = "".join(
        f"    {{ at = [{i}, {j}, {k}], probability = {probability[k, j, i]:.6f} }},\n" for i, j, k in voxels)
    text = re.sub(r"(?m)^mean = .*$", f"mean = {probability.mean(dtype=np.float64):.6f}", text)
    text = re.sub(r"(?ms)^expected = \[\n.*?^\]", f"expected = [\n{rows}]", text)
    path.write_text(text)
    print(f"{path}: mean {probability.mean():.6f}, {len(voxels)} voxels")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
