"""The bias field that the program finds, against the one that was put there and against N4.

N4 is SimpleITK's (Tustison et al., IEEE Trans. Med. Imaging 29:1310, 2010), within the phantom's brain. DAWSON_BIN names
the program.
"""
import os
import subprocess

import nibabel
import numpy
import pytest
import SimpleITK

import raw_scans

PROGRAM = os.environ.get("DAWSON_BIN", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="DAWSON_BIN names no program")


def span(field, inside):
    low, high = numpy.percentile(field[inside], (5, 95))
    return high - low


def n4(values, inside):
    """The logarithm of the field that N4 finds, coarsely."""
    image = SimpleITK.GetImageFromArray(values.T.astype("f4"))
    mask = SimpleITK.GetImageFromArray(inside.T.astype("u1"))
    corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([30, 30, 30])
    corrector.Execute(SimpleITK.Shrink(image, [4] * 3), SimpleITK.Shrink(mask, [4] * 3))
    return SimpleITK.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    words = [PROGRAM, "phantom", "--seed", "1", "--out", str(folder / "made"), "--contrasts", "flair,t1w"]
    subprocess.run(words, check=True)
    return folder / "made"


def found(scans, folder):
    report = raw_scans.segment(PROGRAM, folder, scans, "--outputs", "lesions")
    assert not isinstance(report, str), report
    return {c["contrast"]: c["bias_field"] for c in report["study"]["contrasts"]}, report


def test_a_strong_field_is_found_as_well_as_n4_finds_it_and_the_lesions_stay(head, tmp_path):
    brain = numpy.asarray(nibabel.load(head / "brain.nii.gz").dataobj) != 0
    scans, lit = {}, {}
    for contrast in ("flair", "t1w"):
        scans[contrast] = head / f"{contrast}.nii.gz"
        image = nibabel.load(scans[contrast])
        lit[contrast] = raw_scans.save(tmp_path / f"{contrast}.nii.gz",
                                       raw_scans.biased(image.get_fdata(), 0.8).astype("f4"), image.affine)
    plain, _ = found(scans, tmp_path / "plain")
    uneven, report = found(lit, tmp_path / "lit")
    for contrast in scans:
        before, after = (nibabel.load(s[contrast]).get_fdata() for s in (scans, lit))
        inside = brain & (before > 0)
        truth = numpy.zeros(brain.shape)
        truth[inside] = numpy.log(after[inside] / before[inside])
        reference = n4(after, inside)
        print(f"{contrast}: put there {span(truth, inside):.3f}, found {uneven[contrast]['span']:.3f}, "
              f"by N4 {span(reference, inside):.3f}; without it {plain[contrast]['span']:.3f}")
        assert abs(uneven[contrast]["span"] - span(truth, inside)) <= 0.05
        assert abs(uneven[contrast]["span"] - span(reference, inside)) <= 0.15
        assert uneven[contrast]["removed"] and not plain[contrast]["removed"]
    assert {"bias_field (flair)", "bias_field (t1w)"} <= set(raw_scans.codes(report))
    masks = [raw_scans.mask_of(tmp_path / name) for name in ("plain", "lit")]
    assert raw_scans.dice(*masks) >= 0.9
