"""Images stored, searched and fetched by a client of other makers (dicomweb-client), as a viewer or an archive would."""
import pathlib
import sys
import time

import numpy
import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, generate_uid

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from service import PROGRAM, Service  # noqa: E402

pytestmark = pytest.mark.skipif(not PROGRAM, reason="$DAWSON_BIN names no program: run make test-pacs")
TINY = ("--models", str(ROOT / "tests/fixtures/models"), "--model", "tiny-lesion", "--device", "cpu", "--threads", "1",
        "--min-free-bytes", "0", "--study-quiet-s", "1")
SLICES = 16


def flair(study: str, k: int, series: str, syntax: str = ExplicitVRLittleEndian) -> FileDataset:
    """An axial slice of a round head of 3 x 3 x 8 mm voxels, with a bright place off its middle."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SpecificCharacterSet, data.PatientName, data.PatientID = "ISO_IR 100", "Phäntom^Ada", "PHANTOM-12"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, f"{study}.0"
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    data.Modality, data.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
    data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID = "20261101", "101500", "A-12", "12"
    data.PatientBirthDate, data.PatientSex, data.ReferringPhysicianName = "19700101", "F", ""
    data.SeriesDescription, data.SeriesNumber, data.InstanceNumber = "FLAIR", 3, k + 1
    data.ScanningSequence, data.SequenceVariant, data.MRAcquisitionType = ["SE", "IR"], "SK", "2D"
    data.RepetitionTime, data.EchoTime, data.InversionTime = 9000, 120, 2500
    data.ImagePositionPatient = [-96, -96, 8 * k - 64]
    data.ImageOrientationPatient, data.PixelSpacing, data.SliceThickness = [1, 0, 0, 0, 1, 0], [3, 3], 8
    data.Rows = data.Columns = 64
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    rows, columns = numpy.mgrid[:64, :64]
    y, x, z = 3 * rows - 96, 3 * columns - 96, 8 * k - 64
    head = 100 * ((x / 70) ** 2 + (y / 85) ** 2 + (z / 62) ** 2 < 1) + (rows * 7 + columns * 3) % 5
    head[(x - 25) ** 2 + (y + 10) ** 2 + (z - 8) ** 2 < 12 ** 2] = 190
    data.PixelData = head.astype("<u2").tobytes()
    return data


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("dicomweb"), *TINY, log="debug")
    yield service
    log = service.log.read_text()
    service.stop()
    assert "PHANTOM" not in log and "ntom" not in log and "2.25." not in log, "nothing of a patient is logged"


@pytest.fixture(scope="module")
def client(service) -> DICOMwebClient:
    return DICOMwebClient(f"http://{service.address}/dicom-web")


@pytest.fixture(scope="module")
def study(client) -> list[FileDataset]:
    """A study that was stored."""
    study, series = generate_uid(prefix=None), generate_uid(prefix=None)
    slices = [flair(study, k, series) for k in range(SLICES)]
    answer = client.store_instances(slices)
    stored = {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence}
    assert stored == {data.SOPInstanceUID for data in slices}
    assert "FailedSOPSequence" not in answer
    return slices


def arrivals(service: Service) -> dict[str, dict]:
    answer = requests.get(f"http://{service.address}/v1/studies", timeout=30).json()
    return {study["study_instance_uid"]: study for study in answer["studies"]}


@pytest.fixture(scope="module")
def job(service, study) -> dict:
    """The job that it became."""
    for _ in range(600):
        arrival = arrivals(service)[study[0].StudyInstanceUID]
        if arrival["state"] != "arriving":
            break
        time.sleep(0.1)
    assert arrival["state"] == "sent" and arrival["images"] == SLICES, arrival
    job = service.job(arrival["job"]["id"], wait=120)
    assert job["state"] == "succeeded", job
    return job


def test_what_was_stored_is_found(client, study):
    first = study[0]
    for key in ({"StudyInstanceUID": first.StudyInstanceUID}, {"PatientID": first.PatientID}, {"00100020": "PHANTOM-12"}):
        found = [pydicom.Dataset.from_json(one) for one in client.search_for_studies(search_filters=key)]
        assert [one.StudyInstanceUID for one in found] == [first.StudyInstanceUID], key
    told = found[0]
    assert told.PatientName == "Phäntom^Ada" and told.AccessionNumber == "A-12" and told.StudyDate == "20261101"
    assert "MR" in told.ModalitiesInStudy and told.NumberOfStudyRelatedInstances >= SLICES
    series = client.search_for_series(first.StudyInstanceUID, search_filters={"Modality": "MR"}, fields=["0008103E"])
    told = pydicom.Dataset.from_json(series[0])
    assert len(series) == 1 and told.SeriesDescription == "FLAIR" and told.NumberOfSeriesRelatedInstances == SLICES
    page = client.search_for_instances(first.StudyInstanceUID, first.SeriesInstanceUID, limit=5, offset=3)
    assert [one["00200013"]["Value"][0] for one in page] == [4, 5, 6, 7, 8]
    assert client.search_for_studies(search_filters={"PatientID": "PHANTOM-1"}) == []


def test_a_series_comes_back_as_it_was(client, study):
    back = client.retrieve_series(study[0].StudyInstanceUID, study[0].SeriesInstanceUID)
    assert [data.InstanceNumber for data in back] == list(range(1, SLICES + 1))
    for ours, theirs in zip(study, back, strict=True):
        assert ours == theirs and ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
    one = client.retrieve_instance(*(study[4][name].value for name in (
        "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")))
    assert one == study[4]


def test_metadata_is_the_header(client, study):
    told = client.retrieve_series_metadata(study[0].StudyInstanceUID, study[0].SeriesInstanceUID)
    for ours, theirs in zip(study, told, strict=True):
        theirs = pydicom.Dataset.from_json(theirs)
        assert theirs.pop("SpecificCharacterSet").value == "ISO_IR 192"
        ours = pydicom.Dataset({tag: element for tag, element in ours.items()
                                if element.keyword not in ("PixelData", "SpecificCharacterSet")})
        assert theirs == ours


def test_results_lie_beside_the_images(client, service, study, job):
    uid = study[0].StudyInstanceUID
    found = client.search_for_instances(uid, search_filters={"Modality": "SEG,SR,DOC"})
    names = [a["name"] for a in requests.get(f"http://{service.address}{job['links']['artifacts']}", timeout=30)
             .json()["artifacts"] if a["media_type"] == "application/dicom"]
    assert len(found) == len(names) > 2
    whole = client.retrieve_study(uid)
    assert len(whole) == SLICES + len(names)
    artifacts = {}
    for name in names:
        path = pathlib.Path(service.log).parent / name
        path.write_bytes(service.artifact(job, name))
        data = pydicom.dcmread(path)
        artifacts[data.SOPInstanceUID] = data
    for data in whole:
        if data.SOPInstanceUID in artifacts:
            assert data == artifacts[data.SOPInstanceUID] and data.PatientID == "PHANTOM-12"
    segmentation = next(one for one in found if one["00080060"]["Value"] == ["SEG"])
    told = client.retrieve_instance_metadata(uid, segmentation["0020000E"]["Value"][0],
                                             segmentation["00080018"]["Value"][0])
    told = pydicom.Dataset.from_json(told)
    assert told.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC" and "PixelData" not in told


def test_what_is_not_stored_is_told_one_by_one(client):
    study, series = generate_uid(prefix=None), generate_uid(prefix=None)
    good, other = flair(study, 0, series), flair(study, 1, series)
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = CTImageStorage
    answer = client.store_instances([good, other])
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [good.SOPInstanceUID]
    failed = answer.FailedSOPSequence[0]
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (other.SOPInstanceUID, 0x0122)
    with pytest.raises(requests.HTTPError) as wrong:
        client.store_instances([good], study_instance_uid=generate_uid(prefix=None))
    assert wrong.value.response.status_code == 409


def test_another_transfer_syntax_is_given_as_it_came_or_not_at_all(client):
    study, series = generate_uid(prefix=None), generate_uid(prefix=None)
    client.store_instances([flair(study, 0, series, ImplicitVRLittleEndian)])
    media = [("application/dicom", "*")]
    back = client.retrieve_study(study, media_types=media)
    assert back[0].file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    with pytest.raises(requests.HTTPError) as wrong:
        client.retrieve_study(study, media_types=[("application/dicom", ExplicitVRLittleEndian)])
    assert wrong.value.response.status_code == 406
    told = pydicom.Dataset.from_json(client.retrieve_study_metadata(study)[0])
    assert told.Rows == 64 and told.PatientName == "Phäntom^Ada"
