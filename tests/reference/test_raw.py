"""Raw scans and wrong input, by the whole program: what docs/method.md says of them, held.

DAWSON_BIN names the program. The real scans are looked for in $DAWSON_SHARED (default: ../shared beside the
checkout); without them those tests are skipped and say so. Which input is wrong, and what must be said of it,
stands in raw_scans.py.
"""
import os
import pathlib
import subprocess

import pytest

import raw_scans

PROGRAM = os.environ.get("DAWSON_BIN", "")
ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("DAWSON_SHARED", ROOT.parent / "shared")) / "data"
pytestmark = pytest.mark.skipif(not PROGRAM, reason="DAWSON_BIN names no program")
needs_scans = pytest.mark.skipif(not (SHARED / "raw").is_dir(), reason="there are no real scans beside the repository")
# What is true of these scans: 4 mm slices; a small load (0.4 ml in long20), whose rim is undecided.
TRUE_FLAGS = {"long01-visit1": {"thick_slices", "undecided"}, "long20-visit2": {"undecided"}}


@needs_scans
@pytest.mark.parametrize("name", list(raw_scans.real_cases(SHARED)))
def test_a_real_study_is_neither_refused_nor_flagged_for_what_it_is_not(name, tmp_path):
    report = raw_scans.segment(PROGRAM, tmp_path, raw_scans.real_cases(SHARED)[name], "--outputs", "lesions")
    assert set(raw_scans.codes(report)) <= TRUE_FLAGS.get(name, set())


@needs_scans
@pytest.mark.parametrize("name", list(raw_scans.wrong_inputs(SHARED)))
def test_wrong_input_is_flagged_or_refused_by_name(name, tmp_path):
    make, wanted = raw_scans.wrong_inputs(SHARED)[name]
    result = raw_scans.segment(PROGRAM, tmp_path / "out", make(tmp_path), "--outputs", "lesions",
                               raw_scans.ONCE)
    assert raw_scans.is_said(result, wanted), raw_scans.codes(result)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head") / "phantom"
    words = [PROGRAM, "phantom", "--seed", "1", "--out", str(folder), "--contrasts", "flair,t1w,t2w"]
    subprocess.run(words, check=True)
    return {contrast: folder / f"{contrast}.nii.gz" for contrast in ("flair", "t1w", "t2w")}


@pytest.mark.parametrize("sent, said", [
    ({"flair": "flair", "t1w": "t1w", "t2w": "t2w"}, set()),
    ({"flair": "t1w"}, {"contrast_mismatch (flair)"}),
    ({"flair": "flair", "t1w": "t2w"}, {"contrast_mismatch (t1w)"}),
    ({"flair": "flair", "t2w": "t1w"}, {"contrast_mismatch (t2w)"}),
])
def test_a_phantom_is_known_by_its_contrasts(sent, said, head, tmp_path):
    report = raw_scans.segment(PROGRAM, tmp_path, {as_what: head[what] for as_what, what in sent.items()},
                               "--outputs", "lesions", raw_scans.ONCE)
    assert {code for code in raw_scans.codes(report) if "contrast" in code or "head" in code} == said


def test_a_small_head_without_noise_in_its_air_is_not_taken_for_a_brain(tmp_path):
    words = [PROGRAM, "phantom", "--seed", "3", "--out", str(tmp_path / "phantom"), "--skull", "kept"]
    subprocess.run(words, check=True)
    flair = tmp_path / "phantom" / "flair.nii.gz"
    found = {}
    for name, scale in {"whole": 1.0, "small": 0.85}.items():
        scan = raw_scans.small_and_blotted(tmp_path / "flair.nii.gz", flair, 60, scale)
        report = raw_scans.segment(PROGRAM, tmp_path / name, {"flair": scan}, "--outputs", "brain", raw_scans.ONCE)
        assert report["study"]["foreground"] == "extracted", name
        found[name] = report["study"]["foreground_ml"] / scale**3
    assert abs(found["small"] / found["whole"] - 1) < 0.1, found


@pytest.mark.parametrize("make", [raw_scans.sphere, raw_scans.rubbish])
def test_what_is_no_head_is_refused(make, tmp_path):
    said = raw_scans.segment(PROGRAM, tmp_path / "out", {"flair": make(tmp_path / "scan.nii.gz")})
    assert isinstance(said, str) and "no brain looks so on any contrast" in said


@needs_scans
@pytest.mark.parametrize("patient, study, least", [("long01", 1, 0.956), ("long01", 2, 0.953), ("long20", 2, 0.955)])
def test_the_brain_of_a_raw_scan_is_found(patient, study, least, tmp_path):
    # A thousandth below what is reached; the aim is 0.96.
    found, truth = raw_scans.brains(PROGRAM, SHARED, tmp_path / "out", patient, study)
    assert raw_scans.dice(found, truth) >= least


@needs_scans
def test_the_new_lesions_of_a_second_visit_are_found(tmp_path):
    """What stands out from its surroundings in visit 2 and did not in visit 1, at least four of five."""
    new = [change for change in raw_scans.changes(PROGRAM, SHARED, tmp_path) if change.is_new_lesion]
    assert len(new) == 2
    assert sum(change.touched[1] for change in new) >= 0.8 * len(new)
    assert not any(change.touched[0] for change in new)
