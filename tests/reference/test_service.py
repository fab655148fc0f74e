"""The running service against the command line, on phantoms and on real scans.

Starts the program as a user would, posts with the standard library's HTTP client, and compares bytes.
nibabel judges what comes out. Real scans are looked for in $DAWSON_SHARED (default: ../shared beside the
checkout); without them those tests are skipped and say so.
"""
import contextlib
import fcntl
import gzip
import http.client
import itertools
import json
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import nibabel
import numpy
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from service import PROGRAM, ROOT, Service  # noqa: E402

SHARED = pathlib.Path(os.environ.get("DAWSON_SHARED", ROOT.parent / "shared")) / "data"
pytestmark = pytest.mark.skipif(not PROGRAM, reason="DAWSON_BIN names no program")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("state"))
    yield running
    running.stop()


def real(*names: str) -> dict[str, pathlib.Path]:
    """The scans of a labelled case, by contrast."""
    paths = {pathlib.Path(n).name: SHARED / f"{n}.nii.gz" for n in names}
    if not all(p.exists() for p in paths.values()):
        pytest.skip(f"real scans are not at {SHARED}")
    return paths


def by_command_line(scans: dict[str, pathlib.Path], out: pathlib.Path) -> pathlib.Path:
    flags = [word for contrast, path in scans.items() for word in (f"--{contrast}", str(path))]
    subprocess.run([PROGRAM, "segment", *flags, "--out", str(out)], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return out


def assert_on_the_grid_of(mask: bytes, flair: pathlib.Path) -> None:
    """Shape and every field that places voxels are those of the FLAIR, bit for bit."""
    found, want = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask)), nibabel.load(flair)
    assert found.shape == want.shape[:3]
    assert numpy.array_equal(found.affine, want.affine)
    for field in ("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
                  "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        assert numpy.array_equal(found.header[field], want.header[field]), field
    assert numpy.array_equal(found.header["pixdim"][:4], want.header["pixdim"][:4])
    assert set(numpy.unique(numpy.asanyarray(found.dataobj))) <= {0, 1}


def compare(service: Service, scans: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> dict:
    job = service.submit(scans)
    assert job["state"] == "succeeded", job["error"]
    out = by_command_line(scans, tmp_path / "cli")
    for name in ("lesions.nii.gz", "instances.nii.gz", "probability.nii.gz", "preview.png", "brain.nii.gz",
                 "regions.nii.gz"):
        assert service.artifact(job, name) == (out / name).read_bytes(), name
    assert_on_the_grid_of(service.artifact(job, "lesions.nii.gz"), scans["flair"])
    return job["report"]


SUBSETS = [("flair", *more) for n in range(4) for more in itertools.combinations(("t1w", "t2w", "t1gd"), n)]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_of_a_real_study_gives_the_same_bytes_by_both_ways(service, tmp_path, subset):
    scans = real(*(f"labelled/lesjak26/{c}" for c in subset))
    report = compare(service, scans, tmp_path)
    used = [c["contrast"] for c in report["study"]["contrasts"] if c["used"]]
    assert used == [c for c in ("flair", "t1w", "t2w") if c in subset]


@pytest.mark.parametrize("visit", ["visit1", "visit2", "visit3"])
def test_the_visits_of_another_patient(service, tmp_path, visit):
    contrasts = ("flair", "t1w") if visit == "visit1" else ("flair", "t1w", "t2w")
    compare(service, real(*(f"labelled/mslesseg14-{visit}/{c}" for c in contrasts)), tmp_path)


@pytest.mark.parametrize("scan", ["long01/study1_flair", "long01/study2_flair", "long20/study2_flair"])
def test_raw_thick_slices_with_the_skull_on_keep_their_grid(service, tmp_path, scan):
    (path,) = real(f"raw/{scan}").values()
    report = compare(service, {"flair": path}, tmp_path)
    # The brain is found in the head; the masks that came with these scans have 1,308 ml.
    assert report["study"]["foreground"] == "extracted"
    assert abs(report["study"]["foreground_ml"] - 1308) < 80


def test_a_killed_service_ends_after_its_restart_what_it_acknowledged(tmp_path):
    phantom = tmp_path / "phantom"
    subprocess.run([PROGRAM, "phantom", "--seed", "5", "--out", str(phantom), "--spacing", "2,2,2",
                    "--contrasts", "flair"], check=True, stdout=subprocess.DEVNULL)
    scans = {"flair": phantom / "flair.nii.gz"}
    first = Service(tmp_path / "state")
    jobs = [first.submit(scans, {"label": f"study {n}"}, wait=0) for n in range(3)]
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    second = Service(tmp_path / "state")
    try:
        masks = set()
        for job in jobs:
            connection = http.client.HTTPConnection(second.address, timeout=600)
            connection.request("GET", job["links"]["self"], headers={"Prefer": "wait=300"})
            ended = json.loads(connection.getresponse().read())
            assert ended["state"] == "succeeded", ended
            masks.add(second.artifact(ended, "lesions.nii.gz"))
        assert len(masks) == 1
        folder = tmp_path / "state" / "jobs"
        assert not list(folder.glob("*/inputs")), "scans of ended jobs are gone"
    finally:
        second.stop()


def test_a_second_service_on_the_same_folder_is_refused(tmp_path):
    first = Service(tmp_path / "state")
    try:
        words = [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--state", str(tmp_path / "state")]
        second = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert second.returncode != 0 and "in use" in second.stderr
    finally:
        first.stop()


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(tmp_path):
    folder = tmp_path / "scans"
    subprocess.run([PROGRAM, "phantom", "--seed", "3", "--spacing", "3,3,3", "--contrasts", "flair", "--out", folder],
                   check=True, capture_output=True)
    words = [PROGRAM, "segment", "--models", ROOT / "tests/fixtures/models", "--model", "tiny-lesion", "--voting", "full",
             "--overlap", "0.9", "--flair", folder / "flair.nii.gz"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    shown = subprocess.Popen([*words, "--out", tmp_path / "shown"], stdout=subprocess.DEVNULL, stderr=theirs,
                             env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # As the end of a terminal is told.
        while piece := os.read(ours, 65536):
            drawn += piece
    os.close(ours)
    assert shown.wait() == 0
    bars = re.findall(r"study (\w+) +([█░]+) (\d+)/(\d+)", drawn.decode())
    waited = [bar for _, bar, _, total in bars if total == "0"]
    assert waited and not any("█" in bar for bar in waited), "a bar was full before anything was done"
    places = [(int(done), int(total)) for stage, _, done, total in bars if stage == "infer" and total != "0"]
    assert len(places) > 3 and places == sorted(places) and len({total for _, total in places}) == 1
    assert places[-1][0] > places[-1][1] / 2
    plain = subprocess.run([*words, "--out", tmp_path / "plain"], check=True, capture_output=True)
    assert b"infer" not in plain.stderr + plain.stdout and b"\x1b" not in plain.stderr + plain.stdout


def test_nothing_of_a_patient_is_logged_or_kept_after_erasure(tmp_path):
    phantom = tmp_path / "phantom"
    subprocess.run([PROGRAM, "phantom", "--seed", "6", "--out", str(phantom), "--spacing", "3,3,3",
                    "--contrasts", "flair"], check=True, stdout=subprocess.DEVNULL)
    image = nibabel.load(phantom / "flair.nii.gz")
    image.header["descrip"] = b"CANARY^PATIENT"
    named = tmp_path / "CANARY-file.nii.gz"
    nibabel.save(image, named)
    state = tmp_path / "state"
    running = Service(state, log="trace")
    log = running.log
    try:
        job = running.submit({"flair": named})
        assert job["state"] == "succeeded"
        for name in ("lesions.nii.gz", "probability.nii.gz"):
            assert b"CANARY" not in gzip.decompress(running.artifact(job, name))
        status, metrics = running.call("GET", "/metrics")
        assert status == 200 and b"dawson_jobs_accepted_total 1" in metrics and b"CANARY" not in metrics
        assert running.call("DELETE", job["links"]["self"])[0] == 204
        assert not list((state / "jobs").iterdir())
    finally:
        running.stop()
    assert "CANARY" not in log.read_text()
