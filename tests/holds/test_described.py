"""schemathesis reads the description and sends what it allows and what it does not: every answer is described, none
is 5xx."""
import os
import pathlib
import subprocess
import sys

import pytest
from support import PROGRAM, TINY, Service, needs_program

pytestmark = needs_program


def schemathesis(service: Service, folder: pathlib.Path, number: int, *words: str) -> None:
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("schemathesis is not installed (tests/reference/requirements.txt brings it)")
    done = subprocess.run(
        [program, "run", f"http://{service.address}/openapi.json", "--checks",
         "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
         "response_schema_conformance,unsupported_method",
         "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(number),
         "--seed", "7", "--workers", "1", "--request-timeout", "60", "--continue-on-failure",
         "--generation-database", "none", "--no-color", *words],
        capture_output=True, text=True, cwd=folder, timeout=1800,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(pathlib.Path(__file__).with_name("media_types.py"))})
    print("\n".join(done.stdout.splitlines()[-25:]))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("who", ["anybody", "admin", "reader", "stranger"])
def test_every_answer_is_described(tmp_path, flair, long, who):
    state = tmp_path / "state"
    state.mkdir()
    words = []
    if who != "anybody":
        scope = {"admin": "admin", "reader": "read", "stranger": "urgent"}[who]
        made = subprocess.run([PROGRAM, "keys", "new", "--name", who, "--state", str(state), "--scope", scope],
                              capture_output=True, text=True, check=True)
        words = ["--header", f"Authorization: Bearer {made.stdout.strip().split()[-1]}"]
    service = Service(state, *TINY, "--max-wait-s", "1", "--queue", "10000", "--key-rate-per-s", "100000",
                      "--key-burst", "100000")
    if who in ("anybody", "admin"):
        key = {"Authorization": words[1].split(": ")[1]} if words else {}
        status, answer = service.post(flair, Prefer="wait=30", **key)
        assert status == 200, answer
    schemathesis(service, tmp_path, 200 if long else 15, *words)
    log = service.log.read_text()
    assert "panicked" not in log and "ERROR" not in log, log[-3000:]
    assert service.process.poll() is None
    service.stop()
