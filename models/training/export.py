"""Writes a checkpoint's averaged network as ONNX and proves that it answers as PyTorch does.

    python export.py RUN/weights.pt OUT --version 0.4.0 [--threshold T --min-ml V]
        [--flips --temperature K --shift S] [--hours H]

`@FILE` stands for options that a file keeps. OUT receives `model.onnx` (opset 17, batch and every axis
free) and `model.toml` (all that a service must know, with a golden patch). Temperature and shift are
part of the graph, and the threshold is for what it says then. With the hours of training behind the
weights, `model.toml` tells this command and the commit that it was run in. BatchNorm is folded into the
convolution before it where there is one; in a dense layer it comes first, so there it stays one scale
and shift per map.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from arrays import Array
from checkpoints import averaged_network
from contrasts import CONTRASTS
from measures import Rule
from network import FCDenseNet
from normalise import CLIP, MISSING, OUTSIDE
from predict import AIR, BOX_ABOVE, CSF_WITHIN_MM, ONE_LOOK, Asking, with_files_read
from randomised import CLASSES, SPACING_MM
from recipe import Recipe

OPSET = 17
TOLERANCE = 1e-4
PEAKS = (5.0, -1.0, 4.0)
"""Height of the golden patch's ball in each contrast: what a lesion network should find."""
HEAD_PEAKS = (3.0,)
"""The same for an anatomy network."""
GOLDEN_VOXELS = ((16, 16, 16), (21, 16, 16), (16, 22, 16), (16, 16, 23), (12, 19, 16),
                 (19, 14, 21), (7, 7, 7))
"""`(i, j, k)` of the voxels whose probability the manifest tells."""
AXES = {0: "batch", 2: "depth", 3: "height", 4: "width"}


class Probability(nn.Module):
    """The network without its side task; its logits scaled and shifted, then sigmoid or softmax."""

    def __init__(self, net: FCDenseNet, asking: Asking = ONE_LOOK) -> None:
        super().__init__()
        self.net, self.asking = net, asking

    def forward(self, image: Tensor) -> Tensor:  # (n, c, k, j, i)
        logits = self.net(image)[:, :self.net.sizes.outputs]
        logits = logits / self.asking.temperature + self.asking.shift
        return logits.sigmoid() if self.net.sizes.outputs == 1 else logits.softmax(1)


def export(net: FCDenseNet, path: Path, asking: Asking = ONE_LOOK) -> float:
    """Writes the graph; gives its largest difference to PyTorch over two shapes."""
    model = Probability(net, asking).eval()
    edge = 2 * net.sizes.multiple
    torch.onnx.export(
        model, (torch.rand(1, net.sizes.inputs, edge, edge, edge),), str(path),
        opset_version=OPSET, dynamo=False, do_constant_folding=True,
        input_names=["image"], output_names=["probability"],
        dynamic_axes={"image": AXES, "probability": AXES})
    onnx.checker.check_model(onnx.load(path))
    return max(difference(model, path, example(net, shape)) for shape in (
        (1, edge, edge, edge), (2, edge, 2 * edge, edge + net.sizes.multiple)))


def example(net: FCDenseNet, shape: tuple[int, int, int, int]) -> Tensor:
    """Noise over the range that images have, `(n, c, k, j, i)`, the same at every call."""
    n, *space = shape
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(n, net.sizes.inputs, *space)).clip(*CLIP)
    return torch.from_numpy(samples.astype(np.float32))


def difference(model: nn.Module, path: Path, image: Tensor) -> float:
    with torch.no_grad():
        wanted = model(image).numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"image": image.numpy()})
    return float(np.abs(got - wanted).max())


def golden_image(peaks: tuple[float, ...], edge: int = 32, sigma: float = 4.0) -> Array:
    """Dawson's golden patch, `(c, k, j, i)`: a ripple with a ball in its middle."""
    k, j, i = np.meshgrid(*[np.arange(edge)] * 3, indexing="ij")
    ball = np.exp(-sum((axis - edge // 2) ** 2 for axis in (i, j, k)) / (2 * sigma**2))
    ripples = [np.sin(0.9 * i + c) * np.cos(0.7 * j) * np.sin(0.5 * k + 1.0)
               for c in range(len(peaks))]
    return np.stack([0.8 * ripple + peak * ball
                     for ripple, peak in zip(ripples, peaks, strict=True)]).astype(np.float32)


def golden_table(path: Path, recipe: Recipe) -> str:
    """What the exported graph answers to the golden patch, for the service to compare with."""
    peaks = PEAKS if recipe.task == "lesion" else HEAD_PEAKS
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": golden_image(peaks)[None]})
    probability = answer[0, 0]  # (k, j, i) of the first channel
    rows = [f"    {{ at = {[i, j, k]}, probability = {probability[k, j, i]:.6f} }},"
            for i, j, k in GOLDEN_VOXELS]
    return "\n".join([
        "[golden]", "shape = [32, 32, 32]", f"peaks = {list(peaks)}", "sigma = 4.0",
        "tolerance = 1e-3", f"mean = {probability.mean():.6f}", "expected = [", *rows, "]"])


def made_by_this_command(words: list[str], hours: float) -> str:
    """The line that tells how a model came to be, if the code that makes it is that of a commit."""
    if _git("status", "--porcelain", "--", "."):
        raise SystemExit("there are changes here that no commit holds: commit them first")
    command = json.dumps(shlex.join(["python", "export.py", *words]))
    commit = _git("rev-parse", "HEAD")
    return f'made = {{ command = {command}, commit = "{commit}", training_hours = {hours:g} }}'


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=Path(__file__).parent, check=True, capture_output=True,
                          text=True)
    return done.stdout.strip()


def description(recipe: Recipe, version: str, sha256: str, rule: Rule, golden: str, *,
                flips: bool = False, made: str | None = None) -> str:
    """`model.toml`: a service takes every figure from here, none from its code."""
    lesion = recipe.task == "lesion"
    title = ("Multiple-sclerosis lesions on FLAIR, with T1w and T2w where there are any" if lesion
             else "Brain, ventricles, cortex and seven more classes on one scan of any contrast")
    head = [
        "format = 1", *([] if lesion else ['task = "anatomy"']),
        f'name = "{recipe.name}"', f'version = "{version}"', f'title = "{title}"',
        'licence = "CC-BY-4.0"', 'intended_use = "research use only, not for diagnosis"',
        'file = "model.onnx"', f'sha256 = "{sha256}"', *([made] if made else []), "",
        "[input]", 'name = "image"']
    if lesion:
        tables = [
            f"contrasts = {_strings(CONTRASTS)}", 'required = ["flair"]',
            f"missing_value = {MISSING}", "spacing_mm = [1.0, 1.0, 1.0]",
            f"multiple = {recipe.network.multiple}", "",
            "[normalisation]", 'centre = "median"', 'scale = "iqr"', f"clip = {list(CLIP)}",
            f"outside_brain = {OUTSIDE}", "",
            "[patches]", 'voting = "single"', "shape = [96, 96, 96]", "overlap = 0.5",
            'weighting = "bspline2"', *(["flips = true"] if flips else []), "",
            "[output]", 'name = "probability"', f"threshold = {rule.threshold}",
            f"min_lesion_ml = {rule.min_ml}", "restrict_to_brain = true"]
    else:
        tables = [
            f"spacing_mm = {[SPACING_MM] * 3}", f"multiple = {recipe.network.multiple}", "",
            "[showing]", "quantile = 0.99", "most = 1.5", f"head_above = {BOX_ABOVE}",
            f"air = {AIR}", "",
            "[output]", 'name = "probability"', f"classes = {_strings(CLASSES)}",
            f"fluid_within_mm = {CSF_WITHIN_MM}"]
    return "\n".join([*head, *tables, "", golden]) + "\n"


def write_model(net: FCDenseNet, recipe: Recipe, out: Path, version: str, rule: Rule,
                asking: Asking = ONE_LOOK, made: str | None = None) -> None:
    """Graph and manifest of a model; nothing is written into the manifest unless they agree."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "model.onnx"
    off = export(net, path, asking)
    if off >= TOLERANCE:
        raise SystemExit(f"differs from PyTorch by {off:.1e}, allowed are {TOLERANCE:.0e}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    text = description(recipe, version, sha256, rule, golden_table(path, recipe),
                       flips=asking.flips, made=made)
    (out / "model.toml").write_text(text)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, largest difference to PyTorch {off:.1e}, "
          f"sha256 {sha256}")


def _strings(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("weights", type=Path)
    options.add_argument("out", type=Path)
    Rule.add_options(options)
    options.add_argument("--version", required=True, help="of the model, as in its manifest")
    Asking.add_options(options)
    options.add_argument("--hours", type=float, help="of training that went into the weights")
    words = list(with_files_read(sys.argv[1:]))
    given = options.parse_args(words)
    net, recipe = averaged_network(given.weights)
    made = None if given.hours is None else made_by_this_command(words, given.hours)
    write_model(net, recipe, given.out, given.version, Rule.given(given), Asking.given(given), made)


if __name__ == "__main__":
    main()
