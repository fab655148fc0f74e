"""Every answer that the OpenAPI describes, and every code of the closed list, is received from a running service.

Nothing is checked twice here: what an answer says is other tests' business. This one only makes sure that nothing is
described that cannot come, and that nothing can come that nobody ever saw."""
import concurrent.futures
import gzip
import hashlib
import http.client
import io
import json
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile

import numpy
import onnx
import pytest
from support import PROGRAM, ROOT, SLOW, TINY, Postgres, Service, free_port, needs_program, phantom, wait_until

sys.path.insert(0, str(ROOT / "fuzz"))
import seeds  # noqa: E402

pytestmark = needs_program
CODES = re.findall(r'^    \w+ = "(\w+)", (?:Invalid|Transient|Internal), \d+',
                   (ROOT / "crates/inference/src/problem.rs").read_text(), re.MULTILINE)
# What nobody outside can bring about, and why.
UNSEEN = {
    "device_unavailable": "ends the start, exit code 4: seen in test_what_ends_the_start",
    "runtime_unavailable": "ends the start, exit code 4: seen in test_what_ends_the_start",
    "cancelled": "the pipeline's word to its worker; callers see the state `cancelled`",
    "internal": "a fault in Dawson: no request that is known brings one about",
}


class Seen:
    """Answers by route, status and code."""

    def __init__(self, description: dict):
        self.described = {}
        self.answers: set[tuple[str, str, int]] = set()
        self.codes: set[tuple[str, str, int, str]] = set()
        for path, methods in description["paths"].items():
            pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "$")
            for method, operation in methods.items():
                answers = {int(status): answer["description"] for status, answer in operation["responses"].items()}
                self.described[method.upper(), path] = (pattern, answers)

    def route(self, method: str, path: str) -> str | None:
        path = path.split("?")[0]
        found = [p for (m, p), (pattern, _) in self.described.items() if m == method and pattern.match(path)]
        return min(found, key=lambda p: p.count("{")) if found else None

    def hear(self, method: str, path: str, status: int, body: bytes) -> str | None:
        """The code of the answer, if it is a problem."""
        route = self.route(method, path)
        code = None
        if status >= 400 and body.startswith(b'{"type"'):
            problem = json.loads(body)
            code = problem["code"]
            # Who is turned away at the door has made no request yet.
            assert problem["status"] == status and (problem.get("request_id") or code == "overloaded")
        if route is not None:
            self.answers.add((method, route, status))
            if code:
                self.codes.add((method, route, status, code))
            described = self.described[method, route][1]
            assert status in described, (method, route, status, body)
            assert code is None or code in re.findall(r"\w+", described[status]), (method, route, status, code)
        elif code:
            self.codes.add((method, "", status, code))
        return code

    def ask(self, service: Service, method: str, path: str, body: bytes | None = None, **headers):
        status, answer = service.call(method, path, body, timeout=60, **headers)
        return status, self.hear(method, path, status, answer), answer

    def submit(self, service: Service, parts: dict[str, bytes], options: dict | None = None, wait: int = 0, **headers):
        body, kind = form(parts, options)
        if wait:
            headers["Prefer"] = f"wait={wait}"
        status, code, answer = self.ask(service, "POST", "/v1/segmentations", body, Content_Type=kind, **headers)
        answer = json.loads(answer)
        if status < 300 and answer["error"]:
            self.codes.add(("job", "", answer["error"]["status"], answer["error"]["code"]))
        return status, code, answer

    def job(self, service: Service, job: str, wait: int) -> dict:
        status, _, answer = self.ask(service, "GET", f"/v1/segmentations/{job}", Prefer=f"wait={wait}")
        answer = json.loads(answer)
        if status == 200 and answer["error"]:
            self.codes.add(("job", "", answer["error"]["status"], answer["error"]["code"]))
        return answer


def form(parts: dict[str, bytes], options: dict | None = None) -> tuple[bytes, str]:
    if options is not None:
        parts = {**parts, "options": json.dumps(options).encode()}
    body = b"".join(f"--x-y-z\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n".encode() + content + b"\r\n"
                    for name, content in parts.items())
    return body + b"--x-y-z--\r\n", "multipart/form-data; boundary=x-y-z"


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Explicit little endian."""
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if vr == b"OW" else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + vr + length + value


def slice_of(k: int, study: str = "1.2", ti: int = 2500, pixels: int = 64, image: bytes | None = None,
             shape: tuple[int, int] = (8, 8), spacing: int = 8, burned_in: str = "NO") -> bytes:
    """An axial image of a FLAIR (or, without TI, of a T2); black unless it is given."""
    image = bytes(2 * pixels) if image is None else image
    texts = [(2, 0x10, b"UI", "1.2.840.10008.1.2.1"), (8, 0x16, b"UI", "1.2.840.10008.5.1.4.1.1.4"),
             (8, 0x18, b"UI", f"1.2.3.{k + 1}"), (0x18, 0x20, b"CS", "SE\\IR" if ti else "SE"),
             (0x18, 0x80, b"DS", "9000"), (0x18, 0x81, b"DS", "120"), (0x18, 0x82, b"DS", str(ti)),
             (0x20, 0xD, b"UI", study), (0x20, 0xE, b"UI", "1.2.3"), (0x20, 0x32, b"DS", f"0\\0\\{spacing * k}"),
             (0x20, 0x37, b"DS", "1\\0\\0\\0\\1\\0"), (0x28, 4, b"CS", "MONOCHROME2"), (0x28, 0x30, b"DS", f"{spacing}\\{spacing}"),
             (0x28, 0x301, b"CS", burned_in)]
    numbers = [(2, 1), (0x10, shape[0]), (0x11, shape[1]), (0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)]
    return (bytes(128) + b"DICM" + b"".join(element(g, n, vr, text.encode()) for g, n, vr, text in texts)
            + b"".join(element(0x28, n, b"US", struct.pack("<H", value)) for n, value in numbers)
            + element(0x7FE0, 0x10, b"OW", image))


def zipped(files: list[bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zip_:
        for n, file in enumerate(files):
            zip_.writestr(str(n), file)
    return archive.getvalue()


WEB = "/dicom-web/studies"
STORE = [("POST", WEB), ("POST", f"{WEB}/1.2")]
SEARCH = [("GET", path) for path in (WEB, "/dicom-web/series", "/dicom-web/instances", f"{WEB}/1.2/series",
                                     f"{WEB}/1.2/instances", f"{WEB}/1.2/series/1.2.3/instances")]
RETRIEVE = [("GET", f"{WEB}/1.2{rest}{what}") for what in ("", "/metadata")
            for rest in ("", "/series/1.2.3", "/series/1.2.3/instances/1.2.3.1")]
ARRIVING = [("GET", "/v1/studies"), ("POST", "/v1/studies/1.2/start")]
DICOMWEB = [*STORE, *SEARCH, *RETRIEVE, *ARRIVING]
RELATED = "multipart/related; type=\"application/dicom\"; boundary=x-y-z"


def related(files: list[bytes]) -> bytes:
    parts = (b"--x-y-z\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return b"".join(parts) + b"--x-y-z--\r\n"


def routes(job: str) -> list[tuple[str, str]]:
    one = f"/v1/segmentations/{job}"
    return [("GET", "/v1/models"), ("GET", "/v1/models/tiny-lesion"), ("POST", "/v1/models/reload"),
            ("GET", "/v1/segmentations"),
            ("POST", "/v1/segmentations"), ("GET", one), ("DELETE", one), ("POST", f"{one}/cancel"),
            ("POST", f"{one}/deliveries/pacs"),
            ("GET", f"{one}/events"), ("GET", f"{one}/artifacts"), ("GET", f"{one}/artifacts/report.json"),
            ("GET", f"{one}/bundle.zip"), *DICOMWEB]


NOBODY = "01M88EWV0PHY251Z4QJPNAAWWA"


@pytest.fixture(scope="module")
def seen():
    return Seen(json.loads((ROOT / "openapi/openapi.json").read_text()))


@pytest.fixture(scope="module")
def scan(flair):
    return flair["flair"].read_bytes()


def test_what_a_study_can_come_to(tmp_path, seen, scan):
    service = Service(tmp_path / "s", *TINY, "--max-part-bytes", str(4 << 20))
    for path in ("/healthz", "/readyz", "/metrics", "/problems/missing_flair", "/v1/models", "/v1/models/tiny-lesion",
                 "/v1/segmentations"):
        assert seen.ask(service, "GET", path)[0] == 200
    status, _, job = seen.submit(service, {"flair": scan}, wait=60, Idempotency_Key="a")
    assert (status, job["state"]) == (200, "succeeded")
    one = job["links"]["self"]
    for path in (one, f"{one}/artifacts", f"{one}/artifacts/report.json", f"{one}/bundle.zip", f"{one}/events"):
        assert seen.ask(service, "GET", path)[0] == 200, path
    assert seen.ask(service, "GET", f"{one}/events", Last_Event_ID="100000")[0] in (200, 204)
    last = json.loads(seen.ask(service, "GET", f"{one}/artifacts")[2])["artifacts"][0]
    file, tag = last["href"], f'"{last["sha256"]}"'
    assert seen.ask(service, "GET", file, Range="bytes=0-9")[0] == 206
    assert seen.ask(service, "GET", file, If_None_Match=tag)[0] == 304
    assert seen.ask(service, "GET", file, If_Match='"x"')[1] == "precondition_failed"
    assert seen.ask(service, "GET", file, Range="bytes=99999999-")[1] == "range_not_satisfiable"
    connection_tag = service_etag(service, one)
    assert seen.ask(service, "GET", one, If_None_Match=connection_tag)[0] == 304
    events = seen.ask(service, "GET", f"{one}/events")[2].decode()
    newest = re.findall(r"^id: ?(\d+)$", events, re.MULTILINE)[-1]
    assert seen.ask(service, "GET", f"{one}/events", Last_Event_ID=newest)[0] == 204
    assert seen.ask(service, "POST", f"{one}/cancel")[1] == "job_ended"
    assert seen.submit(service, {"flair": scan}, {"label": "b"}, Idempotency_Key="a")[1] == "idempotency_mismatch"
    for method, path in routes(NOBODY):
        if NOBODY in path:
            assert seen.ask(service, method, path)[1] == "not_found", path
    assert seen.ask(service, "GET", "/v1/models/nobody")[1] == "not_found"
    assert seen.ask(service, "GET", "/problems/nobody")[1] == "not_found"
    assert seen.ask(service, "GET", "/nowhere")[1] == "not_found"
    assert seen.ask(service, "PUT", "/v1/segmentations")[1] == "method_not_allowed"
    assert seen.ask(service, "GET", "/v1/segmentations?limit=0")[1] == "malformed_request"
    assert seen.ask(service, "POST", "/v1/segmentations", b"{}",
                    Content_Type="application/json")[1] == "unsupported_media_type"
    assert seen.ask(service, "POST", "/v1/segmentations", b"--x",
                    Content_Type="multipart/form-data; boundary=x")[1] == "malformed_request"

    shape = (40, 40, 40)
    filled = seeds.header(shape=shape) + struct.pack("<h", 9) * 40 ** 3
    away = bytearray(filled)
    struct.pack_into("<f", away, 280 + 12, 5000.0)
    flat = bytearray(filled)
    struct.pack_into("<12f", flat, 280, *[0.0] * 12)
    broken = {
        "not_nifti": {"flair": b"x" * 400}, "damaged_image": {"flair": scan[:100]},
        "unsupported_image": {"flair": seeds.header(code=32, bits=64)},
        "image_too_large": {"flair": seeds.header(shape=(2000, 9, 9))}, "invalid_affine": {"flair": bytes(flat)},
        "no_contrast": {"flair": filled}, "missing_flair": {"t1w": scan}, "unknown_part": {"flair": scan, "swi": scan},
        "contrast_elsewhere": {"flair": scan, "t1w": bytes(away)}, "body_too_large": {"flair": bytes(5 << 20)},
    }
    for code, parts in broken.items():
        status, found, answer = seen.submit(service, parts, wait=60)
        assert code == (found or answer["error"]["code"]), (code, found, answer)
    flair = [slice_of(k) for k in range(12)]
    studies = {
        "not_dicom": [b"%PDF"], "damaged_dicom": [slice_of(0, pixels=60)], "unusable_series": flair[:5] + flair[6:],
        "several_studies": [*flair, slice_of(12, study="1.4")], "missing_flair": [slice_of(k, ti=0) for k in range(12)],
        "damaged_archive": [zipped(flair)],
    }
    for code, files in studies.items():
        assert seen.submit(service, {"study": zipped(files)})[1] == code
    assert seen.submit(service, {"study": zipped(flair)}, {"series": {"flair": "1.5"}})[1] == "unknown_series"
    assert seen.submit(service, {"study": zipped(flair)}, {"de_identify": True, "send_to": ["a"]})[1] == "invalid_options"
    annotated = zipped([slice_of(k, burned_in="YES") for k in range(12)])
    _, found, answer = seen.submit(service, {"study": annotated}, {"de_identify": True}, wait=60)
    assert "not_de_identifiable" == (found or answer["error"]["code"])
    for code, options in {"invalid_options": {"treshold": 1}, "unknown_model": {"model": "nobody"}}.items():
        assert seen.submit(service, {"flair": scan}, options)[1] == code
    _, found, answer = seen.submit(service, {"flair": scan}, {"precision": "bf16"}, wait=60)
    assert "precision_unavailable" == (found or answer["error"]["code"])
    body, kind = form({"flair": scan})
    twice = body.replace(b"--x-y-z--\r\n", b"") + body
    assert seen.ask(service, "POST", "/v1/segmentations", twice, Content_Type=kind)[1] == "duplicate_part"
    assert seen.ask(service, "DELETE", one)[0] == 204
    service.stop()


def test_what_dicomweb_brings(tmp_path, seen):
    service = Service(tmp_path / "s", *TINY, "--max-part-bytes", str(1 << 20))
    for _, path in STORE:
        def store(body: bytes, kind: str = RELATED, path: str = path):
            return seen.ask(service, "POST", path, body, Content_Type=kind)[:2]

        assert store(related([b"%PDF"]))[0] == 409
        assert store(related([slice_of(0), b"%PDF"]))[0] == 202
        assert store(related([slice_of(0)]))[0] == 200
        assert store(b"--x")[1] == "malformed_request"
        assert store(b"{}", "application/dicom+json")[1] == "unsupported_media_type"
        assert store(bytes(2 << 20), "application/dicom")[1] == "body_too_large"
        assert store(b"PK\3\4", "application/zip")[1] == "damaged_archive"
    for method, path in SEARCH:
        assert seen.ask(service, method, path)[0] == 200, path
        assert seen.ask(service, method, f"{path}?PatientName=x")[1] == "malformed_request", path
    for method, path in RETRIEVE:
        assert seen.ask(service, method, path)[0] == 200, path
        assert seen.ask(service, method, path, Accept="image/jpeg")[1] == "not_acceptable", path
        assert seen.ask(service, method, path.replace("1.2", "9.2"))[1] == "not_found", path
        assert seen.ask(service, method, path.replace("/1.2", "/x", 1))[1] == "malformed_request", path
    assert seen.ask(service, "GET", "/v1/studies")[0] == 200
    assert seen.ask(service, "POST", "/v1/studies/1.2/start")[0] == 202
    assert seen.ask(service, "POST", "/v1/studies/9.2/start")[1] == "not_found"
    assert seen.ask(service, "POST", "/v1/studies/x/start")[1] == "malformed_request"
    service.stop()


def test_what_networks_that_are_read_again_bring(tmp_path, seen):
    shutil.copytree(TINY[1], tmp_path / "models")
    service = Service(tmp_path / "s", "--models", str(tmp_path / "models"), *TINY[2:])
    assert seen.ask(service, "POST", "/v1/models/reload")[0] == 200
    network = tmp_path / "models/tiny-lesion/1.0.0/model.onnx"
    network.write_bytes(network.read_bytes()[:-1])
    status, code, answer = seen.ask(service, "POST", "/v1/models/reload")
    assert (status, code) == (503, "model_invalid") and str(tmp_path).encode() not in answer
    assert seen.ask(service, "GET", "/v1/models")[0] == 200
    service.stop()


@pytest.fixture
def anatomist(tmp_path):
    """A service with the shipped anatomy network, which the tests' own folder of models lacks."""
    models = tmp_path / "models"
    shutil.copytree(TINY[1], models)
    shutil.copytree(ROOT / "models/brain-anatomy", models / "brain-anatomy")
    service = Service(tmp_path / "s", "--models", str(models), *TINY[2:])
    yield service
    service.stop()


def test_what_is_no_head(anatomist, seen):
    # Values from 1 to 63 in no order, in a volume as large as a head.
    chance = random.Random(1)
    shape = (91, 101, 91)
    noise = seeds.header(shape=shape) + bytes(chance.randrange(1, 64) * (n % 2 == 0) for n in range(2 * 91 * 101 * 91))
    _, found, answer = seen.submit(anatomist, {"flair": noise}, wait=300)
    assert "no_head" == (found or answer["error"]["code"]), (found, answer)


def test_what_is_of_another_head(tmp_path, anatomist, seen):
    """One patient's FLAIR, and a T1w of another who lies the other way round."""
    one, another = (phantom(tmp_path / str(seed), "flair", "t1w", spacing=2, seed=seed) for seed in (1, 9))
    t1w = bytearray(gzip.decompress(another["t1w"].read_bytes()))
    start = int(struct.unpack_from("<f", t1w, 108)[0])
    columns, rows, slices = struct.unpack_from("<3h", t1w, 42)
    size = 2 * columns * rows
    assert len(t1w) == start + slices * size, "16-bit voxels"
    t1w[start:] = b"".join(t1w[start + k * size:start + (k + 1) * size] for k in reversed(range(slices)))
    flair = one["flair"].read_bytes()
    _, found, answer = seen.submit(anatomist, {"flair": flair, "t1w": one["t1w"].read_bytes()}, wait=300)
    assert answer["state"] == "succeeded", answer
    _, found, answer = seen.submit(anatomist, {"flair": flair, "t1w": gzip.compress(bytes(t1w), 1)}, wait=300)
    assert "another_head" == (found or answer["error"]["code"]), (found, answer)


def unlucky(models: pathlib.Path, code: str) -> None:
    """A network named like `code`: the tests' own until it sees what is brighter than its golden patch. Then it wants
    four terabytes, or looks behind the end of a table of one number."""
    source, folder = ROOT / "tests/fixtures/models/tiny-lesion/1.0.0", models / code / "1.0.0"
    network = onnx.load(source / "model.onnx")
    graph, node = network.graph, onnx.helper.make_node
    graph.node[-1].output[:] = ["plain"]
    graph.node.extend([node("ReduceMax", ["image"], ["most"], keepdims=0), node("Greater", ["most", "bright"], ["is_bright"]),
                       node("Where", ["is_bright", "many", "none"], ["count"])])
    if code == "out_of_memory":
        graph.node.extend([node("ConstantOfShape", ["count"], ["zeros"]), node("ReduceSum", ["zeros"], ["zero"], keepdims=0)])
    else:
        graph.node.append(node("Gather", ["table", "count"], ["zero"]))
        graph.initializer.append(onnx.numpy_helper.from_array(numpy.zeros(1, "f4"), "table"))
    graph.node.append(node("Add", ["plain", "zero"], ["probability"]))
    for name, value in (("bright", numpy.array(5, "f4")), ("many", numpy.array([1 << 40])), ("none", numpy.array([0]))):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    folder.mkdir(parents=True)
    data = network.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    said = (source / "model.toml").read_text().replace('name = "tiny-lesion"', f'name = "{code}"')
    said = re.sub(r'(?m)^sha256 = .*$', f'sha256 = "{hashlib.sha256(data).hexdigest()}"', said)
    (folder / "model.toml").write_text(said)


def test_what_a_device_that_fails_brings(tmp_path, seen, scan):
    models = tmp_path / "models"
    shutil.copytree(TINY[1], models)
    failures = ("out_of_memory", "device_failed")
    for code in failures:
        unlucky(models, code)
    service = Service(tmp_path / "s", "--models", str(models), *TINY[2:], "--retries", "0")
    for code in failures:
        _, _, job = seen.submit(service, {"flair": scan}, {"model": code}, wait=60)
        assert (job["state"], job["error"]["code"]) == ("failed", code), job
    # The next one is computed as if nothing had been.
    _, _, job = seen.submit(service, {"flair": scan}, wait=60)
    assert job["state"] == "succeeded", job
    service.stop()


def service_etag(service: Service, path: str) -> str:
    connection = http.client.HTTPConnection(service.address)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.getheader("etag")


def test_what_load_and_time_bring(tmp_path, seen, scan):
    service = Service(tmp_path / "s", *TINY, "--workers", "1", "--queue", "2", "--body-timeout-s", "1",
                      "--min-body-rate", "1000000")
    for _ in range(2):
        assert seen.submit(service, {"flair": scan}, SLOW)[0] == 202
    wait_until(lambda: service.metric("dawson_queue_jobs") == 1, 20)
    status, _, late = seen.submit(service, {"flair": scan}, {"deadline_s": 1})
    assert status == 202
    assert seen.submit(service, {"flair": scan})[1] == "queue_full"
    links = late["links"]
    for path in (links["artifacts"], f"{links['artifacts']}/report.json", f"{links['self']}/bundle.zip"):
        assert seen.ask(service, "GET", path)[1] == "artifact_not_ready"
    assert seen.job(service, late["id"], 20)["error"]["code"] == "expired"
    wait_until(lambda: service.metric("dawson_queue_jobs") < 2, 30)
    status, _, job = seen.submit(service, {"flair": scan}, SLOW)
    assert seen.ask(service, "POST", f"{job['links']['self']}/cancel")[0] == 202
    head = post_head(service, 10_000)
    assert code_of(seen, talk(service, head + b"--x-y-z\r\n", keep=True)) == "request_timeout"
    for _, path in STORE:
        head = post_head(service, 10_000, path, RELATED)
        assert code_of(seen, talk(service, head + b"--x-y-z\r\n", keep=True), path=path) == "request_timeout"
    service.kill()
    service = Service(tmp_path / "m", *TINY, "--memory-budget-bytes", "1000")
    assert seen.submit(service, {"flair": scan})[1] == "study_too_large"
    service.stop()
    service = Service(tmp_path / "f", *TINY[:-1], str(1 << 60))
    assert seen.submit(service, {"flair": scan})[1] == "storage_failed"
    for method, path in STORE:
        assert seen.ask(service, method, path, related([slice_of(0)]), Content_Type=RELATED)[1] == "storage_failed"
    service.stop()
    service = Service(tmp_path / "c", *TINY, "--max-connections", "1")
    busy = talk(service, post_head(service, 10_000), open_=True)
    time.sleep(0.2)
    for method, route in seen.described:
        path = re.sub(r"\{\w+\}", "x", route)
        answer = talk(service, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert code_of(seen, answer, method, path) == "overloaded", answer
    busy.close()
    service.kill()


def post_head(service: Service, length: int, path: str = "/v1/segmentations",
              kind: str = "multipart/form-data; boundary=x-y-z") -> bytes:
    return (f"POST {path} HTTP/1.1\r\nHost: {service.address}\r\nContent-Length: {length}\r\n"
            f"Content-Type: {kind}\r\n\r\n").encode()


def talk(service: Service, text: bytes, keep: bool = False, open_: bool = False):
    """All that comes back on a bare connection; or the connection itself."""
    host, port = service.address.rsplit(":", 1)
    line = socket.create_connection((host, int(port)), timeout=20)
    line.sendall(text)
    return line if open_ else rest(line, close=not keep)


def rest(line: socket.socket, close: bool = True) -> bytes:
    heard = b""
    try:
        if close:
            line.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # The other side was quicker.
    try:
        while piece := line.recv(65536):
            heard += piece
    except ConnectionResetError:
        pass
    line.close()
    return heard


def code_of(seen: Seen, answer: bytes, method: str = "POST", path: str = "/v1/segmentations") -> str | None:
    head, _, body = answer.partition(b"\r\n\r\n")
    return seen.hear(method, path, int(head.split()[1]), body)


def is_stopping(service: Service) -> bool:
    try:
        return service.call("GET", "/readyz", timeout=10)[0] == 503
    except OSError:
        return True


def test_what_a_stop_brings(tmp_path, seen, scan):
    service = Service(tmp_path / "s", *TINY)
    body, _ = form({"flair": scan})
    under_way = talk(service, post_head(service, len(body)) + body[:1000], open_=True)
    # Its head came before the stop, but for the last bytes.
    head = post_head(service, len(body))
    begun = talk(service, head[:-2], open_=True)
    images = related([slice_of(0)])
    stores = {path: post_head(service, len(images), path, RELATED) for _, path in STORE}
    waiting = {path: talk(service, head[:-2], open_=True) for path, head in stores.items()}
    wait_until(lambda: any((tmp_path / "s" / "incoming").iterdir()), 20)
    # Whoever asks is one more.
    wait_until(lambda: service.metric("dawson_http_connections") == len(waiting) + 3, 20)
    service.process.terminate()
    wait_until(lambda: is_stopping(service), 20)
    begun.sendall(head[-2:] + body)
    assert code_of(seen, rest(begun, close=False)) == "shutting_down"
    for path, line in waiting.items():
        line.sendall(b"\r\n" + images)
        assert code_of(seen, rest(line, close=False), path=path) == "shutting_down"
    under_way.sendall(body[1000:])
    assert rest(under_way, close=False).startswith(b"HTTP/1.1 202")
    assert service.process.wait(60) == 0


def key(state, *scopes: str) -> str:
    words = [PROGRAM, "keys", "new", "--name", "-".join(scopes), "--state", str(state), "--scope", ",".join(scopes)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().split()[-1]


def test_what_those_get_who_may_not(tmp_path, seen, scan):
    state = tmp_path / "s"
    state.mkdir()
    useless = key(state, "urgent")
    service = Service(state, *TINY)
    for method, path in routes(NOBODY):
        assert seen.ask(service, method, path)[1] == "unauthorized", path
        assert seen.ask(service, method, path, Authorization=f"Bearer {useless}")[1] == "forbidden", path
    service.stop()
    service = Service(state, *TINY, "--key-rate-per-s", "1", "--key-burst", "1")
    all_ = key(state, "admin")
    service.process.send_signal(1)
    wait_until(lambda: seen.ask(service, "GET", "/v1/models", Authorization=f"Bearer {all_}")[1] != "unauthorized", 10)
    for method, path in routes(NOBODY):
        for _ in range(20):
            _, code, _ = seen.ask(service, method, path, Authorization=f"Bearer {all_}")
            if code == "too_many_requests":
                break
        assert code == "too_many_requests", path
    service.stop()
    service = Service(tmp_path / "h", *TINY, "--hosts", "scans.example")
    for method, path in routes(NOBODY):
        assert seen.ask(service, method, path)[1] == "unknown_host", path
    service.stop()


def test_what_a_database_that_is_gone_brings(tmp_path, seen, scan):
    server = Postgres()
    try:
        service = Service(tmp_path / "s", *TINY, env={"DAWSON_DATABASE": server.database("codes")})
        _, _, job = seen.submit(service, {"flair": scan}, wait=60)
        server.run("pg_ctl", "-D", server.folder / "data", "stop", "-m", "immediate")
        assert seen.ask(service, "GET", "/readyz")[0] == 503
        asked = [(method, path) for method, path in routes(job["id"])
                 if "models" not in path and method + path != "POST/v1/segmentations"
                 and (method, path) not in (*STORE, *ARRIVING)]
        # Each waits a while for a connection.
        with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
            for _, code, answer in pool.map(lambda one: seen.ask(service, *one), asked):
                assert code == "storage_failed", answer
        service.kill()
    finally:
        server.process.kill()


def test_results_that_nobody_takes_are_sent_again(tmp_path, seen, scan):
    """The phantom's voxels as images, filed at a port where nobody listens."""
    head = gzip.decompress(scan)
    _, columns, rows, slices = struct.unpack_from("<4h", head, 40)
    assert struct.unpack_from("<h", head, 70)[0] == 4, "16-bit voxels"
    start, size = int(struct.unpack_from("<f", head, 108)[0]), 2 * columns * rows
    images = [slice_of(k, image=head[start + k * size:start + (k + 1) * size], shape=(rows, columns), spacing=3)
              for k in range(slices)]
    (tmp_path / "pacs.toml").write_text(f'[[destination]]\nname = "pacs"\nae_title = "A"\naddress = "127.0.0.1:{free_port()}"\n')
    service = Service(tmp_path / "s", *TINY, "--pacs", str(tmp_path / "pacs.toml"), "--filing-retry-s", "")
    assert seen.submit(service, {"study": zipped(images)}, {"send_to": ["nobody"]})[1] == "invalid_options"
    status, _, job = seen.submit(service, {"study": zipped(images)}, {"send_to": ["pacs"]}, wait=60)
    assert (status, job["state"]) == (200, "succeeded"), job
    wait_until(lambda: seen.job(service, job["id"], 0)["deliveries"][0]["state"] == "dead", 30)
    status, _, again = seen.ask(service, "POST", f"{job['links']['self']}/deliveries/pacs")
    assert status == 202 and json.loads(again)["deliveries"][0]["destination"] == "pacs"
    assert seen.ask(service, "POST", f"{job['links']['self']}/deliveries/nobody")[1] == "not_found"
    service.stop()


def test_what_stops_the_service_three_times(tmp_path, seen, scan):
    state, job = tmp_path / "s", None
    for _ in range(3):
        service = Service(state, *TINY)
        if job is None:
            job = seen.submit(service, {"flair": scan}, SLOW)[2]["id"]
        wait_until(lambda: service.metric("dawson_jobs_running") == 1, 20)
        service.kill()
    service = Service(state, *TINY)
    assert seen.job(service, job, 20)["error"]["code"] == "crashed"
    service.stop()


def test_what_ends_the_start(tmp_path):
    """These codes have no answer of their own: the service does not come to be asked."""
    models = tmp_path / "models/tiny-lesion/1.0.0"
    models.mkdir(parents=True)
    for file in (ROOT / "tests/fixtures/models/tiny-lesion/1.0.0").iterdir():
        (models / file.name).write_bytes(file.read_bytes() + (b" " if file.suffix == ".onnx" else b""))
    serve = [PROGRAM, "serve", "--listen", "127.0.0.1:0", "--state", str(tmp_path / "s")]
    for words, says in (([*TINY[:4], "--device", "cuda:7"], "cuda"),
                        ([*TINY, "--runtime-library", str(tmp_path / "none.so")], "none.so"),
                        (["--models", str(tmp_path / "models"), *TINY[2:]], "SHA-256")):
        done = subprocess.run([*serve, *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 4 and says in done.stderr, (words, done)


def test_nothing_that_is_described_was_not_received(seen):
    """Runs last, and looks at what the tests above received."""
    assert len(CODES) > 40 and set(UNSEEN) <= set(CODES)
    missing = [f"{method} {path}: {status}" for (method, path), (_, answers) in seen.described.items()
               for status in answers if (method, path, status) not in seen.answers]
    assert not missing, missing
    received = {(method, path, status, code) for method, path, status, code in seen.codes}
    promised = {(method, path, status, code) for (method, path), (_, answers) in seen.described.items()
                for status, text in answers.items() if status >= 400 for code in re.findall(r"\w+", text) if code in CODES}
    assert not promised - received, promised - received
    codes = {code for *_, code in seen.codes}
    assert codes | set(UNSEEN) == set(CODES), set(CODES) - codes - set(UNSEEN)
    assert not codes & set(UNSEEN), "what is said not to be seen was seen"
    print(f"\n{len(seen.answers)} answers of {len(seen.described)} routes, {len(codes)} of {len(CODES)} codes")
