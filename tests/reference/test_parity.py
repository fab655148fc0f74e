"""`dawson segment` against the method written a second time (see pipeline_reference.py), voxel by voxel.

DAWSON_BIN names the program. DAWSON_SHARED may name the folder with the developers' data, which is looked for
beside the repository otherwise; without it the real scans are left out. Most cases use the tests' tiny network:
it works at 3 mm in small patches, so that every rule of the method is reached in little time.
"""
import functools
import gzip
import json
import os
import pathlib
import shutil
import struct
import subprocess

import nibabel
import numpy
import pytest

import pipeline_reference

PROGRAM = os.environ.get("DAWSON_BIN")
ROOT = pathlib.Path(__file__).resolve().parents[2]
LESJAK = pathlib.Path(os.environ.get("DAWSON_SHARED", ROOT.parent / "shared")) / "data" / "labelled" / "lesjak26"
MODEL = ROOT / "models" / "ms-lesion" / "0.4.0"
TINY = ROOT / "tests" / "fixtures" / "models" / "tiny-lesion" / "1.0.0"
TOLERANCE = 1e-4

pytestmark = pytest.mark.skipif(not PROGRAM, reason="DAWSON_BIN does not name the program to test")


def run(*arguments):
    """Runs the program, away from the settings of whoever tests, and fails with its words."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAWSON_")}
    done = subprocess.run([pathlib.Path(PROGRAM).resolve(), *map(str, arguments)],
                          capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A function from the options of `dawson phantom` to the folder it wrote; each is made once."""
    @functools.cache
    def make(*options, contrasts="flair"):
        folder = tmp_path_factory.mktemp("phantom") / "scans"
        run("phantom", "--seed", 3, "--out", folder, "--contrasts", contrasts, *options)
        return folder

    return make


@functools.cache
def expected(scans, model, options):
    return pipeline_reference.segment(dict(scans), model, **dict(options))


def scans_of(folder, *contrasts):
    return {contrast: folder / f"{contrast}.nii.gz" for contrast in contrasts}


def program(out, scans, model, voting=None, overlap=None, flips=None, device="cpu",
            outputs="lesions,instances,probability", how=("--no-anatomy", "--align", "none")):
    """Runs `dawson segment` on the scans; gives its report."""
    arguments = ["segment", "--out", out, "--models", model.parents[1], "--model", model.parent.name,
                 "--outputs", outputs, *how]
    for contrast, path in scans.items():
        arguments += [f"--{contrast}", path]
    arguments += ["--voting", voting] if voting else []
    arguments += ["--overlap", overlap] if overlap is not None else []
    arguments += [f"--flips={str(flips).lower()}"] if flips is not None else []
    arguments += ["--device", device] if device else []
    run(*arguments)
    return json.loads((out / "report.json").read_text())


def items_of(report):
    return [pipeline_reference.Lesion(item["voxels"], item["volume_ml"], tuple(item["centroid_mm"]))
            for item in report["lesions"]["items"]]


def same_lesions(found, want):
    assert [lesion.voxels for lesion in found] == [lesion.voxels for lesion in want]
    for one, other in zip(found, want):
        assert one.volume_ml == pytest.approx(other.volume_ml, rel=1e-6)
        assert one.centroid_mm == pytest.approx(other.centroid_mm, abs=1e-3)


def same_place(image, flair):
    """Both lie on the same voxels in the world, to the bit."""
    assert image.shape == flair.shape
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert image.header[field] == flair.header[field], field
    assert image.header.get_zooms() == flair.header.get_zooms()
    assert numpy.array_equal(image.affine, flair.affine)


def compare(out, scans, model, device="cpu", weighting=None, **options):
    """Runs program and reference on the scans, compares all they say; gives the report and the reference's result."""
    report = program(out, scans, model, device=device, **options)
    flair = nibabel.load(scans["flair"])
    names = ("probability", "lesions", "instances")
    images = {name: nibabel.load(out / f"{name}.nii.gz") for name in names}
    for image in images.values():
        same_place(image, flair)
    probability, mask, instances = (numpy.asanyarray(images[name].dataobj) for name in names)

    want = expected(tuple(scans.items()), model, tuple({**options, "weighting": weighting}.items()))
    difference = abs(probability - want.probability).max()
    print(f"largest difference {difference:.1e}, {len(want.lesions)} lesions, {want.patches} patches, "
          f"grid {want.grid_shape} on the {want.foreground}, {report['engine']['device']}")
    assert tuple(report["study"]["grid_shape"]) == want.grid_shape
    assert report["study"]["foreground"] == want.foreground
    assert ("brain_not_extracted" in json.dumps(report["warnings"])) == (want.foreground == "head")
    assert ("single_pass_too_large" in json.dumps(report["warnings"])) == want.too_large
    assert report["settings"]["patches"] == want.patches
    assert want.probability.max() > 0.5, "the case says nothing: no lesion anywhere"
    assert difference <= TOLERANCE

    # What the program counts is what follows from the probability it wrote ...
    settings = report["settings"]
    kept, lesions = pipeline_reference.find_lesions(probability, want.affine, settings["threshold"],
                                                    settings["min_lesion_ml"])
    assert numpy.array_equal(mask, kept)
    assert numpy.array_equal(instances > 0, kept)
    same_lesions(items_of(report), lesions)
    assert [int((instances == item["id"]).sum()) for item in report["lesions"]["items"]] == \
        [lesion.voxels for lesion in lesions]
    assert report["lesions"]["count"] == len(lesions)
    # ... and what the reference counts, unless a voxel is as near to the threshold as the two differ.
    if not (abs(want.probability - settings["threshold"]) <= difference).any() or difference == 0:
        assert numpy.array_equal(mask, want.mask)
        same_lesions(items_of(report), want.lesions)
    return report, want


# The network that is shipped

@pytest.mark.parametrize("device", ["cpu", None], ids=["cpu", "default device"])
def test_three_contrasts_on_one_grid(phantom, tmp_path, device):
    folder = phantom(contrasts="flair,t1w,t2w")
    compare(tmp_path / "out", scans_of(folder, "flair", "t1w", "t2w"), MODEL, device=device)


def test_contrasts_on_different_grids(phantom, tmp_path):
    thick = phantom("--spacing", "0.8,0.8,3", "--orientation", "LPS")
    plain = phantom(contrasts="flair,t1w,t2w")
    compare(tmp_path / "out", scans_of(thick, "flair") | scans_of(plain, "t1w"), MODEL)


@pytest.mark.skipif(not LESJAK.is_dir(), reason="real scans: DAWSON_SHARED names no folder that holds lesjak26")
@pytest.mark.parametrize("contrasts", [(), ("t1w",), ("t2w",), ("t1w", "t2w")],
                         ids=lambda contrasts: "+".join(("flair", *contrasts)))
def test_real_scans(tmp_path, contrasts):
    report, _ = compare(tmp_path / "out", scans_of(LESJAK, "flair", *contrasts), MODEL)
    assert report["lesions"]["count"] > 5


# Registration finds a third of a millimetre between the contrasts of lesjak26.
@pytest.mark.parametrize("place, how", [("phantom", ()), ("lesjak26", ("--align", "none"))], ids=["phantom", "lesjak26"])
def test_anatomy_leaves_stripped_scans_as_they_were_compared(phantom, tmp_path, place, how):
    if place == "lesjak26" and not LESJAK.is_dir():
        pytest.skip("real scans: DAWSON_SHARED names no folder that holds lesjak26")
    folder = LESJAK if place == "lesjak26" else phantom(contrasts="flair,t1w,t2w")
    scans = scans_of(folder, "flair", "t1w", "t2w")
    program(tmp_path / "plain", scans, MODEL, outputs="probability")
    report = program(tmp_path / "asked", scans, MODEL, outputs="probability,brain", how=how)
    assert (tmp_path / "asked" / "brain.nii.gz").is_file() and report["study"]["foreground"] == "brain"
    bytes_of = [(tmp_path / out / "probability.nii.gz").read_bytes() for out in ("plain", "asked")]
    assert bytes_of[0] == bytes_of[1]


# The tiny network

@pytest.mark.parametrize("options", [
    {},
    {"overlap": 0.25},
    {"overlap": 0.0, "flips": True},
    {"overlap": 0.6},
    {"voting": "single"},
    {"voting": "single", "flips": True},
    {"voting": "adaptive", "overlap": 0.25},
    {"voting": "adaptive", "overlap": 0.25, "flips": True},
], ids=str)
def test_votes(phantom, tmp_path, options):
    folder = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w")
    _, want = compare(tmp_path / "out", scans_of(folder, "flair", "t2w"), TINY, **options)
    assert (want.patches <= 2) == (options.get("voting") == "single")


@pytest.fixture(scope="session")
def variant(tmp_path_factory):
    """A function from replacements in the tiny network's description to the folder of such a model."""
    def make(**replacements):
        folder = tmp_path_factory.mktemp("models") / TINY.parent.name / TINY.name
        shutil.copytree(TINY, folder)
        text = (folder / "model.toml").read_text()
        for name, value in replacements.items():
            line = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
            text = text.replace(line, f"{name} = {value}", 1)
        (folder / "model.toml").write_text(text)
        return folder

    return make


@pytest.mark.parametrize("replacements", [
    {"weighting": '"gaussian"'},
    {"weighting": '"uniform"'},
    {"shape": "[24, 40, 32]", "overlap": "0.3"},
    {"spacing_mm": "[3.3, 2.5, 4.0]"},
    {"restrict_to_brain": "false", "outside_brain": "-3.0", "missing_value": "0.5", "clip": "[-2.0, 3.0]"},
], ids=str)
def test_what_a_model_may_ask(phantom, tmp_path, variant, replacements):
    folder = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w")
    compare(tmp_path / "out", scans_of(folder, "flair", "t1w"), variant(**replacements))


@pytest.mark.parametrize("spacing", ["1.2,1.2,4", "2,2,2"])
def test_skull_kept(phantom, tmp_path, spacing):
    folder = phantom("--skull", "kept", "--spacing", spacing, contrasts="flair,t1w")
    _, want = compare(tmp_path / "out", scans_of(folder, "flair", "t1w"), TINY)
    assert want.foreground == "head"


def test_a_stripped_scan_full_of_specks_is_a_head(phantom, tmp_path):
    """The pieces that are left out of a brain count for whether a scan can be one, as it was sent."""
    folder = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w")
    image = nibabel.load(folder / "flair.nii.gz")
    samples = numpy.asanyarray(image.dataobj).copy()
    speck = numpy.isin(sum(numpy.indices(samples.shape)) % 7, (0, 3))
    samples[speck & (samples == 0)] = samples.max() // 4
    nibabel.save(nibabel.Nifti1Image(samples, image.affine, image.header), tmp_path / "flair.nii.gz")
    _, plain = compare(tmp_path / "plain", scans_of(folder, "flair"), TINY)
    _, specked = compare(tmp_path / "out", scans_of(tmp_path, "flair"), TINY)
    assert (plain.foreground, specked.foreground) == ("brain", "head")


@pytest.mark.parametrize("orientation, spacing", [
    ("LPS", "0.8,0.8,3"), ("PIR", "1.1,0.9,2.2"), ("SAL", "3,3,3"), ("IRP", "5,0.7,0.7"),
])
def test_grids(phantom, tmp_path, orientation, spacing):
    flair = phantom("--spacing", spacing, "--orientation", orientation)
    other = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w")
    compare(tmp_path / "out", scans_of(flair, "flair") | scans_of(other, "t1w"), TINY)


def turned(path, out, degrees, shift=(0.0, 0.0, 0.0)):
    """Saves a scan turned about the world's three axes, in the sform alone."""
    image = nibabel.load(path)
    turn = numpy.eye(4)
    for angle, (a, b) in zip(numpy.radians(degrees), [(1, 2), (2, 0), (0, 1)]):
        step = numpy.eye(4)
        step[[a, b, a, b], [a, b, b, a]] = [numpy.cos(angle), numpy.cos(angle), -numpy.sin(angle), numpy.sin(angle)]
        turn = step @ turn
    turn[:3, 3] = shift
    new = nibabel.Nifti1Image(numpy.asanyarray(image.dataobj), None)
    new.set_sform(turn @ image.affine, 2)
    new.set_qform(None, 0)
    new.header.set_xyzt_units("mm")
    nibabel.save(new, out)
    return out


@pytest.mark.parametrize("spacing", ["0.9,0.9,4", "0.8,0.8,3"])  # In the second, slices meet the network's grid.
def test_oblique(phantom, tmp_path, spacing):
    thick = phantom("--spacing", spacing, "--orientation", "LPS")
    plain = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w")
    scans = {"flair": turned(thick / "flair.nii.gz", tmp_path / "flair.nii.gz", [20, -15, 10], [5, 60, -40]),
             "t1w": turned(plain / "t1w.nii.gz", tmp_path / "t1w.nii.gz", [12, -8, 25], [6, 55, -38.5])}
    compare(tmp_path / "out", scans, TINY)


def test_single_pass_too_large(tmp_path):
    """A brain longer than any single patch: full voting, and a warning."""
    samples = numpy.zeros((300, 24, 24), "i2")
    samples[8:290, 5:19, 5:19] = numpy.random.default_rng(5).integers(80, 120, (282, 14, 14))
    samples[60:70, 8:14, 8:14] = 400
    nibabel.save(nibabel.Nifti1Image(samples, numpy.diag([3.0, 3, 3, 1])), tmp_path / "flair.nii.gz")
    _, want = compare(tmp_path / "out", scans_of(tmp_path, "flair"), TINY, voting="single")
    assert want.too_large


# Encodings

def big_endian_doubles(image, out):
    header = image.header.as_byteswapped(">")
    header.set_data_dtype(">f8")
    nibabel.save(nibabel.Nifti1Image(numpy.asanyarray(image.dataobj).astype(">f8"), None, header), out)


def scaled_integers(image, out):
    """Stored as 4 · value − 500, with the slope and intercept that undo it: both are exact."""
    samples = numpy.asanyarray(image.dataobj).astype("i4") * 4 - 500
    assert abs(samples).max() < 2 ** 15
    raw = bytearray(nibabel.Nifti1Image(samples.astype("i2"), None, image.header).to_bytes())
    struct.pack_into("<ff", raw, 112, 0.25, 125.0)  # scl_slope, scl_inter
    out.write_bytes(gzip.compress(raw, 1))


def of_sixteen_bytes(image, out, samples):
    """Floats of 16 bytes, which nibabel writes on few machines: `samples` are their bytes, i fastest."""
    raw = bytearray(nibabel.Nifti1Image(numpy.zeros(image.shape, "u1"), None, image.header).to_bytes()[:352])
    struct.pack_into("<hh", raw, 70, 1536, 128)  # datatype, bitpix
    out.write_bytes(gzip.compress(bytes(raw) + samples, 1))


def extended_floats(image, out):
    """The 80 bits of x86, as its C compilers store a long double."""
    samples = numpy.asanyarray(image.dataobj).ravel(order="F").astype(numpy.longdouble)
    if numpy.finfo(numpy.longdouble).nmant != 63:
        pytest.skip("this processor has no such floats")
    of_sixteen_bytes(image, out, samples.tobytes())


def quadruple_floats(image, out):
    """IEEE binary128: the exponent of 15 bits, then what a double has of the fraction."""
    bits = numpy.asanyarray(image.dataobj).ravel(order="F").astype("<f8").view("<u8")
    exponent = numpy.where(bits == 0, 0, ((bits >> 52) & 0x7FF) + 16383 - 1023).astype("<u8")
    fraction = bits & ((1 << 52) - 1)
    high = (bits >> 63 << 63) | (exponent << 48) | (fraction >> 4)
    of_sixteen_bytes(image, out, numpy.stack([fraction << 60, high], 1).astype("<u8").tobytes())


def second_version(image, out):
    """NIfTI-2, the place in the qform alone."""
    new = nibabel.Nifti2Image(numpy.asanyarray(image.dataobj), None)
    new.set_qform(image.affine, 1)
    new.set_sform(None, 0)
    new.header.set_xyzt_units("mm")
    nibabel.save(new, out)


@pytest.mark.parametrize("encode, name", [
    (big_endian_doubles, "flair.nii.gz"), (scaled_integers, "flair.nii.gz"), (second_version, "flair.nii"),
    (extended_floats, "flair.nii.gz"), (quadruple_floats, "flair.nii.gz"),
])
def test_encodings(phantom, tmp_path, encode, name):
    plain = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w") / "flair.nii.gz"
    encode(nibabel.load(plain), tmp_path / name)
    want = program(tmp_path / "plain", {"flair": plain}, TINY)
    found = program(tmp_path / "encoded", {"flair": tmp_path / name}, TINY)
    assert want["lesions"]["count"] > 0
    assert found["lesions"] == want["lesions"]
    # nibabel refuses floats of 16 bytes on most machines; their header is the plain file's.
    sent = plain if encode in (extended_floats, quadruple_floats) else tmp_path / name
    same_place(nibabel.load(tmp_path / "encoded" / "lesions.nii.gz"), nibabel.load(sent))
    probabilities = [nibabel.load(tmp_path / out / "probability.nii.gz").get_fdata() for out in ("plain", "encoded")]
    assert numpy.array_equal(*probabilities)


def test_coarse_probability(phantom, tmp_path):
    """One byte a voxel, in steps of 1/255, on the same grid: half a step off at most."""
    flair = phantom("--spacing", "2,2,2", contrasts="flair,t1w,t2w") / "flair.nii.gz"
    program(tmp_path, {"flair": flair}, TINY)
    fine, usual = nibabel.load(tmp_path / "probability.nii.gz"), sorted(f.name for f in tmp_path.iterdir())
    assert "probability_uint8.nii.gz" not in usual
    program(tmp_path / "coarse", {"flair": flair}, TINY, outputs="probability_uint8")
    assert sorted(f.name for f in (tmp_path / "coarse").iterdir()) == ["probability_uint8.nii.gz", "report.json"]
    coarse = nibabel.load(tmp_path / "coarse" / "probability_uint8.nii.gz")
    assert coarse.get_data_dtype() == numpy.uint8
    assert abs(coarse.get_fdata() - fine.get_fdata()).max() <= 0.5 / 255 + 1e-6
    assert fine.get_fdata().max() > 0.5
    same_place(coarse, fine)
