"""Synthetic heads: the same seed gives the same head, lesions are where and what they should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from arrays import Array, Rng, _between, blur, field
from heads import CLASS, PARENCHYMA, Head, read_ras
from lesions import Piece, draw_load_ml, place_lesions, read_bank
from normalise import OUTSIDE, whole_head, within_brain
from randomised import CLASSES, classes_of, randomised_sample
from recipe import LESION_BIT
from synthesis import (
    FAINTEST,
    Grade,
    _insula,
    _paint,
    _scene,
    head_grid,
    prepare,
    synthetic_sample,
)

SHAPE = (64, 64, 64)


def bank() -> list[list[Piece]]:
    block = np.ones((4, 5, 3), bool)
    return [[Piece(block, np.array([x, 0.0, 10.0])) for x in (-20.0, -15.0, 15.0, 20.0)]]


def sample(head: Head, seed: int, load_ml: float) -> tuple[Array, Array]:
    return synthetic_sample(prepare(head), bank(), SHAPE, np.random.default_rng(seed),
                            Grade(load_ml, 1.0))


def test_a_scan_is_read_with_its_slope_and_its_axes_in_order(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # (i, j, k), i from right to left
    image = nib.Nifti1Image(stored, np.diag([-1.0, 1.0, 1.0, 1.0]))
    image.header.set_slope_inter(0.5, 3.0)
    nib.save(image, tmp_path / "scan.nii.gz")
    samples, affine = read_ras(tmp_path / "scan.nii.gz")
    assert samples.shape == (4, 3, 2)
    assert np.allclose(samples.transpose(2, 1, 0)[::-1], 0.5 * stored + 3)
    assert affine[0, 0] == 1.0


def test_lesions_below_lie_in_brainstem_and_cerebellum(head: Head) -> None:
    tissue = head.tissue.copy()
    tissue[:40][tissue[:40] == CLASS["white"]] = CLASS["cerebellar_white"]
    tissue[:30][tissue[:30] == CLASS["cerebellar_white"]] = CLASS["brainstem"]
    room = prepare(replace(head, tissue=tissue))
    placed = place_lesions(room, bank(), 0.5, np.random.default_rng(3), infratentorial=True)
    assert 0.2 < placed.sum() / 1000 < 0.8
    assert set(np.unique(tissue[placed])) <= {CLASS["cerebellar_white"], CLASS["brainstem"]}


def test_a_judging_head_has_its_skull_or_not(head: Head) -> None:
    for kept in (True, False):
        for seed in range(2):
            image, label = synthetic_sample(prepare(head), bank(), head.tissue.shape,
                                            np.random.default_rng(seed), Grade(2.0, 1.0, skull=kept))
            beyond = image[0][label & (2**LESION_BIT - 1) == 0]
            assert ((beyond > OUTSIDE).mean() > 0.01) == kept  # skin; bone and air are dark


def test_a_seed_makes_one_head(head: Head) -> None:
    first, again, other = (sample(head, seed, 1.0) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_lesions_lie_in_tissue_and_are_brighter_than_the_median_in_flair(head: Head) -> None:
    image, label = sample(head, 1, 2.0)
    lesion = (label >> 7) > 0
    assert 0.5 < lesion.sum() / 1000 < 4
    assert image[0][lesion].mean() > FAINTEST


def test_dura_that_is_left_widens_the_brain_and_no_other_head_changes(head: Head) -> None:
    def drawn(**chances: float) -> Array:
        grade = Grade(1.0, 1.0, skull=False)
        return synthetic_sample(prepare(head), bank(), head.tissue.shape, np.random.default_rng(6),
                                grade, **chances)[0]

    plain, with_dura = drawn(), drawn(dura=1.0)
    left = (with_dura[0] > OUTSIDE) & (plain[0] == OUTSIDE)
    assert 500 < left.sum() < 0.2 * (plain[0] > OUTSIDE).sum()
    # A chance of nothing draws nothing; the least chance does, and all that is drawn after it differs.
    assert not np.array_equal(plain, drawn(dura=1e-12))
    assert not np.array_equal(plain, drawn(insula=1e-12))


@pytest.mark.parametrize("contrast", ["flair", "t1w", "t2w"])
def test_what_is_dura_and_insula_is_painted(head: Head, contrast: str) -> None:
    room = prepare(head)
    grid, _ = head_grid(room.tissue.shape, SHAPE, np.random.default_rng(1))
    nothing = np.zeros(room.tissue.shape, bool)
    scene = _scene(room, nothing, np.zeros(SHAPE, bool), grid, SHAPE, np.random.default_rng(2))
    where = np.zeros(SHAPE, bool)
    where[20:30, 20:40, 20:40] = True
    plain = _paint(scene, contrast, np.random.default_rng(3))
    dura = _paint(replace(scene, dura=where), contrast, np.random.default_rng(3))
    assert np.ptp(dura[where]) < np.ptp(plain[where])  # one tissue
    insula = _paint(replace(scene, insula=where.astype(np.float32)), contrast,
                    np.random.default_rng(3))
    gained = float(np.median((insula - plain)[where]))
    assert gained < 0 if contrast == "t1w" else gained > 0


def test_whatever_meets_beside_a_ventricle_is_weaker_than_a_lesion(head: Head) -> None:
    room = prepare(head)
    grid, _ = head_grid(room.tissue.shape, SHAPE, np.random.default_rng(1))
    nothing = np.zeros(SHAPE, np.float32)
    scene = _scene(room, np.zeros(room.tissue.shape, bool), nothing > 0, grid, SHAPE,
                   np.random.default_rng(2))
    scene = replace(scene, texture=nothing + 1, halo=nothing, haze=nothing, rim=nothing, caps=nothing)
    white = (scene.tissue == CLASS["white"]).astype(np.float32)
    lesion = replace(scene, lesion=white)
    # The most of everything that is bright there and no lesion.
    beside = replace(scene, halo=white, haze=white, rim=1.5 * white, caps=white)
    shares = []
    for seed in range(30):
        plain, with_lesion, with_all = (
            np.median(_paint(here, "flair", np.random.default_rng(seed))[white > 0])
            for here in (scene, lesion, beside))
        shares.append((with_all - plain) / (with_lesion - plain))
    assert max(shares) < 0.99
    assert np.median(shares) > 0.2


def test_the_insula_is_the_cortex_beside_the_putamen(head: Head, rng: Rng) -> None:
    tissue = head.tissue.copy()
    k, j, i = (n // 2 for n in tissue.shape)
    tissue[k - 3:k + 3, j - 6:j + 6, i + 20:i + 24] = CLASS["putamen"]
    tissue[k - 3:k + 3, j - 6:j + 6, i + 28:i + 31] = CLASS["cortex"]
    bright = _insula(tissue, rng)
    assert bright[k, :, i + 29].max() > 0.1
    assert not bright[:, :, :i].any()
    assert not _insula(head.tissue, rng).any()  # a head without a putamen


def test_fields_lie_straight_between_their_bumps() -> None:
    shares = _between(4, 13)
    assert np.allclose(shares @ [0.0, 1.0, 5.0, 3.0],
                       np.interp(np.arange(13) / 4, np.arange(4), [0.0, 1.0, 5.0, 3.0]))
    smooth = field(np.random.default_rng(2), (20, 30, 25), 6)
    assert smooth.shape == (20, 30, 25)
    assert smooth.std() == pytest.approx(1, rel=1e-3)
    # Two bumps along each axis: what is between them is the mean of both.
    even = field(np.random.default_rng(2), (3, 3, 3), 1)
    assert np.allclose(even[1], (even[0] + even[2]) / 2, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.7, 3.5, np.array([0.0, 1.5, 4.0])])
def test_a_blur_is_that_of_scipy(sigma: float | Array) -> None:
    samples = np.random.default_rng(3).normal(size=(9, 12, 16)).astype(np.float32)
    blurred = blur(samples, sigma)
    assert blurred.dtype == np.float32
    assert np.allclose(blurred, ndimage.gaussian_filter(samples, sigma, truncate=3.0), atol=1e-5)


def test_a_head_without_lesions_has_none(head: Head) -> None:
    _, label = sample(head, 2, 0.0)
    assert not (label >> 7).any()
    assert set(np.unique(label)) <= set(range(6))


@pytest.mark.parametrize("load_ml", [0.3, 1.0, 3.0, 10.0])
def test_placement_reaches_the_load_that_was_asked_for(
    head: Head, rng: Rng, load_ml: float
) -> None:
    room = prepare(head)
    placed = place_lesions(room, bank(), load_ml, rng)
    assert placed.sum() / 1000 == pytest.approx(load_ml, rel=0.5)
    assert np.isin(room.tissue[placed], PARENCHYMA).all()


def test_half_of_the_heads_have_at_most_three_ml(rng: Rng) -> None:
    loads = np.array([draw_load_ml(rng) for _ in range(4000)])
    assert (loads <= 3).mean() == pytest.approx(0.55, abs=0.03)
    assert (loads == 0).mean() == pytest.approx(0.10, abs=0.02)
    assert loads.max() <= 70


def test_the_anatomy_sample_names_every_voxel(head: Head) -> None:
    image, classes = randomised_sample(head, (32, 32, 32), np.random.default_rng(0))
    again, _ = randomised_sample(head, (32, 32, 32), np.random.default_rng(0))
    assert np.array_equal(image, again)
    assert image.shape == (1, 32, 32, 32)
    assert classes.max() < len(CLASSES)
    assert CLASSES.index("white matter") in classes


def test_classes_keep_the_brain_apart_from_the_scalp() -> None:
    names = [CLASSES[n] for n in classes_of(np.arange(len(CLASS), dtype=np.uint8))]
    assert names[CLASS["skin"]] == names[CLASS["bone"]] == "scalp and skull"
    assert names[CLASS["plexus"]] == "ventricles"
    assert names[CLASS["hippocampus"]] == "cortex"
    assert names[CLASS["lesion"]] == "lesion"


def test_normalisation_is_that_of_the_brain_alone(rng: Rng) -> None:
    brain = np.zeros((8, 8, 8), bool)
    brain[2:6, 2:6, 2:6] = True
    samples = np.where(brain, rng.normal(100, 10, brain.shape), 5000.0)
    seen = within_brain(samples, brain)
    assert np.median(seen[brain]) == pytest.approx(0, abs=1e-6)
    assert np.subtract(*np.percentile(seen[brain], (75, 25))) == pytest.approx(1.349, rel=1e-5)
    assert seen.min() >= OUTSIDE
    assert seen.max() == 8


def test_whole_heads_are_scaled_by_what_is_bright(rng: Rng) -> None:
    samples = rng.uniform(0, 300, (10, 10, 10))
    assert np.allclose(whole_head(samples), whole_head(samples * 7))
    assert whole_head(samples).max() == pytest.approx(300 / np.percentile(samples, 99), rel=0.01)
    assert whole_head(np.zeros((2, 2, 2))).max() == 0


def test_masks_of_patients_who_judge_stay_out_of_the_bank(data: Path) -> None:
    folder = data / "lesion-bank" / "mni"
    everyone = read_bank(folder, ())
    kept = read_bank(folder, ("lesjak26", "mslesseg14"))
    left_out = [path for path in folder.glob("*.nii.gz")
                if path.name.startswith(("lesjak26", "mslesseg14"))]
    assert len(left_out) == len(everyone) - len(kept) == 2


def test_pieces_of_the_bank_lie_where_their_mask_has_them(data: Path) -> None:
    path = sorted((data / "lesion-bank" / "mni").glob("*.nii.gz"))[0]
    mask, affine = read_ras(path)
    piece = max(read_bank(path.parent, ())[0], key=lambda piece: piece.mask.sum())
    i, j, k = np.linalg.inv(affine)[:3, :3] @ (piece.centre_mm - affine[:3, 3])
    low = [round(c - (n - 1) / 2) for c, n in zip((k, j, i), piece.mask.shape, strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(low, piece.mask.shape, strict=True))
    assert (mask[box][piece.mask] > 0).all()
