"""Where lesions lie: pieces of real masks and drawn ones, placed until a head carries its load.

Real masks (the bank) give shapes and places; each piece moves to where white matter takes it. The load
is drawn first and small loads have their share: a network that mostly sees 20 ml never learns 1 ml.
This room says which voxels are lesion; how they look is `synthesis`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from arrays import Array, Rng, field
from heads import CLASS, read_ras

CONNECTED = np.ones((3, 3, 3))
"""Lesions are 26-connected."""


@dataclass(frozen=True)
class Piece:
    """One lesion of a real mask."""

    mask: Array
    """bool `(k, j, i)` in RAS+ order at 1 mm, tight box."""
    centre_mm: Array
    """`(x, y, z)` in MNI space."""


@dataclass(frozen=True)
class Room:
    """What placement must know of a head: tissue, distances and the way to MNI space."""

    tissue: Array
    """Compact classes with own lesions as white matter, `(k, j, i)`."""
    own: Array
    """The lesions that the label map has, bool."""
    to_ventricle: Array
    """Distance to the lateral ventricles in voxels, up to 60, uint8."""
    to_cortex: Array
    septum: Array
    """The thin wall between the lateral ventricles, bool."""
    to_mni: Array
    mni_offset: Array


_TAKES = np.zeros(len(CLASS), np.float32)
"""How gladly each class takes a lesion, 0 to 1."""
for _names, _value in ((("white", "cerebellar_white"), 1.0), (("brainstem",), 0.9),
                       (("thalamus",), 0.7), (("cortex", "caudate", "putamen"), 0.25)):
    _TAKES[[CLASS[_name] for _name in _names]] = _value


def read_bank(folder: Path, without: tuple[str, ...]) -> list[list[Piece]]:
    """The pieces of every mask in `folder`, except those of the patients named in `without`."""
    bank = []
    for path in sorted(folder.glob("*.nii.gz")):
        if path.name.startswith(without or ("//",)):
            continue
        mask, affine = read_ras(path)
        parts, _ = ndimage.label(mask > 0.5, CONNECTED)
        pieces = []
        for n, box in enumerate(ndimage.find_objects(parts), start=1):
            part = parts[box] == n
            if part.sum() < 3:
                continue
            middle = np.array([(s.start + s.stop - 1) / 2 for s in box])[::-1]  # (i, j, k)
            pieces.append(Piece(part, affine[:3, :3] @ middle + affine[:3, 3]))
        bank.append(pieces)
    return bank


def draw_load_ml(rng: Rng) -> float:
    """None in every tenth head, up to 3 ml in half of them, the rest up to 70 ml."""
    kind = rng.random()
    if kind < 0.10:
        return 0.0
    low, high = (0.15, 3.0) if kind < 0.55 else (3.0, 20.0) if kind < 0.85 else (20.0, 70.0)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def place_lesions(room: Room, bank: list[list[Piece]], load_ml: float, rng: Rng, *,
                  infratentorial: bool = False) -> Array:
    """Gives a mask of about `load_ml` on the head's grid; a little less where no room is left."""
    lesion = np.zeros(room.tissue.shape, bool)
    if load_ml <= 0:
        return lesion
    allowed = np.isin(room.tissue, [CLASS[n] for n in
                                    ("white", "cerebellar_white", "thalamus", "brainstem")])
    rough = ndimage.uniform_filter(rng.random(lesion.shape, np.float32), 7) > 0.505
    allowed |= (room.tissue == CLASS["cortex"]) & rough
    if infratentorial:
        allowed = np.isin(room.tissue, [CLASS["cerebellar_white"], CLASS["brainstem"]])
    target = load_ml * 1000
    zones = _zones(room)

    if load_ml > 2 and rng.random() < 0.2:
        lesion |= room.own
    if load_ml > 8 and rng.random() < 0.5:
        lesion |= _band(room, target * rng.uniform(0.1, 0.5), rng)
    real_share = rng.uniform(0.3, 1.0) if rng.random() < 0.8 else 0.0
    pieces = _pieces_for(bank, load_ml, rng)
    tries = 0
    have = int(lesion.sum())
    while have < 0.95 * target and tries < 600:
        tries += 1
        left = target - have
        if pieces and rng.random() < real_share:
            piece = pieces.pop()
            if piece.mask.sum() > 1.4 * left:
                continue
            _put_piece(lesion, room, piece, allowed, rng)
        else:
            if not pieces and load_ml > 10:
                pieces = _pieces_for(bank, load_ml, rng)
            _put_drawn(lesion, room, zones, min(left * 1.2, _drawn_volume(load_ml, rng)), allowed,
                       rng)
        have = int(np.count_nonzero(lesion)) if tries % 4 == 0 or left < 400 else have
    if rng.random() < 0.8:  # close the slit between a lesion and the ventricle
        near = ndimage.binary_dilation(lesion, iterations=2)
        lesion |= near & (room.tissue == CLASS["white"]) & (room.to_ventricle <= 2)
    return lesion


def _pieces_for(bank: list[list[Piece]], load_ml: float, rng: Rng) -> list[Piece]:
    """A patient's pieces in random order, from a patient whose load is not far away."""
    loads = np.array([sum(p.mask.sum() for p in pieces) / 1000 for pieces in bank])
    weight = np.exp(-(np.log((loads + 0.1) / (load_ml + 0.1)) ** 2) / 2)
    weight += 0.1 * weight.max()
    chosen = bank[rng.choice(len(bank), p=weight / weight.sum())]
    return [chosen[n] for n in rng.permutation(len(chosen))]


def _put_piece(lesion: Array, room: Room, piece: Piece, allowed: Array, rng: Rng) -> None:
    """Moves a real lesion to the best of eight places near its own, if tissue takes it there."""
    mask, centre_mm = piece.mask, piece.centre_mm
    if rng.random() < 0.5:
        mask, centre_mm = mask[:, :, ::-1], centre_mm * (-1, 1, 1)
    zoom = np.exp(rng.normal(0, 0.12))
    reach = np.ceil(np.array(mask.shape) / 2 * zoom * 1.15).astype(int) + 1
    grid = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij")) / zoom
    grid += ((np.array(mask.shape) - 1) / 2)[:, None, None, None]
    block = ndimage.map_coordinates(mask.astype(np.float32), grid, order=1) > 0.5
    if not block.any():
        return
    back = np.linalg.inv(room.to_mni)
    best: tuple[float, Array] | None = None
    for _ in range(8):
        centre = back @ (centre_mm + rng.normal(0, 2.5, 3) - room.mni_offset)  # (k, j, i)
        low = np.round(centre).astype(int) - reach
        if (low < 0).any() or (low + block.shape > room.tissue.shape).any():
            continue
        score = float(_TAKES[room.tissue[_box(low, block)]][block].mean())
        if best is None or score > best[0]:
            best = (score, low)
        if score > 0.9:
            break
    if best and best[0] > 0.45:
        box = _box(best[1], block)
        lesion[box] |= block & allowed[box]


def _zones(room: Room) -> list[tuple[float, Array]]:
    """How often drawn lesions lie where, after the lesion counts of MS cohorts."""
    white = room.tissue == CLASS["white"]
    near_ventricle = room.to_ventricle <= 5
    near_cortex = room.to_cortex <= 2
    below = np.isin(room.tissue, [CLASS["brainstem"], CLASS["cerebellar_white"]])
    return [(share, np.flatnonzero(zone)) for share, zone in (
        (0.35, white & near_ventricle), (0.22, white & near_cortex & ~near_ventricle),
        (0.25, white & ~near_cortex & ~near_ventricle), (0.12, below),
        (0.06, room.tissue == CLASS["thalamus"]))]


def _drawn_volume(load_ml: float, rng: Rng) -> float:
    """Voxels of one drawn lesion: mostly 3 to 60, larger where the load is large."""
    typical = 18 if load_ml < 3 else 35 if load_ml < 20 else 80
    return float(np.clip(np.exp(rng.normal(np.log(typical), 0.9)), 3, 2500))


def _put_drawn(lesion: Array, room: Room, zones: list[tuple[float, Array]], voxels: float,
               allowed: Array, rng: Rng) -> None:
    """An uneven ellipsoid of about so many voxels; near the ventricle it points away from it."""
    n = int(rng.choice(len(zones), p=[share for share, _ in zones]))
    places = zones[n][1]
    if not len(places):
        return
    centre = np.array(np.unravel_index(rng.choice(places), lesion.shape))
    stretch = rng.uniform(1.2, 2.6) if n == 0 else rng.uniform(1.0, 1.6)
    radius = max((voxels * 3 / (4 * np.pi * stretch)) ** (1 / 3), 0.8)
    axis = rng.normal(size=3)
    if n == 0:
        box = tuple(slice(max(c - 6, 0), c + 7) for c in centre)
        fluid = np.argwhere(room.to_ventricle[box] <= 1)
        if len(fluid):
            axis = centre - (fluid.mean(0) + [s.start for s in box])
    axis = axis / (np.linalg.norm(axis) + 1e-6)
    reach = int(np.ceil(radius * stretch)) + 2
    low = centre - reach
    if (low < 0).any() or (centre + reach + 1 > lesion.shape).any():
        return
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1)
    along = grid @ axis
    across2 = np.maximum((grid**2).sum(-1) - along**2, 0)
    distance = np.sqrt(across2 + (along / stretch) ** 2)
    if radius > 1.3:
        wave = ndimage.gaussian_filter(rng.normal(size=distance.shape), 1.5)
        distance += wave * radius * rng.uniform(0.5, 2.5)
    block = distance < radius
    box = _box(low, block)
    lesion[box] |= block & allowed[box]


def _band(room: Room, voxels: float, rng: Rng) -> Array:
    """Confluent white matter along the ventricles, as much as asked for."""
    reach = room.to_ventricle + 3.0 * field(rng, room.tissue.shape, 7)
    white = (room.tissue == CLASS["white"]) & (room.to_ventricle <= 14)
    if not white.any():
        return white
    return white & (reach <= np.quantile(reach[white], min(voxels / white.sum(), 1.0)))


def _box(low: Array, block: Array) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(low, block.shape, strict=True))
