"""A recipe: everything that decides what a training run makes, in one TOML file.

Every key is a field below; an unknown key, a missing one or one of the wrong type is refused. What
does not change the weights (paths, the pause file) stands on the command line instead.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from losses import Term
from network import Sizes

LESION_BIT = 7
"""Of a sample's label: marks a lesion; the bits below it are the class of the side task."""
UNKNOWN = 127
"""Class of brain tissue that nobody has named; the side task leaves it out."""


class RecipeError(ValueError):
    """The recipe says something that no field understands."""


@dataclass(frozen=True)
class Pool:
    """The synthetic heads that are made beforehand."""

    samples: int
    first: int
    """Samples that the first step may draw from; later ones join at an even pace."""
    shape: tuple[int, int, int]
    heads: tuple[int, ...]
    """Numbers of the label maps in use; the others judge."""
    bank_without: tuple[str, ...] = ()
    """Patients whose masks must not enter the lesion bank."""
    seed: int = 0
    real: tuple[str, ...] = ()
    """Patients whose scans are trained on."""
    real_samples: int = 0
    """Samples that are made of them."""
    real_thick: float = 0.0
    """Share of those that are given thick slices and, now and then, the fluid around the brain."""
    real_worse: float = 0.0
    """Share of those that are scanned worse than they were: blurred, ghosted, contrasts apart."""
    dura: float = 0.0
    """Share of the painted heads on whose brain stripping left some dura."""
    insula: float = 0.0
    """Share of the painted heads whose insula is as bright as cortex gets."""


PAINTED = ("fade", "mottle", "spots", "cortex", "fluid", "dark")
"""What `Patches` lets be painted, contrast by contrast; empty where nothing is."""


@dataclass(frozen=True)
class Patches:
    """What is cut from a sample, and how it is changed at every draw."""

    size: tuple[int, int, int]
    on_lesion: float = 0.0
    """Share of patches that are centred near a lesion voxel."""
    on_real: float = 0.0
    """Share of patches that come from scans of real patients."""
    shift: int = 20
    """Voxels per axis by which a patch is moved off the voxel it was drawn for."""
    scale: float = 0.0
    """Each contrast is multiplied by exp(U(-scale, scale))."""
    offset: float = 0.0
    """Standard deviation of what is added to each contrast."""
    ramp: tuple[float, ...] = (0.0,)
    """Standard deviation, for each contrast, of a slope that is added along a random line, per half
    patch: the bias field that a correction left."""
    darker: tuple[float, ...] = (0.0,)
    """The most by which a patch's lesions are made darker in each contrast: T1w lesions range from
    iso-intense to black holes."""
    fade: tuple[float, ...] = ()
    """How often a patch's lesions stand out in places only, contrast by contrast."""
    mottle: tuple[float, ...] = ()
    """The most texture (standard deviation) that tissue of a label map is given in each contrast;
    below 0 where it darkens what it brightens in FLAIR."""
    spots: tuple[float, ...] = ()
    """The most by which spots that are no lesions stand out of such tissue in each contrast."""
    cortex: tuple[float, ...] = ()
    """The most by which the cortex of a label map is brighter in places, contrast by contrast."""
    fluid: tuple[float, ...] = ()
    """The same for its fluid."""
    dark: tuple[float, ...] = ()
    """The most by which vessels and dura darken both, contrast by contrast."""
    clean: float = 0.0
    """Share of the patches of label maps that are left as painted, without any of these six."""
    noise: float = 0.0
    """The most by which single voxels are disturbed (standard deviation)."""
    drop: tuple[float, ...] = (0.0,)
    """How often each contrast is missing."""
    drop_real: tuple[float, ...] = ()
    """The same for patches of real patients; `drop` if not given."""
    real_rim: bool = True
    """Whether the loss counts the voxels on both sides of a real lesion's border, which its raters
    drew."""
    flip: bool = True
    """Whether every other patch is mirrored, left for right."""
    turn: bool = False
    """Whether every other patch is turned, as for a second look, by half a turn about the long axis."""

    def painting(self, shown: Sequence[int]) -> Patches:
        """The same, with nothing painted into any other contrast."""
        most: dict[str, Any] = {
            name: tuple(value if n in shown else 0.0 for n, value in enumerate(getattr(self, name)))
            for name in PAINTED}
        return replace(self, **most)


@dataclass(frozen=True)
class Training:
    steps: int
    batch: int
    accumulate: int
    """Batches whose gradients are added up before one step."""
    rate: float
    warmup_steps: int
    anneal_steps: int
    """Last steps, in which the rate falls to nothing."""
    frozen_steps: int
    """Last steps, in which BatchNorm's statistics stand still."""
    average: float
    """Decay of the running average of the weights; the average is what is kept."""
    weight_decay: float
    clip: float
    """The longest gradient."""
    seed: int
    bf16: bool
    checkpoint_s: int
    side_weight: float = 0.0


@dataclass(frozen=True)
class Recipe:
    name: str
    task: Literal["lesion", "anatomy"]
    network: Sizes
    loss: tuple[Term, ...]
    pool: Pool
    patches: Patches
    training: Training

    def __post_init__(self) -> None:
        for edge in self.patches.size:
            if edge % self.network.multiple:
                raise RecipeError(
                    f"a patch edge of {edge} is no multiple of {self.network.multiple}")
        for name in ("real_thick", "real_worse", "dura", "insula"):
            share = getattr(self.pool, name)
            if not 0 <= share <= 1:
                raise RecipeError(f"{name} is {share:g}, a share must be 0 to 1")
        for name in ("drop", "drop_real", "ramp", "darker", *PAINTED):
            given = len(getattr(self.patches, name))
            optional = name in ("drop_real", *PAINTED)
            if given != self.network.inputs and not (optional and given == 0):
                raise RecipeError(f"{name} has {given} entries for {self.network.inputs} contrasts")


def read_recipe(path: Path) -> Recipe:
    with path.open("rb") as file:
        return parse(Recipe, tomllib.load(file), path.name)


def parse(kind: Any, value: Any, where: str) -> Any:
    """Builds `kind` from what TOML gave, refusing whatever does not fit."""
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecipeError(f"{where}: {value!r} is no list")
        if arguments[-1] is Ellipsis:
            kinds = [arguments[0]] * len(value)
        elif len(value) == len(arguments):
            kinds = list(arguments)
        else:
            raise RecipeError(f"{where}: {len(value)} entries, must be {len(arguments)}")
        return tuple(parse(k, v, f"{where}[{n}]") for n, (k, v) in enumerate(zip(kinds, value,
                                                                                strict=True)))
    if origin is Literal:
        if value not in arguments:
            raise RecipeError(f"{where}: {value!r} is none of {', '.join(map(str, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        raise RecipeError(f"{where}: a field of two types cannot be read")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise RecipeError(f"{where}: {value!r} is no {kind.__name__}")
    return value


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: {value!r} is no table")
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise RecipeError(f"{where}: unknown key {key!r}, known are {', '.join(hints)}")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.name not in value:
            raise RecipeError(f"{where}: {field.name!r} is missing")
    return kind(**{key: parse(hints[key], given, f"{where}: {key}")
                   for key, given in value.items()})
