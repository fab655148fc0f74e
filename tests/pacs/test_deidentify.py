"""A study whose every corner names its patient, de-identified: nothing does afterwards, and it all still fits."""
import hashlib
import hmac
import io
import json
import pathlib
import re
import subprocess
import sys
import zipfile

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from conftest import PROGRAM as EXAMPLE
from conftest import ROOT, tool, write

sys.path.insert(0, str(ROOT / "tests"))
from service import PROGRAM, Service  # noqa: E402

pytestmark = pytest.mark.skipif(not (PROGRAM and EXAMPLE), reason="$DAWSON_BIN and $DICOM_RESULTS name no programs: "
                                                                  "run make test-pacs")
KEY = bytes(range(32))
CANARY = b"Zebedee"
# In every UID of the study; what takes its place begins with 2.25.
ROOT_OF_UIDS = b"1.2.826.0.1.3680043.10.9999"


def marked(folder: pathlib.Path) -> None:
    """Writes the canary wherever a name can stand in the images, and dates that would tell an examination."""
    for number, file in enumerate(sorted(folder.glob("*.dcm"))):
        image = pydicom.dcmread(file)
        study, series = f"{ROOT_OF_UIDS.decode()}.1", f"{ROOT_OF_UIDS.decode()}.2"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{ROOT_OF_UIDS.decode()}.3.{number + 1}"
        image.FrameOfReferenceUID = f"{ROOT_OF_UIDS.decode()}.4"
        for keyword in ("PatientName", "PatientID", "OtherPatientIDs", "PatientComments", "ReferringPhysicianName",
                        "InstitutionName", "StationName", "OperatorsName", "StudyDescription", "SeriesDescription",
                        "ProtocolName", "AccessionNumber", "StudyID", "DeviceSerialNumber", "ImageComments",
                        "RequestedProcedureDescription", "PatientAddress"):
            setattr(image, keyword, CANARY.decode())
        for keyword in ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
            setattr(image, keyword, "20190807")
        other = Dataset()
        other.CodeMeaning = CANARY.decode()
        image.ProcedureCodeSequence = Sequence([other])
        groups = [*image.get("SharedFunctionalGroupsSequence", []), *image.get("PerFrameFunctionalGroupsSequence", [])]
        inner = [item for group in groups for element in group if element.VR == "SQ" for item in element.value]
        for data in [image, *groups, *inner]:
            private = data.private_block(0x0029, CANARY.decode(), create=True)
            private.add_new(1, "LO", CANARY.decode())
            data.ImageComments = CANARY.decode()
        for group in image.get("PerFrameFunctionalGroupsSequence", []):
            frame = group.FrameContentSequence[0] if "FrameContentSequence" in group else Dataset()
            frame.FrameComments, frame.FrameLabel = CANARY.decode(), CANARY.decode()
            frame.FrameAcquisitionDateTime = frame.FrameReferenceDateTime = "20190807101112"
            group.FrameContentSequence = Sequence([frame])
        image.preamble = (CANARY * 20)[:128]
        image.file_meta.SourceApplicationEntityTitle = CANARY.decode()
        image.save_as(file)


def segment(study: pathlib.Path, out: pathlib.Path, *options: object) -> subprocess.CompletedProcess:
    words = ["segment", "--dicom", study, "--out", out, "--overwrite", *options]
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True)


@pytest.fixture(scope="module", params=[("axial",), ("coronal", "--enhanced")], ids=["classic", "enhanced"])
def series(request, tmp_path_factory) -> pathlib.Path:
    found = write(tmp_path_factory.mktemp("deidentify"), request.param).series
    marked(found)
    return found


@pytest.fixture(scope="module")
def made(series, tmp_path_factory) -> dict[str, bytes]:
    """All that is made of it, the images by their names in the archive."""
    out, key = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY.hex() + "\n")
    done = segment(series, out, "--de-identify", "--de-identify-key", key)
    assert done.returncode == 0, done.stderr
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    with zipfile.ZipFile(io.BytesIO(files.pop("dicom_images.zip"))) as images:
        files.update({name: images.read(name) for name in images.namelist()})
    return files


def pseudonym(uid: str) -> str:
    """The UID in place of another, worked out from the description in docs/dicom-conformance.md."""
    mac = hmac.new(KEY, b"uid\0" + uid.encode(), "sha256").digest()
    parts = (b"de-identified", mac)
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | 0x8 << 76
    return f"2.25.{number & ~(0x3 << 62) | 0x2 << 62}"


def objects(made: dict[str, bytes], images: bool) -> dict[str, pydicom.Dataset]:
    return {name: pydicom.dcmread(io.BytesIO(file)) for name, file in made.items()
            if name.endswith(".dcm") and ("/" in name) == images}


def test_nothing_that_is_made_names_the_patient(made):
    assert {"report.json", "lesions.nii.gz", "dicom_seg.dcm", "dicom_sr.dcm", "dicom_pdf.dcm"} <= made.keys()
    for name, file in made.items():
        assert CANARY not in file and ROOT_OF_UIDS not in file and b"20190807" not in file, name
    for name, found in {**objects(made, True), **objects(made, False)}.items():
        text = str(found)
        assert CANARY.decode() not in text and not re.search(r"\b20[012]\d(0|1)\d{3}(\d{6})?\b", text), name
        assert found.PatientIdentityRemoved == "YES" and found.DeidentificationMethod, name
        assert [code.CodeValue for code in found.DeidentificationMethodCodeSequence] == ["113100"], name
        assert found.PatientID == hmac.new(KEY, b"patient\0" + CANARY, "sha256").hexdigest()[:16].upper(), name
        assert not [e for e in found.iterall() if e.tag.is_private], name
    page = objects(made, False)["dicom_pdf.dcm"]
    pdf = subprocess.run([tool("pdftotext"), "-", "-"], input=page.EncapsulatedDocument, capture_output=True, check=True)
    assert CANARY not in pdf.stdout and page.PatientID.encode() in pdf.stdout


def test_images_and_results_still_fit_each_other(series, made):
    sent = {pseudonym(image.SOPInstanceUID): image
            for image in (pydicom.dcmread(file) for file in sorted(series.glob("*.dcm")))}
    images = objects(made, True)
    assert {image.SOPInstanceUID for image in images.values()} == sent.keys()
    for image in images.values():
        of = sent[image.SOPInstanceUID]
        assert image.StudyInstanceUID == pseudonym(of.StudyInstanceUID)
        assert image.SeriesInstanceUID == pseudonym(of.SeriesInstanceUID)
        assert image.FrameOfReferenceUID == pseudonym(of.FrameOfReferenceUID)
        assert (image.pixel_array == of.pixel_array).all()
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "EchoTime"):
            assert image.get(keyword) == of.get(keyword), keyword
        assert image.RecognizableVisualFeatures == "YES"
    seg = objects(made, False)["dicom_seg.dcm"]
    refers = {one.ReferencedSOPInstanceUID for one in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert refers == sent.keys()
    assert seg.StudyInstanceUID == pseudonym(f"{ROOT_OF_UIDS.decode()}.1")
    assert seg.FrameOfReferenceUID == pseudonym(f"{ROOT_OF_UIDS.decode()}.4")
    report = json.loads(made["report.json"])
    assert [row["series_instance_uid"] for row in report["study"]["series"]] == [pseudonym(f"{ROOT_OF_UIDS.decode()}.2")]


def complaints(file: pathlib.Path) -> set[str]:
    done = subprocess.run([tool("dciodvfy"), "-new", str(file)], capture_output=True, text=True)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def test_a_validator_finds_no_error_that_was_not_there(series, made, tmp_path):
    before = complaints(next(iter(sorted(series.glob("*.dcm")))))
    for name, file in made.items():
        if name.endswith(".dcm"):
            path = tmp_path / name.replace("/", "-")
            path.write_bytes(file)
            assert complaints(path) <= (before if "/" in name else set()), name


def test_the_lesions_are_those_of_the_named_study_and_of_the_nameless_images(series, made, tmp_path):
    assert segment(series, tmp_path / "named").returncode == 0
    again = tmp_path / "again"
    again.mkdir()
    for name, file in made.items():
        if "/" in name:
            (again / name.replace("/", "-")).write_bytes(file)
    assert segment(again, tmp_path / "nameless").returncode == 0
    for out in ("named", "nameless"):
        assert (tmp_path / out / "lesions.nii.gz").read_bytes() == made["lesions.nii.gz"], out


def test_a_key_gives_the_same_bytes_again_and_no_key_other_names(series, made, tmp_path, monkeypatch):
    (tmp_path / "key").write_text(KEY.hex())
    for key in (["--de-identify-key", tmp_path / "key"], []):
        assert segment(series, tmp_path / "out", "--de-identify", *key).returncode == 0
        same = (tmp_path / "out" / "dicom_seg.dcm").read_bytes() == made["dicom_seg.dcm"]
        assert same == bool(key)
    # A variable that is there for a server's sake asks nothing of a named study; the option does.
    monkeypatch.setenv("DAWSON_DE_IDENTIFY_KEY", str(tmp_path / "key"))
    assert segment(series, tmp_path / "out", "--de-identify").returncode == 0
    assert (tmp_path / "out" / "dicom_seg.dcm").read_bytes() == made["dicom_seg.dcm"]
    assert segment(series, tmp_path / "out").returncode == 0
    done = segment(series, tmp_path / "out", "--de-identify-key", tmp_path / "key")
    assert done.returncode != 0 and b"--de-identify" in done.stderr
    (tmp_path / "key").write_text("no key")
    done = segment(series, tmp_path / "out", "--de-identify", "--de-identify-key", tmp_path / "key")
    assert done.returncode != 0 and b"64 hexadecimal digits" in done.stderr


def test_the_same_over_http_and_under_the_other_names_by_qido(series, made, tmp_path):
    (tmp_path / "key").write_text(KEY.hex())
    service = Service(tmp_path / "state", "--de-identify-key", str(tmp_path / "key"), log="info")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in sorted(series.glob("*.dcm")):
            archive.write(file, file.name)
    job = service.submit({"study": tmp_path / "study.zip"}, {"de_identify": True})
    assert job["state"] == "succeeded", job
    for name in ("lesions.nii.gz", "dicom_seg.dcm", "dicom_sr.dcm", "dicom_pdf.dcm"):
        assert service.artifact(job, name) == made[name], name
    with zipfile.ZipFile(io.BytesIO(service.artifact(job, "dicom_images.zip"))) as images:
        assert all(images.read(name) == made[name] for name in images.namelist())
    status, rows = service.call("GET", "/dicom-web/instances")
    assert status == 200
    assert {row["0020000D"]["Value"][0] for row in json.loads(rows)} == {pseudonym(f"{ROOT_OF_UIDS.decode()}.1")}
    service.stop()
    told = rows + json.dumps(job).encode() + service.log.read_bytes()
    assert CANARY not in told and ROOT_OF_UIDS not in told


def test_images_with_names_in_their_pixels_are_refused(series, tmp_path):
    for file in sorted(series.glob("*.dcm")):
        image = pydicom.dcmread(file)
        image.BurnedInAnnotation = "YES"
        image.save_as(tmp_path / file.name)
    assert segment(tmp_path, tmp_path / "named").returncode == 0
    done = segment(tmp_path, tmp_path / "out", "--de-identify")
    assert done.returncode == 3 and b"BurnedInAnnotation" in done.stderr, done.stderr


def test_a_contrast_with_names_in_its_pixels_is_left_out_beside_a_flair_without(series, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    for file in sorted(series.glob("*.dcm")):
        (study / file.name).write_bytes(file.read_bytes())
        image = pydicom.dcmread(file)
        if "PerFrameFunctionalGroupsSequence" in image:
            pytest.skip("a classic series is made into a T2w here")
        del image.InversionTime
        image.ScanningSequence, image.BurnedInAnnotation = "SE", "YES"
        image.SeriesInstanceUID = f"{ROOT_OF_UIDS.decode()}.5"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SOPInstanceUID}.5"
        image.save_as(study / f"t2-{file.name}")
    for flags, decided in (([], "chosen"), (["--de-identify"], "refused")):
        assert segment(study, tmp_path / "out", *flags).returncode == 0
        rows = json.loads((tmp_path / "out" / "report.json").read_text())["study"]["series"]
        (row,) = [row for row in rows if row["class"] == "t2w"]
        assert row["decision"] == decided, rows
    assert row["reason"] == "annotated"
    with zipfile.ZipFile(tmp_path / "out" / "dicom_images.zip") as images:
        assert {name.split("/")[0] for name in images.namelist()} == {"flair"}
