"""What ships is what its record says: the weights, asked as the recorded command asks them."""

import hashlib
import shlex
import tomllib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import onnxruntime
import pytest
import torch
from conftest import HERE

from cases import read_cases
from checkpoints import averaged_network
from export import TOLERANCE, Probability
from normalise import whole_head
from predict import Asking, at_spacing
from randomised import SPACING_MM

MODEL = max((HERE.parent / "ms-lesion").iterdir())
ANATOMY = max((HERE.parent / "brain-anatomy").iterdir())
EDGE = 64


def option(command: list[str], name: str) -> float:
    joined = " ".join(command).replace("=", " ").split()
    return float(joined[joined.index(name) + 1])


def recorded(model: Path) -> tuple[dict[str, Any], list[str]]:
    """A model's manifest and the command that made it."""
    manifest = tomllib.loads((model / "model.toml").read_text())
    return manifest, shlex.split(manifest["made"]["command"])


@pytest.mark.parametrize("model", [MODEL, ANATOMY])
def test_the_recorded_command_makes_this_version_in_this_place(model: Path) -> None:
    manifest, command = recorded(model)
    assert command[:2] == ["python", "export.py"]
    assert command[3] == f"../{manifest['name']}/{manifest['version']}"
    assert command[command.index("--version") + 1] == manifest["version"] == model.name
    assert option(command, "--hours") == manifest["made"]["training_hours"]
    assert hashlib.sha256((model / "model.onnx").read_bytes()).hexdigest() == manifest["sha256"]


def test_the_anatomy_network_answers_as_its_checkpoint_on_native_scans(data: Path) -> None:
    _, command = recorded(ANATOMY)
    net, _ = averaged_network(HERE / command[2])
    # In double precision: PyTorch's single one strays further from it here than what ships does.
    checkpoint = Probability(net, Asking()).eval().double()
    session = onnxruntime.InferenceSession(ANATOMY / "model.onnx", providers=["CPUExecutionProvider"])
    scans = sorted((data / "raw").glob("long01/study1_*.nii.gz"))
    assert len(scans) == 3
    for path in scans:
        scan = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
        image = whole_head(np.asarray(at_spacing(scan, SPACING_MM).dataobj).transpose(2, 1, 0))
        whole = tuple(slice(0, n // 16 * 16) for n in image.shape)
        patch = np.ascontiguousarray(image[whole][None, None], np.float32)
        (said,) = session.run(None, {"image": patch})
        with torch.no_grad():
            wanted = checkpoint(torch.from_numpy(patch).double()).numpy()
        assert np.abs(said - wanted).max() < 2 * TOLERANCE


def test_the_shipped_network_answers_as_its_checkpoint_on_real_patches(data: Path) -> None:
    manifest, command = recorded(MODEL)
    assert option(command, "--threshold") == manifest["output"]["threshold"]
    assert option(command, "--min-ml") == manifest["output"]["min_lesion_ml"]
    assert ("--flips" in command) == manifest["patches"]["flips"]
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
        assert np.abs(said - wanted).max() < TOLERANCE
