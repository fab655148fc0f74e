"""Figures against masks small enough to count by hand."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from arrays import Array, Rng, field
from measures import Rule, agreement, average_precision, dice, without_small
from predict import (
    BOX_ABOVE,
    Asking,
    at_spacing,
    brain_mask,
    head_box,
    keep_options,
    scalp_share,
    with_files_read,
)
from randomised import CLASSES
from rawscans import carry

PROGRAM = Path(os.environ.get(
    "DAWSON_BIN", Path(__file__).parents[3] / "target" / "debug" / "dawson"))


def boxes(*spans: tuple[int, int]) -> Array:
    mask = np.zeros((4, 4, 40), bool)
    for start, stop in spans:
        mask[1:3, 1:3, start:stop] = True
    return mask


def test_two_lesions_one_found_and_one_invented() -> None:
    figures = agreement(boxes((2, 6), (30, 32)), boxes((2, 10), (20, 24)))
    assert (figures.n_true, figures.n_found) == (2, 2)
    assert figures.dsc == pytest.approx(2 * 16 / (24 + 48))
    assert figures.ppv == pytest.approx(16 / 24)
    assert figures.tpr == pytest.approx(16 / 48)
    assert (figures.lesion_tpr, figures.lesion_fdr) == (0.5, 0.5)
    assert figures.volume_error == pytest.approx(0.5)
    assert figures.touched == ((0, 0), (0, 1), (1, 1), (0, 0), (0, 0))


@pytest.mark.skipif(not PROGRAM.exists(), reason="the program is not built (set DAWSON_BIN)")
def test_the_figures_are_those_of_the_program(rng: Rng, tmp_path: Path) -> None:
    shape = (30, 34, 26)
    brain = field(rng, shape, 3) > -0.5
    likely = 1 / (1 + np.exp(-2 * field(rng, shape, 6)))
    truth = without_small((field(rng, shape, 6) + 3 * (likely - 0.5) > 1.2) & brain, 0.003)
    found = without_small((likely > 0.8) & brain, 0.003)
    command = [str(PROGRAM), "evaluate", "--json", "--overlap", "any", "--min-lesion-ml", "0.003"]
    for name, samples in (("prediction", found), ("truth", truth), ("region", brain),
                          ("probability", likely)):
        kind = np.float32 if name == "probability" else np.uint8
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(samples.transpose(2, 1, 0).astype(kind), np.eye(4)), path)
        command += [f"--{name}", str(path)]
    said = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    ours, theirs = agreement(found, truth), said["figures"]
    assert min(ours.n_true, ours.n_found) > 5
    pairs = {"true_ml": ours.true_ml, "found_ml": ours.found_ml, "dsc": ours.dsc, "ppv": ours.ppv,
             "sensitivity": ours.tpr, "ltpr": ours.lesion_tpr, "lfpr": ours.lesion_fdr,
             "true_lesions": ours.n_true, "found_lesions": ours.n_found,
             "volume_difference": ours.volume_error,
             "pr_auc": average_precision(likely.astype(np.float32), truth, brain)}
    for name, value in pairs.items():
        assert theirs[name] == pytest.approx(value, rel=1e-5), name
    by_size = [(part["detected_lesions"], part["true_lesions"]) for part in said["size_bins"]]
    assert by_size == list(ours.touched)


def test_empty_masks_have_no_dsc() -> None:
    nothing = boxes()
    figures = agreement(nothing, nothing)
    assert np.isnan(figures.dsc)
    assert np.isnan(figures.volume_error)
    assert np.isnan(dice(nothing, nothing))


def test_small_lesions_go() -> None:
    kept = without_small(boxes((0, 1), (10, 14)), 0.005)
    assert np.array_equal(kept, boxes((10, 14)))
    assert np.array_equal(Rule(0.5, 0.005).mask(boxes((0, 1), (10, 14)) * 0.7), kept)


def test_a_perfect_ranking_has_the_whole_area(rng: Rng) -> None:
    truth = boxes((3, 9))
    everywhere = np.ones_like(truth)
    probability = truth + rng.uniform(0, 0.5, truth.shape)
    assert average_precision(probability, truth, everywhere) == pytest.approx(1, abs=0.05)
    assert average_precision(1 - truth, truth, everywhere) < 0.2


def test_options_that_were_written_are_read_back(tmp_path: Path) -> None:
    for asking, rule in ((Asking(flips=True, temperature=1.6, shift=-1.26), Rule(0.45, 0.006)),
                         (Asking(temperature=2.0, shift=0.5), Rule(0.9, 0.003))):
        keep_options(asking.as_options(), tmp_path / "asking")
        keep_options(rule.as_options(), tmp_path / "rule")
        options = argparse.ArgumentParser()
        options.add_argument("weights")
        Asking.add_options(options)
        Rule.add_options(options)
        words = ["weights.pt", f"@{tmp_path / 'asking'}", f"@{tmp_path / 'rule'}"]
        given = options.parse_args(list(with_files_read(words)))
        assert given.weights == "weights.pt"
        assert (Asking.given(given), Rule.given(given)) == (asking, rule)


def test_a_brain_keeps_near_fluid_and_loses_islands() -> None:
    probability = np.zeros((len(CLASSES), 30, 30, 30), np.float32)
    probability[CLASSES.index("white matter"), 8:20, 8:20, 8:20] = 1
    probability[CLASSES.index("white matter"), 1:3, 1:3, 1:3] = 1
    probability[CLASSES.index("other csf"), 20:30, 8:20, 8:20] = 1
    mask = brain_mask(probability, (1.0, 1.0, 1.0), 3.0, superior=2)
    assert mask[8:23, 8:20, 8:20].all()
    assert not mask[23:, 8:20, 8:20].any()
    assert not mask[1:3, 1:3, 1:3].any()


@pytest.mark.parametrize("superior", [0, 1, 2])
def test_what_a_brain_encloses_in_a_slice_is_brain_though_it_is_open_below(superior: int) -> None:
    told = np.zeros((20, 20, 20), np.float32)
    told[3:17, 3:17, 3:17] = 1
    told[8:12, 8:12, :14] = 0
    probability = np.zeros((len(CLASSES), 20, 20, 20), np.float32)
    probability[CLASSES.index("white matter")] = np.moveaxis(told, 2, superior)
    mask = np.moveaxis(brain_mask(probability, (1.0, 1.0, 1.0), 2.0, superior), superior, 2)
    assert mask[3:17, 3:17, 3:17].all()
    assert mask.sum() == 14 ** 3


def test_the_head_box_ends_where_the_head_ends() -> None:
    image = np.full((9, 9, 9), BOX_ABOVE / 2)
    assert head_box(image) == (slice(0, 9),) * 3
    image[2:5, 3:4, 1:9] = 1
    assert head_box(image) == (slice(2, 5), slice(3, 4), slice(1, 9))


def test_only_what_is_bright_counts_as_scalp() -> None:
    image = np.zeros((4, 4, 4))
    image[:2] = 1
    probability = np.zeros((len(CLASSES), 4, 4, 4))
    probability[CLASSES.index("cortex"), 0] = 1
    probability[CLASSES.index("scalp and skull"), 1:] = 1
    assert scalp_share(probability, image) == pytest.approx(0.5)


def test_resampling_keeps_places_and_means(rng: Rng) -> None:
    samples = np.zeros((24, 30, 12), np.float32)
    samples[8:16, 10:20, 4:8] = rng.uniform(50, 60)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    coarse = at_spacing(nib.Nifti1Image(samples, affine), 2.0)
    assert coarse.header.get_zooms() == (2.0, 2.0, 2.0)
    assert np.asarray(coarse.dataobj).sum() * 8 == pytest.approx(samples.sum() * 3, rel=0.15)
    for image in (nib.Nifti1Image(samples, affine), coarse):
        weight = np.asarray(image.dataobj)
        centre = [(weight * axis).sum() / weight.sum() for axis in np.indices(weight.shape)]
        world_mm = image.affine[:3, :3] @ centre + image.affine[:3, 3]
        assert world_mm == pytest.approx([11.5, 14.5, 16.5], abs=0.3)


def test_a_mask_is_carried_along_its_transform() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:10, 5:10, 5:10] = True
    target = nib.Nifti1Image(np.zeros((20, 20, 20), np.uint8), np.eye(4))
    away = np.eye(4)
    away[0, 3] = 3  # a point of the target lies 3 mm further to the right in the source
    carried = carry(mask, np.eye(4), target, away)
    assert np.array_equal(carried, np.roll(mask, -3, 0))
