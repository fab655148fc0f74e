"""Results filed into an archive of another maker: all arrive, once, and the originals stay beside them."""
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pydicom
import pytest
from pynetdicom import AE

from conftest import Written, tool, write


class Archive:
    """Orthanc on loopback, in a folder of its own, at these ports if they were promised to somebody."""

    def __init__(self, folder: pathlib.Path, web: int = 0, dicom: int = 0):
        folder.mkdir(parents=True, exist_ok=True)
        self.web, self.dicom = web or free_port(), dicom or free_port()
        self.plugins = [str(p) for p in pathlib.Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*")]
        settings = {
            "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
            "Plugins": self.plugins[:1], "HttpPort": self.web, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "DicomPort": self.dicom, "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True, "OverwriteInstances": False,
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen([tool("Orthanc"), str(folder / "orthanc.json")],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                self.get("/system")
                break
            except urllib.error.URLError:
                assert self.process.poll() is None, "Orthanc ended"
                time.sleep(0.2)

    def get(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web}{path}", timeout=30) as answer:
            return json.load(answer)

    def store(self, files: list[pathlib.Path]) -> list[int]:
        """C-STORE of each file in one association; the statuses."""
        sets = [pydicom.dcmread(file) for file in files]
        entity = AE(ae_title="DAWSON")
        for uid in {data.SOPClassUID for data in sets}:
            entity.add_requested_context(uid, pydicom.uid.ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", self.dicom, ae_title="ORTHANC")
        assert association.is_established
        statuses = [association.send_c_store(data).Status for data in sets]
        association.release()
        return statuses

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def uids(self) -> list[str]:
        every = self.get("/instances?expand")
        return sorted(instance["MainDicomTags"]["SOPInstanceUID"] for instance in every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def filed(tmp_path_factory):
    """A study with its results in an archive."""
    from conftest import PROGRAM

    if not PROGRAM:
        pytest.skip("$DICOM_RESULTS names no program: run make test-pacs")
    folder = tmp_path_factory.mktemp("archive")
    archive = Archive(folder)
    study = write(folder / "study", ("coronal",))
    yield archive, study
    archive.stop()


def sent(study: Written) -> list[pathlib.Path]:
    # Orthanc 1.10 knows no label maps over C-STORE.
    results = [file for file in study.every() if "labelmap" not in file.name]
    return [*sorted(study.series.glob("*.dcm")), *results]


def test_all_results_are_filed_once_in_the_patient_s_study(filed):
    archive, study = filed
    files = sent(study)
    for _ in range(2):
        assert set(archive.store(files)) == {0}
        wanted = sorted(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID for f in files)
        assert archive.uids() == wanted
    assert len(archive.get("/studies")) == 1 and len(archive.get("/patients")) == 1
    series = archive.get("/series?expand")
    modalities = sorted(one["MainDicomTags"]["Modality"] for one in series)
    assert modalities == ["DOC", "MR", "MR", "SEG", "SEG", "SR"]


def test_results_are_found_by_dicomweb(filed):
    archive, study = filed
    if not archive.plugins:
        pytest.skip("there is no DICOMweb plugin: run tools/setup.sh pacs")
    archive.store(sent(study))
    uid = study.dataset("dicom_sr").StudyInstanceUID
    found = archive.get(f"/dicom-web/studies/{uid}/series?Modality=SEG&includefield=SeriesDescription")
    names = sorted(one["0008103E"]["Value"][0] for one in found)
    assert names == ["Dawson MS lesions", "Dawson MS lesions, one segment each"]
