"""DICOM over TLS with other makers' programs: dcmtk as node, Orthanc as archive, certificates of a hospital's authority."""
import http.client
import pathlib
import ssl
import subprocess
import time
import zipfile

import pytest

from conftest import PROGRAM as EXAMPLE
from conftest import tool, write
from test_archive import Archive, free_port
from test_filing import TINY, wait_for

from service import PROGRAM, Service

pytestmark = pytest.mark.skipif(not (PROGRAM and EXAMPLE), reason="$DAWSON_BIN and $DICOM_RESULTS name no programs: "
                                                                  "run make test-pacs")


class PrivateService(Service):
    """A service that speaks HTTPS, whose certificate the test does not look at."""

    def connection(self, timeout: float) -> http.client.HTTPSConnection:
        blind = ssl._create_unverified_context()
        return http.client.HTTPSConnection(self.address, timeout=timeout, context=blind)


def openssl(*words: object) -> None:
    subprocess.run([tool("openssl"), *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> pathlib.Path:
    """An authority, and certificates of it for localhost: `dawson` and `node`; `other` is its own authority."""
    folder = tmp_path_factory.mktemp("hospital")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=Hospital",
            "-keyout", folder / "ca.key", "-out", folder / "ca.pem")
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    for name in ("dawson", "node"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key",
                "-out", folder / f"{name}.csr")
        openssl("x509", "-req", "-days", 2, "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem",
                "-CAkey", folder / "ca.key", "-CAcreateserial", "-extfile", names, "-out", folder / f"{name}.pem")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=other",
            "-keyout", folder / "other.key", "-out", folder / "other.pem")
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> list[pathlib.Path]:
    return sorted(write(tmp_path_factory.mktemp("head"), ("axial",)).series.glob("*.dcm"))


def serve(state: pathlib.Path, hospital: pathlib.Path, port: int, *flags: str, pacs: str = "") -> PrivateService:
    state.mkdir(parents=True, exist_ok=True)
    (state / "pacs.toml").write_text(pacs)
    return PrivateService(state / "state", *TINY, "--pacs", str(state / "pacs.toml"), "--dicom-tls",
                          "--dicom-listen", f"127.0.0.1:{port}", "--tls-cert", str(hospital / "dawson.pem"),
                          "--tls-key", str(hospital / "dawson.key"), "--study-quiet-s", "1", *flags, log="info")


def speaks(program: str, port: int, *words: object) -> bool:
    """Whether a program of dcmtk gets what it wants."""
    # Those of pynetdicom, which have the same names, come before them on the path.
    path = pathlib.Path("/usr/bin") / program
    if not path.exists():
        pytest.skip(f"there is no {program} of dcmtk: run tools/setup.sh pacs")
    options = [word for word in words if not isinstance(word, list)]
    files = [file for word in words if isinstance(word, list) for file in word]
    done = subprocess.run([path, "-to", "20", "-aec", "DAWSON", *map(str, options), "localhost", str(port), *files],
                          capture_output=True, timeout=120)
    return done.returncode == 0


def test_dcmtk_sends_a_study_over_tls_and_gets_nowhere_without(hospital, head, tmp_path):
    port = free_port()
    service = serve(tmp_path, hospital, port)
    believes = ["+cf", hospital / "ca.pem"]
    assert speaks("echoscu", port, "+tla", *believes)
    assert not speaks("echoscu", port)
    assert not speaks("echoscu", port, "+tla", "+cf", hospital / "other.pem"), "it does not believe this certificate"
    assert speaks("storescu", port, "+tla", *believes, head)
    end = time.monotonic() + 60
    while b'"succeeded"' not in (jobs := service.call("GET", "/v1/segmentations")[1]):
        assert time.monotonic() < end, jobs
        time.sleep(0.2)
    assert service.metric("dawson_tls_handshakes_failed_total") > 0
    service.stop()


def test_nodes_show_a_certificate_of_the_hospital(hospital, tmp_path):
    port = free_port()
    service = serve(tmp_path, hospital, port, "--dicom-tls-ca", str(hospital / "ca.pem"))
    believes = ["+cf", hospital / "ca.pem"]
    assert speaks("echoscu", port, "+tls", hospital / "node.key", hospital / "node.pem", *believes)
    assert not speaks("echoscu", port, "+tla", *believes)
    assert not speaks("echoscu", port, "+tls", hospital / "other.key", hospital / "other.pem", *believes)
    service.stop()


def test_an_archive_gets_results_and_commits_to_them_over_tls_both_ways(hospital, head, tmp_path):
    ours, web, theirs = free_port(), free_port(), free_port()
    pacs = f"""
        [[calling]]
        ae_title = "ORTHANC"
        [[destination]]
        name = "archive"
        ae_title = "ORTHANC"
        address = "localhost:{theirs}"
        commitment = true
        tls = true
        tls_ca = "{hospital / "ca.pem"}"
        tls_cert = "{hospital / "dawson.pem"}"
        tls_key = "{hospital / "dawson.key"}"
        [[destination]]
        name = "plainly"
        ae_title = "ORTHANC"
        address = "localhost:{theirs}"
    """
    archive = Archive(tmp_path / "archive", web, theirs, settings={
        "DicomAet": "ORTHANC", "DicomTlsEnabled": True, "DicomTlsCertificate": str(hospital / "node.pem"),
        "DicomTlsPrivateKey": str(hospital / "node.key"), "DicomTlsTrustedCertificates": str(hospital / "ca.pem"),
        "DicomModalities": {"dawson": {"AET": "DAWSON", "Host": "localhost", "Port": ours, "UseDicomTls": True}}})
    service = serve(tmp_path, hospital, ours, "--dicom-tls-ca", str(hospital / "ca.pem"), "--filing-retry-s", "0.1",
                    pacs=pacs)
    try:
        packed = tmp_path / "study.zip"
        with zipfile.ZipFile(packed, "w") as into:
            for file in head:
                into.write(file, file.name)
        job = service.submit({"study": packed}, {"send_to": ["archive", "plainly"]})
        assert job["state"] == "succeeded", job
        wait_for(service, job, "delivered", "archive")
        wait_for(service, job, "dead", "plainly")
        assert len(archive.uids()) == 4
        service.stop()
    finally:
        archive.stop()
