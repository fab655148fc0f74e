"""A running service for the tests of operation: the program in $DAWSON_BIN, as a user would start it."""
import http.client
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("DAWSON_BIN", "")

sys.path.insert(0, str(ROOT / "tools"))
import demo  # noqa: E402  (the demo's client is the plainest one there is)


class Service:
    """A `dawson serve` process on a free port; its log lines are kept."""

    def __init__(self, state: pathlib.Path, *flags: str, log: pathlib.Path | None = None,
                 under: tuple[str, ...] = ()):
        words = [*under, PROGRAM, "serve", "--listen", "127.0.0.1:0", "--state", str(state), *flags]
        stderr = log.open("w") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT)
        first = self.process.stdout.readline()
        self.address = re.search(r"http://(\S+)", first).group(1)

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=600)
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def submit(self, scans: dict[str, pathlib.Path], options: dict | None = None, wait: int = 300,
               **headers: str) -> dict:
        body, kind = demo.form(scans)
        if options is not None:
            boundary = kind.split("boundary=")[1]
            body = (f"--{boundary}\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n"
                    f"{json.dumps(options)}\r\n").encode() + body
        if wait:
            headers["Prefer"] = f"wait={wait}"
        status, answer = self.call("POST", "/v1/segmentations", body, Content_Type=kind, **headers)
        assert status in (200, 202), answer
        return json.loads(answer)

    def job(self, job: dict, wait: int = 0) -> dict:
        status, answer = self.call("GET", job["links"]["self"], Prefer=f"wait={wait}")
        assert status == 200, answer
        return json.loads(answer)

    def artifact(self, job: dict, name: str) -> bytes:
        status, content = self.call("GET", f"{job['links']['artifacts']}/{name}")
        assert status == 200, content
        return content

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


@pytest.fixture(scope="session")
def program() -> str:
    if not PROGRAM:
        pytest.skip("DAWSON_BIN names no program")
    return PROGRAM


@pytest.fixture(scope="session")
def phantom(program, tmp_path_factory) -> dict[str, pathlib.Path]:
    """A small synthetic head, by contrast."""
    folder = tmp_path_factory.mktemp("phantom")
    subprocess.run([program, "phantom", "--seed", "7", "--out", str(folder), "--spacing", "2,2,2",
                    "--contrasts", "flair,t1w"], check=True, stdout=subprocess.DEVNULL)
    return {contrast: folder / f"{contrast}.nii.gz" for contrast in ("flair", "t1w")}
