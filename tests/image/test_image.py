"""The Dockerfile's steps give an image that works: executed here, where no container engine runs.

A service is started in it as an engine would: not as root, with a read-only root, no new privileges and
a network of its own. A phantom study goes in, a mask comes out. Takes minutes: `make test-image`.
"""
import ctypes
import gzip
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import nibabel
import numpy
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "out" / "image"
MOST_BYTES = 400e6

sys.path[:0] = [str(ROOT / "docker"), str(ROOT / "tools")]
import demo  # noqa: E402  (the demo's client is the plainest one there is)
import rehearse  # noqa: E402

pytestmark = pytest.mark.skipif(bool(rehearse.missing()), reason=f"the image was not made: {rehearse.missing()}")
CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="module")
def image() -> rehearse.Image:
    made = rehearse.rehearse(ROOT / "docker/Dockerfile", WORK)
    print(f"\nthe image holds {made.bytes() / 1e6:.0f} MB")
    return made


def volume(image: rehearse.Image, folder: pathlib.Path) -> pathlib.Path:
    """The folder as an engine makes a volume of it: the image's user's own."""
    uid, gid = map(int, image.user.split(":"))
    os.chown(folder, uid, gid)
    return folder


@pytest.fixture(scope="module")
def running(image, tmp_path_factory):
    """The image started with its own ENTRYPOINT, CMD, USER and ENV; only access is said to be open."""
    state = volume(image, tmp_path_factory.mktemp("state"))
    process = image.start(state, DAWSON_INSECURE_NO_AUTH="true")
    first = process.stdout.readline()
    assert "listening on http://0.0.0.0:8080" in first, first + process.stderr.read()
    (child,) = map(int, pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    yield child
    process.kill()


def within(pid: int, work):
    """Runs `work` on a thread that has joined the network of `pid`, where the service's loopback is."""
    found: list = []

    def join() -> None:
        with open(f"/proc/{pid}/ns/net") as net:
            if ctypes.CDLL(None, use_errno=True).setns(net.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "the network could not be joined")
        found.append(work())

    thread = threading.Thread(target=join)
    thread.start()
    thread.join()
    return found[0]


def call(method: str, path: str, body: bytes | None = None, headers: dict | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=300)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_image_is_small_and_holds_nothing_to_build_with(image):
    assert image.bytes() < MOST_BYTES
    for name in ("usr/local/cargo", "src", "opt/dawson/models/training", "usr/bin/gcc", "usr/bin/python3"):
        assert not (image.root / name).exists(), name
    assert (image.root / "opt/dawson/models/ms-lesion").is_dir()
    for notice in ("LICENSE", "runtime/onnxruntime/LICENSE", "runtime/onnxruntime/ThirdPartyNotices.txt"):
        assert (image.root / "opt/dawson" / notice).stat().st_size > 1000, notice


def test_it_does_not_run_as_root_and_says_so_in_numbers(image):
    uid, gid = map(int, image.user.split(":"))
    assert uid >= 10000 and gid >= 10000
    assert image.ports == ["8080"] and image.volumes == ["/var/lib/dawson"]


def test_without_keys_it_refuses_to_be_reached_from_elsewhere(image, tmp_path):
    process = image.start(volume(image, tmp_path))
    _, words = process.communicate(timeout=60)
    assert process.returncode not in (0, None) and "insecure-no-auth" in words, words


def test_a_study_is_computed_in_it(running, tmp_path, image):
    status = pathlib.Path(f"/proc/{running}/status").read_text()
    uid = image.user.split(":")[0]
    assert re.search(rf"^Uid:\s+{uid}\s+{uid}\s+{uid}\s+{uid}$", status, re.M), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.M) and re.search(r"^CapEff:\s+0+$", status, re.M)
    (root,) = (line.split() for line in pathlib.Path(f"/proc/{running}/mountinfo").read_text().splitlines()
               if line.split()[4] == "/")
    assert "ro" in root[5].split(","), root

    # The phantom is made by the program in the image too, on the volume: nowhere else can be written.
    words = image.start(tmp_path, ["phantom", "--seed", "7", "--out", "/var/lib/dawson/phantom", "--spacing", "2,2,2",
                                   "--contrasts", "flair,t1w"])
    os.chown(tmp_path, *map(int, image.user.split(":")))
    _, said = words.communicate(timeout=120)
    assert words.returncode == 0, said
    scans = {c: tmp_path / "phantom" / f"{c}.nii.gz" for c in ("flair", "t1w")}
    body, kind = demo.form(scans)
    headers = {"Content-Type": kind, "Prefer": "wait=120"}
    code, answer = within(running, lambda: call("POST", "/v1/segmentations", body, headers))
    job = json.loads(answer)
    assert code == 200 and job["state"] == "succeeded", job
    assert job["report"]["engine"]["device"] == "openvino"
    path = f"{job['links']['artifacts']}/lesions.nii.gz"
    code, mask = within(running, lambda: call("GET", path))
    image_of_mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(mask))
    assert code == 200 and image_of_mask.shape == nibabel.load(scans["flair"]).shape
    assert numpy.asanyarray(image_of_mask.dataobj).sum() > 0
    print(f"\na study in the image: {job['report']['lesions']['count']} lesions, "
          f"{job['report']['timings_s']['total']:.1f} s")


def test_its_healthcheck_tells_a_service_from_none(running, image, tmp_path):
    command = ["nsenter", f"--target={running}", "--mount", "--net", f"--root=/proc/{running}/root",
               "env", "-i", *(f"{k}={v}" for k, v in image.env.items()), *image.healthcheck]
    healthy = subprocess.run(command, capture_output=True, text=True)
    assert healthy.returncode == 0 and '"ok"' in healthy.stdout, healthy.stderr
    alone = image.start(tmp_path, image.healthcheck[1:])
    _, words = alone.communicate(timeout=60)
    assert alone.returncode == 1 and "no answer" in words, words


def test_it_stops_when_it_is_asked_to(running):
    pidfd = os.pidfd_open(running)
    os.kill(running, signal.SIGTERM)
    import select

    assert select.select([pidfd], [], [], 60)[0], "it runs on after SIGTERM"
