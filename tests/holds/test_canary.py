"""A patient's name in all the places where it may stand, and a key: neither comes out anywhere but where its
sender put it to come out."""
import gzip
import json
import pathlib
import signal
import sqlite3
import struct
import subprocess
import sys

import pytest
from support import PROGRAM, ROOT, SLOW, TINY, Service, needs_program, wait_until

sys.path.insert(0, str(ROOT / "tests/holds"))
from test_hostile import form  # noqa: E402

pytestmark = needs_program
PATIENT = "Canarybird^Tweety"


def marked(flair: dict) -> bytes:
    """The scan with a name in every field that takes text: data_type, db_name, descrip, aux_file, intent_name, and
    in an extension."""
    plain = bytearray(gzip.decompress(flair["flair"].read_bytes()))
    name = PATIENT.encode()
    for offset, room in ((4, 10), (14, 18), (148, 80), (228, 24), (328, 16)):
        text = name[:room - 1] if offset != 4 else b"Canarybir"
        plain[offset:offset + room] = text.ljust(room, b"\0")
    extension = struct.pack("<2i", 32, 6) + name.ljust(24, b"\0")
    plain[348:352] = b"\1\0\0\0"
    struct.pack_into("<f", plain, 108, 384.0)
    return gzip.compress(bytes(plain[:352]) + extension + bytes(plain[352:]), 1)


def fetched(service: Service, path: str, **headers) -> bytes:
    return service.call("GET", path, **headers)[1]


def key_for(state: pathlib.Path) -> str:
    done = subprocess.run([PROGRAM, "keys", "new", "--name", "pacs", "--state", str(state), "--scope",
                           "submit,read,urgent"], capture_output=True, text=True, check=True)
    return done.stdout.strip().split()[-1]


@pytest.mark.parametrize("log", ["info", "debug", "trace"])
@pytest.mark.parametrize("form_", ["json", "text"])
def test_neither_a_patient_nor_a_key_comes_out(tmp_path, flair, log, form_):
    state = tmp_path / "state"
    state.mkdir()
    key = key_for(state)
    secret = key.rsplit("_", 1)[-1][-16:]
    service = Service(state, *TINY, "--log-format", form_, log=log)
    allowed = {"Authorization": f"Bearer {key}"}
    content = marked(flair)
    named = ('name="flair"; filename="%s.nii.gz"' % PATIENT, content)
    options = ('name="options"; filename="%s.json"' % PATIENT, json.dumps({"label": PATIENT}).encode())
    slow = ('name="options"', json.dumps({"label": PATIENT, **SLOW}).encode())
    wrong = ('name="options"', json.dumps({"label": PATIENT * 20}).encode())

    def post(*parts, wait=60, **more):
        body, kind = form(*parts)
        return service.call("POST", "/v1/segmentations", body, Content_Type=kind, Prefer=f"wait={wait}", **allowed, **more)

    status, answer = post(named, options)
    job = json.loads(answer)
    assert (status, job["state"], job["label"]) == (200, "succeeded", PATIENT)
    broken = (named[0], content[:-5000])
    assert json.loads(post(broken, options)[1])["state"] == "failed"
    for parts in ((named, wrong), ((f'name="{PATIENT}"', content),), (named, named), ((named[0], PATIENT.encode()),)):
        status, answer = post(*parts)
        assert status == 422, answer
    # What is no key, in all the wrong places.
    for headers in ({"Authorization": f"Basic {key}"}, {"Authorization": f"Bearer x{key}"}, {"Authorization": key}):
        assert service.call("GET", "/v1/segmentations", **headers)[0] == 401
    assert service.call("GET", f"/v1/segmentations?key={key}&patient={PATIENT}", **allowed)[0] == 400
    assert service.call("GET", f"/v1/segmentations/{PATIENT}", **allowed)[0] == 404
    service.call("POST", "/v1/segmentations", b"--x\r\n", Content_Type=f"multipart/form-data; boundary=x; name={PATIENT}",
                 Idempotency_Key=key, X_Request_Id=f"{PATIENT} {key}", **allowed)

    # While it is computed, and what a crash leaves.
    body, kind = form(named, slow)
    running = json.loads(service.call("POST", "/v1/segmentations", body, Content_Type=kind, **allowed)[1])
    wait_until(lambda: b"\ndawson_jobs_running 1" in service.call("GET", "/metrics")[1], 20)
    names = [str(p) for p in state.rglob("*")]
    metrics = service.call("GET", "/metrics")[1].decode()
    one = job["links"]["self"]
    report = fetched(service, f"{one}/artifacts/report.json", **allowed).decode()
    listed = fetched(service, f"{one}/artifacts", **allowed).decode()
    mask = gzip.decompress(fetched(service, f"{one}/artifacts/lesions.nii.gz", **allowed))
    arguments = pathlib.Path(f"/proc/{service.process.pid}/cmdline").read_bytes().decode()
    service.process.send_signal(signal.SIGABRT)
    service.process.wait()
    logged = service.log.read_text()
    # What is looked for would be found.
    assert "job accepted" in logged and "request answered" in logged and job["id"] in logged

    for place, text in {"log": logged, "metrics": metrics, "names of files": "\n".join(names), "report": report,
                        "list": listed, "mask": mask.decode("latin-1"), "arguments": arguments}.items():
        for word in ("anarybir", "weety", secret):
            assert word not in text, (place, word, [line for line in text.splitlines() if word in line][:3])
    # The database has the label as it was sent, once for itself and once in the options, and no key.
    own_words = {("jobs", "label"), ("jobs", "options")}
    with sqlite3.connect(state / "dawson.sqlite") as rows:
        rows.row_factory = sqlite3.Row
        for table, in rows.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in rows.execute(f"SELECT * FROM {table}").fetchall():
                for column in row.keys():
                    text = str(row[column])
                    assert secret not in text, (table, column)
                    assert "anarybir" not in text or (table, column) in own_words, (table, column)
    assert secret not in (state / "keys.toml").read_text()
    assert not list(tmp_path.glob("core*")) and running["id"]
