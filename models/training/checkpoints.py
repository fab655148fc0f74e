"""What a checkpoint holds and how a network comes back from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from network import FCDenseNet, channels_last
from recipe import Recipe, parse


def recipe_as_text(recipe: Recipe) -> str:
    """The recipe as JSON, so that a checkpoint can be read without running anything."""
    return json.dumps(dataclasses.asdict(recipe))


def recipe_of(checkpoint: dict[str, Any]) -> Recipe:
    recipe: Recipe = parse(Recipe, json.loads(checkpoint["recipe"]), "checkpoint")
    return recipe


def load_weights(path: Path) -> dict[str, Any]:
    """Reads tensors and plain values only; a checkpoint cannot run code."""
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def averaged_network(path: Path) -> tuple[FCDenseNet, Recipe]:
    """The network that a checkpoint stands for, with its averaged weights, ready to predict."""
    checkpoint = load_weights(path)
    recipe = recipe_of(checkpoint)
    net = FCDenseNet(recipe.network)
    net.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                         for name, tensor in checkpoint["average"].items()})
    return channels_last(net.eval()), recipe


def start_from(net: FCDenseNet, path: Path) -> None:
    """Begins with the averaged weights of another run; its sizes must be the same."""
    checkpoint = load_weights(path)
    net.load_state_dict(checkpoint["average"])


def keep(source: Path, target: Path) -> None:
    """Writes what is kept of a run: its average in half precision, to judge and to begin from."""
    checkpoint = load_weights(source)
    half = {key: tensor.half() if tensor.is_floating_point() else tensor
            for key, tensor in checkpoint["average"].items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    said = {key: value for key, value in checkpoint.items()
            if key not in ("weights", "average", "optimiser", "random")}
    torch.save({**said, "average": half}, target)
