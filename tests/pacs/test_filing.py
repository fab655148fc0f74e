"""A study over HTTP whose results are filed at archives of other makers: once, whatever falls meanwhile."""
import io
import json
import pathlib
import subprocess
import sys
import threading
import time
import zipfile

import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, Comprehensive3DSRStorage, EncapsulatedPDFStorage, SegmentationStorage

from conftest import PROGRAM as EXAMPLE
from conftest import ROOT, write
from test_archive import Archive, free_port

sys.path.insert(0, str(ROOT / "tests"))
from service import PROGRAM, Service  # noqa: E402

pytestmark = pytest.mark.skipif(not (PROGRAM and EXAMPLE), reason="$DAWSON_BIN and $DICOM_RESULTS name no programs: "
                                                                  "run make test-pacs")
OBJECTS = ["dicom_pdf.dcm", "dicom_seg.dcm", "dicom_seg_lesions.dcm", "dicom_sr.dcm"]
TINY = ("--models", str(ROOT / "tests/fixtures/models"), "--model", "tiny-lesion", "--device", "cpu", "--threads", "1",
        "--min-free-bytes", "0", "--lease-s", "1")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[dict[str, pathlib.Path], pydicom.Dataset]:
    """A head as a zip, and the head of one of its images."""
    folder = tmp_path_factory.mktemp("study")
    series = write(folder, ("axial",)).series
    files = sorted(series.glob("*.dcm"))
    with zipfile.ZipFile(folder / "study.zip", "w") as packed:
        for file in files:
            packed.write(file, file.name)
    return {"study": folder / "study.zip"}, pydicom.dcmread(files[0], stop_before_pixels=True)


def serve(folder: pathlib.Path, destinations: str, waits: list[float], *flags: str, log: str = "info") -> Service:
    file = folder / "pacs.toml"
    file.write_text(destinations)
    return Service(folder / "state", *TINY, "--pacs", str(file), "--filing-retry-s", ",".join(map(str, waits)), *flags,
                   log=log)


def deliveries(service: Service, job: dict) -> dict[str, dict]:
    return {one["destination"]: one for one in service.job(job["id"])["deliveries"]}


def wait_for(service: Service, job: dict, state: str, *destinations: str, seconds: float = 60) -> dict[str, dict]:
    end = time.monotonic() + seconds
    while True:
        found = deliveries(service, job)
        if all(found[name]["state"] == state for name in destinations):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.05)


def filed(service: Service, job: dict) -> dict[str, bytes]:
    """The objects of a job by their instance UID."""
    files = [service.artifact(job, name) for name in OBJECTS]
    return {pydicom.dcmread(io.BytesIO(file), stop_before_pixels=True).SOPInstanceUID: file for file in files}


def test_each_object_arrives_once_although_archives_are_down_and_the_service_is_killed(study, tmp_path):
    scans, _ = study
    ports = [free_port() for _ in range(4)]
    destinations = f"""
        [[destination]]
        name = "store"
        ae_title = "ORTHANC"
        address = "127.0.0.1:{ports[1]}"
        [[destination]]
        name = "web"
        stow = "http://127.0.0.1:{ports[2]}/dicom-web"
    """
    service = serve(tmp_path, destinations, [0.3] * 1000)
    job = service.submit(scans, {"send_to": ["store", "web"], "outputs": ["lesions"]})
    assert job["state"] == "succeeded", job
    wanted = filed(service, job)
    assert len(wanted) == 4
    end = time.monotonic() + 30
    while any(one["tries"] < 2 or not one["error"] for one in deliveries(service, job).values()):
        assert time.monotonic() < end
        time.sleep(0.05)
    for one in deliveries(service, job).values():
        assert one["state"] == "waiting" and "cannot connect" in one["error"], one
    service.kill()
    archives = [Archive(tmp_path / "a", ports[0], ports[1]), Archive(tmp_path / "b", ports[2], ports[3])]
    try:
        if not archives[1].plugins:
            pytest.skip("there is no DICOMweb plugin: run tools/setup.sh pacs")
        service = serve(tmp_path, destinations, [0.3] * 1000)
        wait_for(service, job, "delivered", "store", "web")
        for archive in archives:
            assert archive.uids() == sorted(wanted)
        # Killed in the middle of it, again and again: nothing is lost and nothing is there twice.
        for pause in (0.0, 0.01, 0.02, 0.05, 0.1):
            for name in ("store", "web"):
                status, answer = service.call("POST", f"{job['links']['self']}/deliveries/{name}")
                assert status == 202, answer
            time.sleep(pause)
            service.kill()
            service = serve(tmp_path, destinations, [0.3] * 1000)
        wait_for(service, job, "delivered", "store", "web")
        for archive in archives:
            assert archive.uids() == sorted(wanted)
            assert len(archive.get("/studies")) == len(archive.get("/patients")) == 1
        service.stop()
    finally:
        for archive in archives:
            archive.stop()


# An archive that says of every report that it is stored, and throws it away.
FORGETFUL = """
function ReceivedInstanceFilter(dicom, origin, info)
  return dicom['Modality'] ~= 'SR'
end
"""


@pytest.mark.parametrize("forgets", [False, True])
def test_an_archive_is_held_to_what_it_says_is_stored(study, tmp_path, forgets):
    """Orthanc is asked to commit, and reports on an association of its own: what it has lost is not delivered."""
    scans, _ = study
    ours, web, theirs = free_port(), free_port(), free_port()
    at = f"""
        ae_title = "ORTHANC"
        address = "127.0.0.1:{theirs}"
    """
    destinations = f"""
        [[calling]]
        ae_title = "ORTHANC"
        [[destination]]
        name = "plain" {at}
        [[destination]]
        name = "held" {at} commitment = true
    """
    (tmp_path / "forget.lua").write_text(FORGETFUL)
    archive = Archive(tmp_path / "archive", web, theirs, settings={
        "DicomAet": "ORTHANC", "DicomModalities": {"dawson": ["DAWSON", "127.0.0.1", ours]},
        "LuaScripts": [str(tmp_path / "forget.lua")] if forgets else []})
    service = serve(tmp_path, destinations, [0.1], "--dicom-listen", f"127.0.0.1:{ours}")
    try:
        job = service.submit(scans, {"send_to": ["plain", "held"]})
        found = wait_for(service, job, "dead" if forgets else "delivered", "held")["held"]
        # Its word alone is believed where it is not asked.
        wait_for(service, job, "delivered", "plain")
        asked = [one for one in archive.get("/jobs?expand") if one["Type"] == "StorageCommitmentScp"]
        assert len(asked) == found["tries"] == (2 if forgets else 1), (asked, found)
        assert len(archive.uids()) == (3 if forgets else 4)
        if forgets:
            assert "1 of 4" in found["error"] and "dicom_sr" in found["error"] and "0x0112" in found["error"], found
        service.stop()
    finally:
        archive.stop()


class Refusing:
    """An archive that speaks Implicit VR only and refuses everything until it is healed."""

    def __init__(self):
        self.status, self.got, self.calls = 0xA700, {}, 0
        self.lock = threading.Lock()
        entity = AE(ae_title="TAPE")
        for uid in (SegmentationStorage, Comprehensive3DSRStorage, ComprehensiveSRStorage, EncapsulatedPDFStorage):
            entity.add_supported_context(uid, ImplicitVRLittleEndian)
        entity.require_called_aet = True
        entity.require_calling_aet = ["HOSPITAL-AI"]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])
        self.port = self.server.socket.getsockname()[1]

    def store(self, event) -> int:
        with self.lock:
            self.calls += 1
            if self.status == 0:
                self.got[event.request.AffectedSOPInstanceUID] = event.dataset
            return self.status


def run(*words: str) -> str:
    done = subprocess.run([PROGRAM, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_refused_for_good_is_dead_is_seen_and_is_sent_by_hand(study, tmp_path):
    scans, head = study
    archive = Refusing()
    destinations = f"""
        [[destination]]
        name = "tape"
        ae_title = "TAPE"
        address = "127.0.0.1:{archive.port}"
        calling_ae_title = "HOSPITAL-AI"
    """
    service = serve(tmp_path, destinations, [0.1, 0.1])
    job = service.submit(scans, {"send_to": ["tape"]})
    found = wait_for(service, job, "dead", "tape")["tape"]
    assert found["tries"] == 3 and "4 of 4" in found["error"] and "0xA700" in found["error"], found
    assert archive.calls == 12

    ready = json.loads(service.call("GET", "/readyz")[1])
    (check,) = (c for c in ready["checks"] if c["name"] == "filing")
    assert ready["status"] == "ok" and check["ok"] and "1 are dead" in check["detail"], check
    assert service.metric("dawson_deliveries_dead") == 1 and service.metric("dawson_deliveries_waiting") == 0
    text = service.call("GET", "/metrics")[1].decode()
    for outcome, count in [("failed", 2), ("dead", 1), ("delivered", 0)]:
        assert f'dawson_deliveries_total{{destination="tape",outcome="{outcome}"}} {count}' in text, text
    state = ("--state", str(tmp_path / "state"))
    for words in (["jobs", "list"], ["jobs", "list", "--dead"]):
        assert "not filed at tape: C-STORE: 4 of 4" in run(*words, *state), words
    shown = json.loads(run("jobs", "show", job["id"], *state))
    assert shown["deliveries"][0]["state"] == "dead"

    archive.status = 0
    assert "1 deliveries" in run("jobs", "send", job["id"], *state)
    wait_for(service, job, "delivered", "tape")
    assert "not filed" not in run("jobs", "list", *state) and run("jobs", "list", "--dead", *state) == ""
    assert service.metric("dawson_deliveries_dead") == 0
    wanted = filed(service, job)
    assert set(archive.got) == set(wanted)
    for uid, file in wanted.items():
        ours = pydicom.dcmread(io.BytesIO(file))
        theirs = archive.got[uid]
        # In Implicit VR pixels are OW whatever they were before (PS3.5 annex A.1).
        assert ours.get("PixelData") == theirs.get("PixelData")
        for data in (ours, theirs):
            data.pop("PixelData", None)
        assert ours.to_json_dict() == theirs.to_json_dict(), uid
    # Nothing of the patient, and no identifier of the study, is in the log.
    log = service.log.read_text()
    assert "delivery given up" in log and "results delivered" in log
    names = [str(head.PatientName), str(head.PatientID), head.StudyInstanceUID, *wanted]
    assert [name for name in names if name and name in log] == []
    service.stop()
    archive.server.shutdown()
