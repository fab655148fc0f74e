"""Real tissue: carved lesions are gone, those set in can be seen, and what was seen is not judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from arrays import Array, Rng
from cases import Case
from data import PatchSource, rim_of
from evaluate import was_seen
from lesions import Piece
from losses import sum_of
from network import FCDenseNet
from normalise import MISSING, OUTSIDE, within_brain
from pool import fill
from realtissue import _carve, _cut_anew, _scanned_worse, real_sample
from recipe import LESION_BIT, UNKNOWN, Recipe
from smoke import fill_with_balls
from train import _side_loss, batch_loss

SHAPE = (64, 64, 64)
BANK = [[Piece(np.ones((4, 4, 4), bool), np.array([x, -90.0, -40.0])) for x in (-70.0, -50.0)]]


@pytest.fixture
def case(rng: Rng) -> Case:
    """A ball of grainy white matter with one bright lesion; T2w is missing."""
    k, j, i = np.meshgrid(*[np.arange(72) - 35.5] * 3, indexing="ij")
    brain = k**2 + j**2 + i**2 < 30**2
    truth = np.zeros_like(brain)
    truth[30:36, 30:36, 40:46] = True
    image = np.full((3, *brain.shape), OUTSIDE, np.float32)
    image[:2, brain] = rng.normal(0.2, 0.1, (2, int(brain.sum())))
    image[0, truth], image[1, truth] = 2.5, -0.3
    image[2] = MISSING
    return Case("someone-visit1", image, truth, brain)


def test_a_carved_lesion_looks_like_the_tissue_beside_it(case: Case, rng: Rng) -> None:
    filled = _carve(case.image, case.truth, case.truth, case.brain, rng)
    assert abs(filled[0][case.truth].mean() - 0.2) < 0.1
    assert 0.03 < filled[0][case.truth].std() < 0.2
    far = ~ndimage.binary_dilation(case.truth, iterations=8)
    assert np.array_equal(filled[:, far], case.image[:, far])
    assert not filled[2].any()


def test_all_that_is_bright_in_a_sample_is_marked(case: Case) -> None:
    loads = set()
    for seed in range(8):
        image, label = real_sample(case, BANK, SHAPE, np.random.default_rng(seed))
        lesion, inside = label >> LESION_BIT > 0, label & (2**LESION_BIT - 1) > 0
        unmarked = inside & ~ndimage.binary_dilation(lesion, iterations=4)
        assert (label[inside] & UNKNOWN == UNKNOWN).all()
        assert float(np.quantile(image[0][unmarked], 0.9995)) < 1.2  # faint specks are nobody's
        assert (image[:2, ~inside] == OUTSIDE).all()
        assert not image[2].any()
        loads.add(int(lesion.sum()))
    assert len(loads) > 3


def test_thick_slices_are_normalised_anew(case: Case) -> None:
    wider = 0
    for seed in range(12):
        cut, truth, found = _cut_anew(case.image, case.truth, case.brain, np.random.default_rng(seed))
        assert not cut[2].any()  # a contrast that is missing stays so
        assert found[case.brain].all()
        assert not (truth & ~case.truth).any()
        for contrast in cut[:2]:
            low, middle, high = np.percentile(contrast[found], (25, 50, 75))
            assert abs(middle) < 1e-3
            assert abs((high - low) / 1.349 - 1) < 1e-3
        wider += int(found.sum() > case.brain.sum())
    assert 2 < wider < 10  # the fluid around it, half of the time


def test_a_scan_that_is_made_worse_has_its_flair_in_place_and_its_units(case: Case) -> None:
    brain = case.brain
    plain = np.stack([within_brain(np.where(brain, c - OUTSIDE, 0), brain) for c in case.image[:2]])
    moved, unlike = [], [0, 0]
    for seed in range(16):
        worse = _scanned_worse(case.image, brain, np.random.default_rng(seed))
        assert not worse[2].any()  # a contrast that is missing stays so
        for n, contrast in enumerate(worse[:2]):
            low, middle, high = np.percentile(contrast[brain], (25, 50, 75))
            assert abs(middle) < 1e-3
            assert abs((high - low) / 1.349 - 1) < 1e-3
            unlike[n] += int(not np.allclose(contrast, plain[n], atol=1e-3))
        near = ndimage.binary_dilation(case.truth, iterations=3)
        centres = [np.array(ndimage.center_of_mass(np.maximum(sign * c, 3) - 3, near, 1))
                   for sign, c in ((1, worse[0]), (-1, worse[1]))]
        assert np.abs(centres[0] - ndimage.center_of_mass(case.truth)).max() < 0.1
        moved.append(np.abs(centres[1] - ndimage.center_of_mass(case.truth)).max())
    assert 0.1 < max(moved) < 1.5
    assert min(unlike) > 5


def test_nothing_is_cut_anew_or_made_worse_unasked(case: Case) -> None:
    def drawn(**chances: float) -> tuple[Array, Rng]:
        rng = np.random.default_rng(5)
        return real_sample(case, BANK, SHAPE, rng, **chances)[0], rng

    plain, rng = drawn()
    after = rng.random()
    for name in ("thick", "worse"):
        assert not np.array_equal(drawn(**{name: 1.0})[0], plain)
        # A chance of nothing draws nothing; the least draws once, and what is drawn next differs.
        scarcely, rng = drawn(**{name: 1e-12})
        assert np.array_equal(scarcely, plain)
        assert rng.random() != after


def with_patient(recipe: Recipe, share: float) -> Recipe:
    return replace(recipe, pool=replace(recipe.pool, real=("someone",), real_samples=2),
                   patches=replace(recipe.patches, on_real=share))


def test_a_share_of_the_patches_is_real(case: Case, smoke: Recipe, tmp_path: Path) -> None:
    def draw(rng: Rng) -> tuple[Array, Array]:
        return real_sample(case, BANK, SHAPE, rng)

    fill_with_balls(smoke, tmp_path / "pool")
    fill(draw, 0, tmp_path / "real", range(2), None)
    source = PatchSource(with_patient(smoke, 0.5), tmp_path / "pool", tmp_path / "real")
    real = sum(bool((classes == UNKNOWN).any()) for step in range(20)
               for classes in source.batch(step).classes)
    assert 8 < real < 32  # half of 40
    with pytest.raises(ValueError, match="someone"):
        PatchSource(with_patient(smoke, 0.5), tmp_path / "pool")


def test_contrasts_are_missing_as_each_kind_of_patch_says(case: Case, smoke: Recipe,
                                                          tmp_path: Path) -> None:
    def draw(rng: Rng) -> tuple[Array, Array]:
        return real_sample(case, BANK, SHAPE, rng)

    fill_with_balls(smoke, tmp_path / "pool")
    fill(draw, 0, tmp_path / "real", range(2), None)
    recipe = with_patient(smoke, 0.5)
    patches = replace(recipe.patches, drop=(0.0, 1.0, 0.0), drop_real=(0.0, 0.0, 1.0))
    recipe = replace(recipe, patches=patches)
    source = PatchSource(recipe, tmp_path / "pool", tmp_path / "real")
    kinds = set()
    for step in range(10):
        batch = source.batch(step)
        for image, classes in zip(batch.image, batch.classes, strict=True):
            is_real = bool((classes == UNKNOWN).any())
            kinds.add(is_real)
            missing = [bool((contrast == MISSING).all()) for contrast in image]
            assert missing == [False, not is_real, is_real]
    assert kinds == {False, True}


def test_a_rim_is_one_voxel_on_both_sides_and_spares_thin_lesions() -> None:
    lesions = np.zeros((16, 16, 16), np.uint8)
    lesions[3:8, 3:8, 3:8] = 1
    lesions[12, 12, 11:13] = 1  # nowhere three voxels thick
    rim = np.zeros(lesions.shape, bool)
    rim[2:9, 2:9, 2:9] = True
    rim[4:7, 4:7, 4:7] = False
    rim[11:14, 11:14, 10:14] = True
    rim[12, 12, 11:13] = False
    assert np.array_equal(rim_of(lesions), rim)
    cut_off = rim_of(lesions[:, :, 5:])  # Nobody knows how a lesion goes on.
    assert not cut_off[4:7, 4:7, 0].any()


def test_only_rims_of_real_lesions_are_uncounted(case: Case, smoke: Recipe, tmp_path: Path) -> None:
    def draw(rng: Rng) -> tuple[Array, Array]:
        return real_sample(case, BANK, SHAPE, rng)

    fill_with_balls(smoke, tmp_path / "pool")
    fill(draw, 0, tmp_path / "real", range(2), None)
    counting = with_patient(smoke, 0.5)
    sparing = replace(counting, patches=replace(counting.patches, real_rim=False))
    kinds = set()
    for step in range(10):
        whole, spared = (PatchSource(recipe, tmp_path / "pool", tmp_path / "real").batch(step)
                         for recipe in (counting, sparing))
        assert torch.equal(whole.image, spared.image)
        assert torch.equal(whole.lesion, spared.lesion)
        assert not whole.uncounted.any()
        for classes, lesion, uncounted in zip(spared.classes, spared.lesion, spared.uncounted,
                                              strict=True):
            is_real = bool((classes == UNKNOWN).any())
            rim = rim_of(lesion[0].numpy()) & is_real
            assert np.array_equal(uncounted[0].numpy(), rim)
            kinds.add((is_real, bool(rim.any())))
    assert kinds >= {(False, False), (True, True)}


def test_what_is_uncounted_changes_no_loss(smoke: Recipe, tmp_path: Path) -> None:
    fill_with_balls(smoke, tmp_path / "pool")
    batch = PatchSource(smoke, tmp_path / "pool").batch(0)
    net = FCDenseNet(smoke.network).eval()
    alone = replace(smoke, training=replace(smoke.training, side_weight=0.0))

    def loss_with(lesion: Tensor, uncounted: Tensor) -> float:
        changed = replace(batch, lesion=lesion, uncounted=uncounted)
        return batch_loss(net, changed, alone, sum_of(smoke.loss)).item()

    lesion = torch.zeros_like(batch.lesion)
    lesion[..., 8:20] = 1
    shifted = lesion.clone()
    shifted[..., 20:22] = 1
    nothing, between = torch.zeros_like(batch.uncounted), lesion != shifted
    assert loss_with(lesion, nothing) != loss_with(shifted, nothing)
    assert loss_with(lesion, between) == loss_with(shifted, between)
    assert loss_with(lesion, ~nothing) == pytest.approx(0, abs=1e-6)


def test_tissue_of_no_class_has_no_say_in_the_side_task(rng: Rng) -> None:
    logits = torch.from_numpy(rng.normal(size=(1, 3, 2, 2, 2)).astype(np.float32))
    classes = torch.zeros((1, 2, 2, 2), dtype=torch.int64)
    classes[0, 1] = UNKNOWN
    known = F.cross_entropy(logits[:, :, :1], classes[:, :1])
    assert _side_loss(logits, classes).item() == pytest.approx(known.item())
    assert _side_loss(logits, torch.full_like(classes, UNKNOWN)).item() == 0


def test_nobody_is_judged_who_was_trained_on(smoke: Recipe) -> None:
    assert not was_seen("lesjak26", smoke)
    assert was_seen("someone-visit2", with_patient(smoke, 0.5))
    assert was_seen("lesjak03", smoke)  # its mask is in the bank
