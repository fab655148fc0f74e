"""What ships is what its record says: the weights, asked as the recorded command asks them."""

import shlex
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import HERE

from cases import read_cases
from checkpoints import averaged_network
from export import TOLERANCE, Probability
from predict import Asking

MODEL = max((HERE.parent / "ms-lesion").iterdir())
EDGE = 64


def option(command: list[str], name: str) -> float:
    joined = " ".join(command).replace("=", " ").split()
    return float(joined[joined.index(name) + 1])


def test_the_shipped_network_answers_as_its_checkpoint_on_real_patches(data: Path) -> None:
    manifest = tomllib.loads((MODEL / "model.toml").read_text())
    command = shlex.split(manifest["made"]["command"])
    asking = Asking(temperature=option(command, "--temperature"), shift=option(command, "--shift"))
    net, _ = averaged_network(HERE / command[2])
    checkpoint = Probability(net, asking).eval()
    session = onnxruntime.InferenceSession(MODEL / "model.onnx", providers=["CPUExecutionProvider"])
    for case in read_cases(data / "labelled"):
        middle = np.argwhere(case.truth).mean(0).astype(int)
        low = np.clip(middle - EDGE // 2, 0, np.array(case.truth.shape) - EDGE)
        box = tuple(slice(n, n + EDGE) for n in low)
        patch = np.ascontiguousarray(case.image[(slice(None), *box)][None])
        (said,) = session.run(None, {"image": patch})
        with torch.no_grad():
            wanted = checkpoint(torch.from_numpy(patch)).numpy()
        assert said.max() > 0.5
        assert said == pytest.approx(wanted, abs=TOLERANCE)
