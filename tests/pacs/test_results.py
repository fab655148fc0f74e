"""DICOM results as others read them: validators, toolkits, and geometry worked out here from the standard."""
import json
import re
import subprocess

import highdicom
import nibabel
import numpy
import pydicom
import pytest

from conftest import LPS_TO_RAS, ROOT, Written, tool, write

NOTICE = "Research software. Not for diagnostic use."
COLOURS = {
    "periventricular": (255, 96, 64),
    "juxtacortical": (64, 208, 255),
    "infratentorial": (255, 112, 255),
    "deep_white_matter": (255, 220, 64),
    "": (255, 96, 64),
}


def run(name: str, *words: object) -> str:
    """What a tool prints; it must succeed."""
    done = subprocess.run([tool(name), *map(str, words)], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rasterised(seg: pydicom.Dataset, like: nibabel.Nifti1Image) -> dict[int, numpy.ndarray]:
    """The voxels of each segment on a NIfTI image's grid, placed by the equation of PS3.3 C.7.6.2.1.1."""
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    cosines = numpy.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, across = map(float, measures.PixelSpacing)
    rows, columns = numpy.mgrid[: seg.Rows, : seg.Columns]
    inverse = numpy.linalg.inv(like.affine)
    found: dict[int, numpy.ndarray] = {}
    for frame, groups in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = numpy.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        world = position + columns[..., None] * across * cosines[:3] + rows[..., None] * down * cosines[3:]
        voxel = (world * LPS_TO_RAS) @ inverse[:3, :3].T + inverse[:3, 3]
        at = numpy.rint(voxel).astype(int)
        assert numpy.abs(voxel - at).max() < 0.01, "a frame lies between voxels"
        numbers = [int(n) for n in numpy.unique(frame) if n]
        for number in numbers:
            segment = number
            if "SegmentIdentificationSequence" in groups:
                segment = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            mask = found.setdefault(segment, numpy.zeros(like.shape[:3], int))
            numpy.add.at(mask, tuple(at[frame == number].T), 1)
    return found


def differing(found: dict[int, numpy.ndarray], wanted: dict[int, numpy.ndarray]) -> int:
    assert found.keys() == wanted.keys()
    return sum(int((found[n] != wanted[n]).sum()) for n in wanted)


def test_no_voxel_differs(written: Written):
    truth = written.instances()
    ids = numpy.asarray(truth.dataobj)
    each = {number: (ids == number).astype(int) for number, *_ in written.lesions()}
    burden: dict[int, numpy.ndarray] = {}
    if each:
        regions = [region for region in COLOURS if region and any(r == region for *_, r in written.lesions())]
        burden[1] = (ids > 0).astype(int)
        for segment, region in enumerate(regions, start=2):
            burden[segment] = sum(each[n] for n, *_, r in written.lesions() if r == region)
        assert differing(rasterised(written.dataset("dicom_seg_lesions"), truth), each) == 0
    assert differing(rasterised(written.dataset("dicom_seg"), truth), burden) == 0
    assert differing(rasterised(written.dataset("dicom_seg_labelmap"), truth), each) == 0


def test_dcmqi_reads_the_same_voxels(written: Written, tmp_path):
    name = "dicom_seg_lesions" if written.lesions() else "dicom_seg"
    run("segimage2itkimage", "--inputDICOM", written.result(name), "--outputDirectory", tmp_path, "-t", "nii",
        "--mergeSegments")
    meta = json.loads((tmp_path / "meta.json").read_text())
    labels = {a["labelID"] for group in meta["segmentAttributes"] for a in group}
    truth = written.instances()
    got = numpy.zeros(truth.shape[:3], int)
    for file in tmp_path.glob("*.nii*"):
        image = nibabel.load(file)
        values = numpy.asarray(image.dataobj)
        inside = numpy.argwhere(values > 0)
        world = inside @ image.affine[:3, :3].T + image.affine[:3, 3]
        inverse = numpy.linalg.inv(truth.affine)
        at = numpy.rint(world @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        got[tuple(at.T)] = values[values > 0]
    ids = numpy.asarray(truth.dataobj)
    assert int((got != ids).sum()) == 0
    assert len(labels) == max(1, len(written.lesions()))


def test_the_reference_checker_finds_nothing(written: Written):
    checker = ROOT.parent / "shared" / "dicom-tools" / "check_seg.py"
    if not checker.exists():
        pytest.skip("there is no ../shared/dicom-tools beside the repository")
    names = [("dicom_seg", ["--segment", 1]), ("dicom_seg_labelmap", ["--labels"])]
    if written.lesions():
        names.append(("dicom_seg_lesions", ["--labels"]))
    for name, words in names:
        run("python", checker, written.result(name), written.folder / "instances.nii.gz", written.series, *words)


def test_dciodvfy_finds_no_error(written: Written):
    # A private scheme is none of its defined terms; there is no code for these places in PS3.16.
    known = re.compile(r"Unrecognized defined term = <99DAWSON>")
    for file in written.every():
        done = subprocess.run([tool("dciodvfy"), "-new", str(file)], capture_output=True, text=True)
        lines = (done.stdout + done.stderr).splitlines()
        bad = [line for line in lines if line.startswith("Error")]
        bad += [line for line in lines if line.startswith("Warning") and not known.search(line)]
        if file.name.startswith("dicom_sc"):
            # Where it lies is said although a Secondary Capture need not: viewers link it with the source.
            bad = [line for line in bad if "not present in standard DICOM IOD" not in line]
        assert not bad, (file.name, bad)


def test_dcentvfy_finds_one_patient_and_study(written: Written):
    files = [*written.every(), *sorted(written.series.glob("*.dcm"))]
    done = subprocess.run([tool("dcentvfy"), *map(str, files)], capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
    # dcentvfy counts the accession number to the series of some objects: it is equal in all.
    errors = [line for line in errors if "AccessionNumber" not in line]
    assert not errors, errors


def test_highdicom_opens_what_was_written(written: Written):
    seg = highdicom.seg.segread(written.result("dicom_seg"))
    lesions = written.lesions()
    regions = {region for *_, region in lesions if region}
    assert seg.number_of_segments == 1 + len(regions)
    highdicom.seg.segread(written.result("dicom_seg_labelmap"))
    report = highdicom.sr.srread(written.result("dicom_sr"))
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 1 + len(regions) + len(lesions)
    each = groups[1 + len(regions):]
    for (number, ml, uid, region), group in zip(lesions, each, strict=True):
        assert (group.tracking_identifier, group.tracking_uid) == (f"Lesion {number}", uid)
        assert group.get_measurements()[0].value == ml, "the report's volume to the last bit"
        assert group.referenced_segment.referenced_segment_numbers == [number]
    total = {m.name.value: m.value for m in groups[0].get_measurements()}
    assert total["LESION_COUNT"] == len(lesions)
    assert abs(total["118565006"] - sum(ml for _, ml, *_ in lesions)) < 1e-9


def test_segments_track_what_is_measured(written: Written):
    if not written.lesions():
        pytest.skip("there is nothing to track")
    segments = written.dataset("dicom_seg_lesions").SegmentSequence
    tracked = [(int(s.SegmentNumber), s.TrackingID, s.TrackingUID) for s in segments]
    assert tracked == [(n, f"Lesion {n}", uid) for n, _, uid, _ in written.lesions()]


def test_dcmtk_and_dcmqi_read_the_measurements(written: Written, tmp_path):
    dump = run("dsrdump", "+Pc", written.result("dicom_sr"))
    lesions = written.lesions()
    assert f'(LESION_COUNT,99DAWSON,"Number of lesions")="{len(lesions)}"' in dump
    assert NOTICE in run("dsrdump", "+Pl", written.result("dicom_sr"))
    run("tid1500reader", "--inputDICOM", written.result("dicom_sr"), "--outputMetadata", tmp_path / "sr.json")
    groups = json.loads((tmp_path / "sr.json").read_text())["Measurements"]
    by_uid = {group["TrackingUniqueIdentifier"]: group for group in groups}
    for number, ml, uid, _ in lesions:
        group = by_uid[uid]
        assert group["TrackingIdentifier"] == f"Lesion {number}" and group["ReferencedSegment"] == number
        value = float(group["measurementItems"][0]["value"])
        assert abs(value - ml) <= 1e-12 * max(1.0, ml)


def test_every_object_names_its_sources_and_the_network(written: Written):
    source = {pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in written.series.glob("*.dcm")}
    for file in written.every():
        data = pydicom.dcmread(file)
        named = {e.value for e in data.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        assert source <= named, file.name
        assert any(re.fullmatch("[0-9a-f]{64}", v) for v in data.SoftwareVersions), file.name
        assert data.PatientName == "Phäntom^Ada" and data.PatientID == "PHANTOM-11"
        assert data.SeriesDescription.startswith("Dawson") and data.Manufacturer == "Dawson"
        assert re.fullmatch(r"2\.25\.[1-9]\d{0,38}", data.SOPInstanceUID)


def test_the_page_says_what_was_found(written: Written, tmp_path):
    data = written.dataset("dicom_pdf")
    pdf = data.EncapsulatedDocument[: data.EncapsulatedDocumentLength]
    assert pdf == (written.folder / "report.pdf").read_bytes()
    (tmp_path / "page.pdf").write_bytes(pdf)
    text = run("pdftotext", "-layout", tmp_path / "page.pdf", "-")
    lesions = written.lesions()
    assert text.count(NOTICE) == 2 and "Phäntom, Ada" in text and "PHANTOM-11" in text
    if lesions:
        assert f"{len(lesions)} lesions, {sum(ml for _, ml, *_ in lesions):.2f} ml in all" in text
        for name, title in [("juxtacortical", "Juxtacortical"), ("deep_white_matter", "Deep white matter")]:
            there = [ml for _, ml, _, region in lesions if region == name]
            if there:
                row = rf"{title}\s+{len(there)}\s+{sum(there):.2f}\s+{max(there):.2f}"
                assert re.search(row, text), text
    else:
        assert "No lesion found" in text
    assert "phantom-truth 1.0.0" in text and "brain_not_extracted" in text
    assert "1" == re.search(r"Pages:\s+(\d+)", run("pdfinfo", tmp_path / "page.pdf")).group(1)


def test_captures_draw_each_lesion_on_its_slice(written: Written):
    truth = written.instances()
    ids = numpy.asarray(truth.dataobj)
    region = {number: region for number, _, _, region in written.lesions()}
    slices = [k for k in range(ids.shape[2]) if ids[:, :, k].any()] or [ids.shape[2] // 2]
    files = written.captures()
    assert len(files) == len(slices)
    inverse = numpy.linalg.inv(truth.affine)
    for slice_, file in zip(slices, files, strict=True):
        data = pydicom.dcmread(file)
        assert (data.PhotometricInterpretation, data.BurnedInAnnotation) == ("RGB", "NO")
        position = numpy.array(data.ImagePositionPatient, float)
        cosines = numpy.array(data.ImageOrientationPatient, float)
        down, across = map(float, data.PixelSpacing)
        pixels = data.pixel_array
        for number in numpy.unique(ids[:, :, slice_]):
            if not number:
                continue
            outline = numpy.argwhere((pixels == COLOURS[region[number]]).all(-1))
            world = position + outline[:, [1]] * across * cosines[:3] + outline[:, [0]] * down * cosines[3:]
            voxel = (world * LPS_TO_RAS) @ inverse[:3, :3].T + inverse[:3, 3]
            assert numpy.abs(voxel[:, 2] - slice_).max() < 0.01
            own = numpy.argwhere(ids[:, :, slice_] == number)
            # Every outer voxel has outline within itself or the half pixel beside it.
            off = numpy.abs(voxel[:, None, :2] - own[None]).max(-1)
            assert off.min() < 0.8 and (off.min(0) < 1.6).any()
            assert (off.min(0) < 0.8).sum() >= min(len(own), 4)


@pytest.mark.parametrize("written", [("axial",)], indirect=True, ids=["axial"])
def test_a_repetition_gives_the_same_files(written: Written, tmp_path):
    again = write(tmp_path, written.flags)
    files = [f.relative_to(written.folder) for f in sorted(written.folder.rglob("*.*")) if f.is_file()]
    assert files == [f.relative_to(again.folder) for f in sorted(again.folder.rglob("*.*")) if f.is_file()]
    for file in files:
        assert (written.folder / file).read_bytes() == (again.folder / file).read_bytes(), file
