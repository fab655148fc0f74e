"""`dawson evaluate` against independent libraries (see evaluate_reference.py).

DAWSON_BIN names the program. It is called as

    dawson evaluate --prediction P --truth T [--probability F] [--region F]
                    --min-lesion-ml ML --overlap any|SHARE --json

and prints one JSON object with `figures`, a value or null by name; with two folders of cases, `mean`,
`median` and `n` by name, `volume_correlation` and `isbi_scores` by case. Real masks are compared as well: DAWSON_MASKS
names a folder of cases, each a folder with `lesions.nii.gz` (default: the labelled ones of $DAWSON_SHARED, or of
../shared beside the project).
"""
import itertools
import json
import os
import pathlib
import subprocess

import nibabel
import numpy
import pytest
from scipy import ndimage

from evaluate_reference import cohort, reference

RELATIVE = 1e-6
PROGRAM = os.environ.get("DAWSON_BIN")
SHARED = pathlib.Path(os.environ.get("DAWSON_SHARED", pathlib.Path(__file__).parents[3] / "shared"))
MASKS = pathlib.Path(os.environ.get("DAWSON_MASKS", SHARED / "data" / "labelled"))

pytestmark = pytest.mark.skipif(not PROGRAM, reason="DAWSON_BIN does not name the program to test")

# What the affine does beside the spacing.
TURNS = {
    "RAS": numpy.eye(3),
    "LPS": numpy.diag([-1.0, -1.0, 1.0]),
    "oblique": numpy.linalg.qr(numpy.array([[1.0, 0.2, -0.1], [-0.2, 1.0, 0.3], [0.1, -0.3, 1.0]]))[0],
}


def affine_of(spacing, turn="RAS"):
    affine = numpy.eye(4)
    affine[:3, :3] = TURNS[turn] @ numpy.diag(spacing)
    affine[:3, 3] = [-80.0, -120.0, -60.0]
    return affine.astype("f4").astype("f8")  # As a NIfTI header keeps it.


def blobs(random, shape, density, roughness):
    """A random mask: white noise smoothed by `roughness` voxels, its highest share kept."""
    noise = ndimage.gaussian_filter(random.normal(size=shape), roughness) if roughness else random.random(shape)
    return noise > numpy.quantile(noise, 1 - density)


def pair(random, shape, density, roughness):
    """A truth, and a prediction that agrees with part of it."""
    truth = blobs(random, shape, density, roughness)
    other = blobs(random, shape, density, roughness)
    moved = numpy.roll(truth, 1, axis=random.integers(3))
    keep = blobs(random, shape, 0.6, 3)
    return (moved & keep) | (other & ~keep), truth


def same(found, want):
    """Both undefined, or as near as rounding allows."""
    if found is None or want is None:
        return found is None and want is None
    return found == pytest.approx(want, rel=RELATIVE, abs=1e-9)


def compare(folder, prediction, truth, affine, probability=None, region=None, min_lesion_ml=0.0, overlap=None):
    """Runs the program on the masks and compares each of its figures with each library's."""
    def save(name, samples, kind):
        path = folder / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(samples.astype(kind), affine), path)
        return str(path)

    command = [PROGRAM, "evaluate", "--json",
               "--prediction", save("prediction", prediction, "u1"), "--truth", save("truth", truth, "u1"),
               "--min-lesion-ml", repr(min_lesion_ml), "--overlap", "any" if overlap is None else repr(overlap)]
    if probability is not None:
        command += ["--probability", save("probability", probability, "f4")]
    if region is not None:
        command += ["--region", save("region", region, "u1")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)["figures"]
    want = reference(prediction, truth, affine, probability, region, min_lesion_ml, overlap)
    assert found.keys() == want.keys()
    wrong = {
        (name, library): (found[name], value)
        for name, by_library in want.items()
        for library, value in by_library.items()
        if not same(found[name], value)
    }
    assert not wrong, f"(figure, library): (dawson, reference): {wrong}"
    return found


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.46875, 0.46875, 3.3), (2.0, 0.9, 0.5)])
@pytest.mark.parametrize(("density", "roughness"), [(0.002, 0), (0.02, 1.5), (0.15, 1), (0.6, 2)])
def test_random_masks(tmp_path, density, roughness, spacing, turn):
    random = numpy.random.default_rng([int(density * 1000), int(spacing[0] * 100), len(turn)])
    prediction, truth = pair(random, (31, 26, 18), density, roughness)
    found = compare(tmp_path, prediction, truth, affine_of(spacing, turn))
    assert found["true_lesions"] > 0


@pytest.mark.parametrize("overlap", [None, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("min_lesion_ml", [0.003, 0.0125, 0.03])
def test_small_lesions_and_overlap_rules(tmp_path, min_lesion_ml, overlap):
    random = numpy.random.default_rng([int(min_lesion_ml * 1e4), int((overlap or 0) * 10)])
    prediction, truth = pair(random, (48, 40, 32), 0.03, 1.2)
    found = compare(tmp_path, prediction, truth, affine_of((1.0, 1.0, 1.0)),
                    min_lesion_ml=min_lesion_ml, overlap=overlap)
    # The masks must hold something to decide: lesions found and missed, findings true and false.
    if overlap != 1.0:
        assert 0 < found["detected_lesions"] < found["true_lesions"]
        assert 0 < found["false_lesions"] < found["found_lesions"]


@pytest.mark.parametrize("bounded", [False, True], ids=["everywhere", "in a region"])
@pytest.mark.parametrize("steps", [None, 100, 4], ids=["no ties", "some ties", "many ties"])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.97])
def test_probabilities(tmp_path, zeros, steps, bounded):
    random = numpy.random.default_rng([int(zeros * 100), steps or 0, bounded])
    shape = (24, 22, 20)
    prediction, truth = pair(random, shape, 0.05, 1)
    probability = random.beta(1, 3, shape) * 0.6 + 0.4 * truth * random.random(shape)
    if steps:
        probability = numpy.round(probability * steps) / steps
    probability = numpy.where(random.random(shape) < zeros, 0, probability).astype("f4")
    region = blobs(random, shape, 0.5, 3) if bounded else None
    compare(tmp_path, prediction, truth, affine_of((1.0, 1.0, 2.0)), probability, region)


NOTHING = numpy.zeros((9, 8, 7), bool)
CORNER = NOTHING.copy()
CORNER[:2, :2, :2] = True
EVERYTHING = ~NOTHING


@pytest.mark.parametrize(("prediction", "truth"), list(itertools.product(
    [NOTHING, CORNER, CORNER[::-1, ::-1, ::-1], EVERYTHING], [NOTHING, CORNER, EVERYTHING])))
def test_empty_and_full_masks(tmp_path, prediction, truth):
    probability = numpy.where(prediction, 0.75, 0.0).astype("f4")
    compare(tmp_path, prediction, truth, affine_of((1.0, 1.5, 3.0)), probability)


def test_a_region_without_background_or_without_lesions(tmp_path):
    probability = numpy.full(NOTHING.shape, 0.5, "f4")
    for region in (CORNER, ~CORNER):
        compare(tmp_path, CORNER, CORNER, affine_of((1.0, 1.0, 1.0)), probability, region)


def test_a_cohort(tmp_path):
    """Five cases of other sizes, one of them healthy, one in which nothing is found."""
    random = numpy.random.default_rng(26)
    shape, affine = (30, 28, 26), affine_of((1.0, 1.0, 1.5))
    pairs = [pair(random, shape, density, 1.2) for density in (0.01, 0.02, 0.05, 0.03, 0.04)]
    nothing = numpy.zeros(shape, bool)
    pairs[3] = (pairs[3][0], nothing)
    pairs[4] = (nothing, pairs[4][1])
    for number, case in enumerate(pairs):
        for side, mask in zip(("prediction", "truth"), case):
            folder = tmp_path / side / f"case{number}"
            folder.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(mask.astype("u1"), affine), folder / "lesions.nii.gz")
    command = [PROGRAM, "evaluate", "--json", "--min-lesion-ml", "0.003", "--overlap", "any",
               "--prediction", str(tmp_path / "prediction"), "--truth", str(tmp_path / "truth")]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    by_library = [reference(*case, affine, min_lesion_ml=0.003) for case in pairs]
    figures = [{name: next(iter(values.values())) for name, values in case.items()} for case in by_library]
    want = cohort(pairs, figures)
    for kind in ("mean", "median", "n"):
        assert found[kind].keys() == want[kind].keys()
        wrong = {name: (found[kind][name], value) for name, value in want[kind].items()
                 if not same(found[kind][name], value)}
        assert not wrong, f"{kind}: figure: (dawson, reference): {wrong}"
    assert same(found["volume_correlation"], want["volume_correlation"])
    scores = [found["isbi_scores"][f"case{number}"] for number in range(len(pairs))]
    assert all(same(*both) for both in zip(scores, want["isbi_scores"])), (scores, want["isbi_scores"])
    assert scores[3] is None


@pytest.mark.skipif(not MASKS.is_dir(), reason=f"the real masks are not at {MASKS}")
def test_real_masks(tmp_path):
    paths = sorted(MASKS.glob("*/lesions.nii.gz"))
    assert paths, f"no case with lesions.nii.gz in {MASKS}"
    for path in paths:
        image = nibabel.load(path)
        truth = numpy.asarray(image.dataobj) != 0
        random = numpy.random.default_rng(truth.sum())
        noise = ndimage.gaussian_filter(random.normal(size=truth.shape), 1.5)
        soft = ndimage.gaussian_filter(truth.astype("f4"), 1) + 2 * noise
        probability = numpy.clip(soft, 0, 1).astype("f4")
        found = compare(tmp_path, probability > 0.5, truth, image.affine, probability,
                        min_lesion_ml=0.003, overlap=0.1)
        assert 0 < found["dsc"] < 1
