"""Studies that DICOM nodes send: an archive of another maker as client and destination, and senders that misbehave."""
import io
import json
import pathlib
import re
import subprocess
import sys
import time
import zipfile

import nibabel
import numpy
import pydicom
import pytest
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import EnhancedMRImageStorage, MRImageStorage, Verification

from conftest import LPS_TO_RAS, PROGRAM as EXAMPLE
from conftest import ROOT, SHARED, tool, write
from test_archive import Archive, free_port
from test_filing import TINY

from service import PROGRAM, Service

pytestmark = pytest.mark.skipif(not (PROGRAM and EXAMPLE), reason="$DAWSON_BIN and $DICOM_RESULTS name no programs: "
                                                                  "run make test-pacs")
SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
            "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"]


def serve(state: pathlib.Path, port: int, *flags: str, log: str = "info", pacs: str = "", quiet: float = 1,
          under: tuple[str, ...] = ()) -> Service:
    """A service that listens to nodes."""
    state.mkdir(parents=True, exist_ok=True)
    (state / "pacs.toml").write_text(pacs)
    return Service(state / "state", *TINY, "--pacs", str(state / "pacs.toml"), "--dicom-listen", f"127.0.0.1:{port}",
                   "--study-quiet-s", str(quiet), *flags, log=log, under=under)


def send(port: int, files: list[pathlib.Path], title: str = "SENDER") -> list[int]:
    """C-STORE of each file as it stands, in one association; the statuses, until the receiver is gone."""
    entity = AE(ae_title=title)
    kinds = {(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
             for data in (pydicom.dcmread(file, stop_before_pixels=True) for file in files)}
    for sop_class, syntax in kinds:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate("127.0.0.1", port, ae_title="DAWSON")
    assert association.is_established, association.acceptor.primitive
    statuses = []
    for file in files:
        status = association.send_c_store(file)
        if "Status" not in status:
            break
        statuses.append(status.Status)
    if association.is_established:
        association.release()
    return statuses


def jobs(service: Service) -> list[dict]:
    return json.loads(service.call("GET", "/v1/segmentations")[1])["jobs"]


def wait_for_job(service: Service, seconds: float = 120) -> dict:
    """The one job that there is, once it has ended."""
    end = time.monotonic() + seconds
    while not (found := jobs(service)):
        assert time.monotonic() < end, service.log.read_text()[-2000:]
        time.sleep(0.1)
    assert len(found) == 1, found
    job = service.job(found[0]["id"], wait=120)
    assert job["state"] == "succeeded", job
    return job


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> list[pathlib.Path]:
    """The images of a study."""
    return sorted(write(tmp_path_factory.mktemp("head"), ("oblique",)).series.glob("*.dcm"))


def test_an_archive_forwards_a_study_and_gets_its_results_beside_it(head, tmp_path):
    """The archive's own hook sends what is stable; results come back once and start nothing."""
    ours, web, theirs = free_port(), free_port(), free_port()
    pacs = f"""
        [[calling]]
        ae_title = "ORTHANC"
        addresses = ["127.0.0.1"]
        [[destination]]
        name = "archive"
        ae_title = "ORTHANC"
        address = "127.0.0.1:{theirs}"
        [[route]]
        calling_ae_title = "ORTHANC"
        send_to = ["archive"]
    """
    service = serve(tmp_path, ours, pacs=pacs)
    archive = Archive(tmp_path / "archive", web, theirs, settings={
        "DicomAet": "ORTHANC", "StableAge": 1, "LuaScripts": [str(ROOT / "deploy/orthanc/forward.lua")],
        "DicomModalities": {"dawson": ["DAWSON", "127.0.0.1", ours]}})
    try:
        assert set(archive.store(head)) == {0}
        job = wait_for_job(service)
        end = time.monotonic() + 60
        while service.job(job["id"])["deliveries"][0]["state"] != "delivered":
            assert time.monotonic() < end, service.job(job["id"])["deliveries"]
            time.sleep(0.1)
        assert len(archive.get("/studies")) == 1
        modalities = sorted(one["MainDicomTags"]["Modality"] for one in archive.get("/series?expand"))
        assert modalities == ["DOC", "MR", "SEG", "SEG", "SR"]
        study = pydicom.dcmread(head[0], stop_before_pixels=True).StudyInstanceUID
        if archive.plugins:
            found = archive.get(f"/dicom-web/studies/{study}/series?Modality=SEG")
            assert len(found) == 2
        # The results made the study stable again; they are not run.
        time.sleep(4)
        assert len(jobs(service)) == 1
        same_voxels(service, job, archive, tmp_path)
        same_measurements(service, job, archive)
        service.stop()
    finally:
        archive.stop()


def instance(archive: Archive, modality: str, description: str = "") -> bytes:
    for series in archive.get("/series?expand"):
        tags = series["MainDicomTags"]
        if tags["Modality"] == modality and description in ("", tags.get("SeriesDescription")):
            return archive.file(series["Instances"][0])
    raise AssertionError(f"no {modality} {description}")


def same_voxels(service: Service, job: dict, archive: Archive, folder: pathlib.Path) -> None:
    """The segmentation as another maker's tool reads it from the archive is the mask, voxel for voxel."""
    reader = tool("segimage2itkimage")
    (folder / "seg.dcm").write_bytes(instance(archive, "SEG", "Dawson MS lesions"))
    (folder / "seg").mkdir()
    subprocess.run([reader, "--inputDICOM", folder / "seg.dcm", "--outputDirectory", folder / "seg", "-t", "nii",
                    "--mergeSegments"], check=True, stdout=subprocess.DEVNULL)
    (folder / "lesions.nii.gz").write_bytes(service.artifact(job, "lesions.nii.gz"))
    ours = nibabel.load(folder / "lesions.nii.gz")
    theirs = nibabel.load(next((folder / "seg").glob("1*.nii.gz")))
    # Both may run another way along an axis: voxels are compared where they lie.
    assert points(ours) == points(theirs) and len(points(ours)) > 0


def points(image: nibabel.Nifti1Image) -> set[tuple[float, float, float]]:
    voxels = numpy.argwhere(numpy.asarray(image.dataobj) > 0)
    world = nibabel.affines.apply_affine(image.affine, voxels)
    return set(map(tuple, numpy.round(world, 1)))


def same_measurements(service: Service, job: dict, archive: Archive) -> None:
    report = json.loads(service.artifact(job, "report.json"))
    measured = pydicom.dcmread(io.BytesIO(instance(archive, "SR")))
    values, uids = [], []

    def walk(item):
        if item.get("ValueType") == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "118565006":
            values.append(float(item.MeasuredValueSequence[0].NumericValue))
        if item.get("ValueType") == "UIDREF" and item.ConceptNameCodeSequence[0].CodeValue == "112040":
            uids.append(item.UID)
        for child in item.get("ContentSequence", []):
            walk(child)

    walk(measured)
    lesions = report["lesions"]
    assert values[0] == pytest.approx(lesions["volume_ml"], abs=1e-3)
    for lesion in lesions["items"]:
        assert any(value == pytest.approx(lesion["volume_ml"], abs=1e-3) for value in values), lesion
    assert len(set(uids)) == len(uids) and len(uids) > lesions["count"]
    each = pydicom.dcmread(io.BytesIO(instance(archive, "SEG", "Dawson MS lesions, one segment each")))
    assert {segment.TrackingUID for segment in each.SegmentSequence} <= set(uids)


def test_what_was_acknowledged_before_a_kill_is_there_after_it(head, tmp_path):
    """Killed at many points while images come: no image that was answered is lost, and there is one job in the end."""
    port = free_port()
    service = serve(tmp_path, port, quiet=600)
    folder = tmp_path / "state" / "arriving"
    for count in (1, 3, 8, 15, len(head)):
        acknowledged = send(port, head[:count])
        assert acknowledged == [0] * count
        service.kill()
        assert len(list(folder.glob("*/*.dcm"))) == count
        service = serve(tmp_path, port, quiet=600)
    service.kill()
    service = serve(tmp_path, port)
    assert send(port, head) == [0] * len(head)
    wait_for_job(service)
    # Killed once it was a job, and sent again: the job is known.
    service.kill()
    service = serve(tmp_path, port)
    assert send(port, head) == [0] * len(head)
    time.sleep(3)
    assert len(jobs(service)) == 1
    service.stop()


def test_a_patient_is_nowhere_but_in_dicom_objects(head, tmp_path):
    port = free_port()
    service = serve(tmp_path / "s", port, log="debug")
    names = set()
    canaries = []
    for file in head:
        data = pydicom.dcmread(file)
        data.PatientName, data.PatientID = "Kanarienvogel^Quastenflosser", "MRN-51c0ffee"
        data.StudyDescription, data.InstitutionName = "Kanarienvogel study", "Quastenflosser clinic"
        canaries.append(tmp_path / file.name)
        data.save_as(canaries[-1])
    assert set(send(port, canaries)) == {0}
    # What is broken is quoted by nobody: cut off, and in a character set that is none.
    broken, strange = tmp_path / "broken.dcm", tmp_path / "strange.dcm"
    broken.write_bytes(canaries[0].read_bytes()[:-100])
    content = canaries[1].read_bytes()
    assert content.count(b"ISO_IR 192") == 1
    strange.write_bytes(content.replace(b"ISO_IR 192", b"51c0ffee  "))
    send(port, [broken, strange])
    job = wait_for_job(service)
    texts = {"metrics": service.call("GET", "/metrics")[1], "job": json.dumps(job).encode(),
             "log": service.log.read_bytes()}
    service.kill()
    for path in (tmp_path / "s").rglob("*"):
        names.add(path.name)
        if path.is_file() and path.suffix != ".dcm" and path.name != "study":
            texts[str(path)] = path.read_bytes()
    for canary in (b"Kanarienvogel", b"Quastenflosser", b"51c0ffee"):
        assert [where for where, text in texts.items() if canary in text] == []
        assert [name for name in names if canary.decode() in name] == []


def hostile() -> list[tuple[str, bytes]]:
    path = SHARED / "data/dicom/hostile.zip"
    if not path.exists():
        pytest.skip("needs ../shared/data/dicom/hostile.zip")
    with zipfile.ZipFile(path) as packed:
        return [(name, packed.read(name)) for name in packed.namelist() if name.endswith(".dcm")]


# The stack that a shell of a small machine gives: what recurses by what a file says ends in it.
SMALL_STACK = ("sh", "-c", 'ulimit -s 2048; exec "$0" "$@"')
# Of these a reader may see only while it decodes that they are no image; decoded they are when they are chosen.
SEEN_LATE = ("good", "jls", "j2k", "jpeg", "rle")


def by_store(service: Service, port: int, file: pathlib.Path) -> bool:
    return send_raw(port, file.read_bytes()) == 0


def by_stow(service: Service, port: int, file: pathlib.Path) -> bool:
    status, answer = service.call("POST", "/dicom-web/studies", file.read_bytes(), Content_Type="application/dicom",
                                  Accept="application/dicom+json")
    assert status in (200, 400, 409, 413, 415), (file.name, status, answer)
    return status == 200


def by_post(service: Service, port: int, file: pathlib.Path) -> bool:
    """As the one file of a study: whether that becomes a job. It is waited for, and never has results."""
    status, answer = service.post({"dicom": file}, Prefer="wait=60")
    assert status in (200, 202, 400, 413, 415, 422), (file.name, status, answer)
    if status in (200, 202):
        assert answer["state"] == "failed", (file.name, answer)
    return status in (200, 202)


@pytest.mark.parametrize("bring", [by_store, by_stow, by_post])
def test_hostile_objects_are_refused_and_the_service_lives(bring, head, tmp_path):
    """Each by itself, beside an honest study that is computed meanwhile; memory and stack stay bounded."""
    files = []
    for name, content in hostile():
        files.append(tmp_path / "hostile" / pathlib.Path(name).name)
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_bytes(content)
    assert len(files) > 50
    honest = tmp_path / "honest.zip"
    with zipfile.ZipFile(honest, "w") as packed:
        for file in head:
            packed.write(file, file.name)
    port = free_port()
    service = serve(tmp_path / "s", port, log="warn", quiet=600, under=SMALL_STACK)
    # What a study takes is not what a hostile file takes.
    assert service.submit({"study": honest})["state"] == "succeeded"
    before = service.resident()
    service.forget_peak()
    beside = service.submit({"study": honest}, wait=0)
    slowest, taken = ("", 0.0), []
    for file in files:
        begun = time.monotonic()
        if bring(service, port, file):
            taken.append(file.name)
        slowest = max(slowest, (file.name, time.monotonic() - begun), key=lambda pair: pair[1])
    assert [name for name in taken if not any(word in name for word in SEEN_LATE)] == []
    if bring is by_post:
        status, answer = service.post({"study": SHARED / "data/dicom/hostile.zip"})
        assert status in (413, 422), answer
    assert slowest[1] < 2, slowest
    assert service.peak() - before < 512 << 20
    assert service.job(beside["id"], wait=120)["state"] == "succeeded"
    assert service.submit({"study": honest})["state"] == "succeeded"
    assert set(send(port, head)) == {0}
    service.stop()


def send_raw(port: int, content: bytes) -> int | None:
    """The status of a data set that need not be one; none if the association ended instead."""
    sop_class, uid, syntax = MRImageStorage, "1.2.3.4", "1.2.840.10008.1.2.1"
    try:
        meta = pydicom.filereader.read_file_meta_info(io.BytesIO(content))
        syntax, uid = str(meta.TransferSyntaxUID), str(meta.MediaStorageSOPInstanceUID)
        start = 144 + meta.FileMetaInformationGroupLength
    except Exception:  # noqa: BLE001  (what is hostile to the service is hostile to this too)
        start = 132
    if syntax not in SYNTAXES or not content[start:]:
        return None
    entity = AE(ae_title="EVIL")
    entity.dimse_timeout = 5
    entity.requested_contexts = [build_context(sop_class, syntax), build_context(EnhancedMRImageStorage, syntax)]
    association = entity.associate("127.0.0.1", port, ae_title="DAWSON")
    if not association.is_established:
        return None
    request = C_STORE()
    request.MessageID, request.AffectedSOPClassUID, request.Priority = 1, sop_class, 2
    request.AffectedSOPInstanceUID = uid if re.fullmatch(r"[0-9.]{1,64}", uid) else "1.2.3.4"
    request.DataSet = io.BytesIO(content[start:])
    context = association._get_valid_context(sop_class, syntax, "scu", allow_conversion=False).context_id
    # Its own thread would take the answer otherwise.
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.005)
    association.dimse.send_msg(request, context)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    status = getattr(answer, "Status", None)
    if association.is_established:
        association.release()
    return status


def test_hostile_messages_end_their_association_and_nothing_else(tmp_path):
    script = SHARED / "dicom-tools/hostile_pdu.py"
    if not script.exists():
        pytest.skip("needs ../shared/dicom-tools/hostile_pdu.py")
    port = free_port()
    service = serve(tmp_path, port, log="warn")
    before = service.resident()
    service.forget_peak()
    cases = ["assoc4g", "assoc4gbody", "http", "pdata4g", "endless", "traversal", "zeropdv", "shortpdv", "silent"]
    done = subprocess.run([sys.executable, script, str(port), str(service.process.pid), *cases], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answers = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(answers) == set(cases)
    # An association beside 200 silent connections is made at once: 02 is A-ASSOCIATE-AC.
    assert re.search(r"silent\s+02", answers["silent"]), answers["silent"]
    assert service.peak() - before < 512 << 20
    entity = AE()
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port, ae_title="DAWSON")
    assert association.send_c_echo().Status == 0
    association.release()
    service.stop()


def test_every_transfer_syntax_of_a_study_is_received(tmp_path):
    path = SHARED / "data/dicom/study.zip"
    if not path.exists():
        pytest.skip("needs ../shared/data/dicom/study.zip")
    with zipfile.ZipFile(path) as packed:
        packed.extractall(tmp_path / "study")
    files = sorted(file for file in (tmp_path / "study").rglob("*") if file.is_file())
    port = free_port()
    service = serve(tmp_path / "s", port)
    statuses = send(port, files)
    assert statuses == [0] * len(files)
    job = wait_for_job(service)
    posted = service.submit({"study": path})
    assert job["report"]["lesions"] == posted["report"]["lesions"]
    # The archive is packed in another order, in which series are listed and the stacks of a series are counted.
    series = [sorted(json.dumps({**row, "stack": None}) for row in one["report"]["study"]["series"])
              for one in (job, posted)]
    assert series[0] == series[1]
    service.stop()


# Oblique every one; as scanners send them, and packed as archives do.
REAL = [("long01/study1", "1.2.840.10008.1.2.1"), ("long01/study2", "1.2.840.10008.1.2.4.80"),
        ("long20/study2", "1.2.840.10008.1.2.4.90")]


@pytest.mark.parametrize(("patient", "syntax"), REAL)
def test_a_real_patient_s_images_give_the_lesions_of_their_nifti(patient, syntax, tmp_path):
    script, scan = SHARED / "dicom-tools/gen_dicom.py", SHARED / f"data/raw/{patient}_flair.nii.gz"
    if not script.exists() or not scan.exists():
        pytest.skip("needs ../shared/dicom-tools and ../shared/data/raw")
    done = subprocess.run([sys.executable, script, "nifti", tmp_path / "dicom", "--nifti", scan, "--ts", syntax],
                          capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing here packs {syntax}: {done.stderr.splitlines()[-1]}")
    files = sorted((tmp_path / "dicom").rglob("*.dcm"))
    assert {pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID for file in files} == {syntax}
    port = free_port()
    service = serve(tmp_path / "s", port, quiet=2)
    assert set(send(port, files)) == {0}
    sent = wait_for_job(service)
    posted = service.submit({"flair": scan})
    masks = []
    for name, job in (("sent", sent), ("posted", posted)):
        (tmp_path / f"{name}.nii.gz").write_bytes(service.artifact(job, "lesions.nii.gz"))
        masks.append(nibabel.as_closest_canonical(nibabel.load(tmp_path / f"{name}.nii.gz")))
    ours, theirs = (numpy.asarray(mask.dataobj) for mask in masks)
    assert numpy.array_equal(ours, theirs) and ours.any()
    assert numpy.allclose(masks[0].affine, masks[1].affine, atol=1e-3)
    lesions = [job["report"]["lesions"] for job in (sent, posted)]
    assert lesions[0]["count"] == lesions[1]["count"] > 0
    assert lesions[0]["volume_ml"] == pytest.approx(lesions[1]["volume_ml"], rel=1e-4)
    service.stop()
