"""More than the service can do, all at once, from clients that vanish, dawdle and change their minds: it says no
quickly and truly, keeps its memory, its files and its promises, and is as before when it is over."""
import asyncio
import base64
import datetime
import http.server
import itertools
import json
import math
import os
import pathlib
import resource
import select
import signal
import socket
import sqlite3
import statistics
import struct
import sys
import threading
import time

import pytest
from support import ROOT, SLOW, TINY, Service, demo, free_port, needs_program, phantom, wait_until

sys.path.insert(0, str(ROOT / "fuzz"))
import seeds  # noqa: E402  (writes headers field by field)

pytestmark = needs_program
RESET = struct.pack("ii", 1, 0)


def request(service: Service, scans: dict, options: dict | None = None, **headers: str) -> bytes:
    """A submission as bytes."""
    body, kind = demo.form(scans)
    if options is not None:
        boundary = kind.split("boundary=")[1]
        body = (f"--{boundary}\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n{json.dumps(options)}\r\n"
                ).encode() + body
    lines = [f"POST /v1/segmentations HTTP/1.1\r\nHost: {service.address}\r\nContent-Type: {kind}\r\n"
             f"Content-Length: {len(body)}\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items()), "\r\n"]
    return "".join(lines).encode() + body


def connect(service: Service, room: int | None = None) -> socket.socket:
    host, port = service.address.rsplit(":", 1)
    line = socket.socket()
    if room is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    line.settimeout(30)
    line.connect((host, int(port)))
    return line


def vanish(line: socket.socket) -> None:
    """Hangs up without a word: the other side gets a reset."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    line.close()


def files_below(folder: pathlib.Path) -> list[str]:
    # What goes while this looks is gone.
    return sorted(os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)


def time_of(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def row(state: pathlib.Path, job: str) -> dict:
    with sqlite3.connect(state / "dawson.sqlite") as rows:
        rows.row_factory = sqlite3.Row
        return dict(rows.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone())


async def ask(service: Service, text: bytes) -> tuple[int, dict, bytes, float]:
    """Status, headers, body and seconds of one request on a connection of its own."""
    host, port = service.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    begun = time.monotonic()
    try:
        writer.write(text)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        took = time.monotonic() - begun
        status, headers, _ = parsed(head)
        return status, headers, await reader.readexactly(int(headers.get("content-length", 0))), took
    finally:
        writer.close()


def at_once(service: Service, text: bytes, count: int) -> list[tuple[int, dict, bytes, float]]:
    """The same of `count` clients that are connected and send together; plain sockets, since a client that takes its
    time would be measured instead of the service."""
    lines = [connect(service) for _ in range(count)]
    ready = select.epoll()
    unsent, answers, begun, took = {}, {}, {}, {}
    for line in lines:
        line.setblocking(False)
        unsent[line.fileno()], answers[line.fileno()] = memoryview(text), b""
        ready.register(line, select.EPOLLIN | select.EPOLLOUT)
    by_number = {line.fileno(): line for line in lines}
    while by_number:
        events = ready.poll(60)
        assert events, f"{len(by_number)} have no answer after 60 s"
        for number, event in events:
            line = by_number[number]
            if event & select.EPOLLIN:
                took.setdefault(number, time.monotonic() - begun[number])
                more = line.recv(1 << 16)
                answers[number] += more
                if more and not is_whole(answers[number]):
                    continue
                ready.unregister(line)
                line.close()
                del by_number[number]
            elif event & select.EPOLLOUT:
                begun.setdefault(number, time.monotonic())
                unsent[number] = unsent[number][line.send(unsent[number]):]
                if not unsent[number]:
                    ready.modify(line, select.EPOLLIN)
            else:
                raise AssertionError(f"a connection ended before its answer: {event}")
    return [(*parsed(answer), took[number]) for number, answer in answers.items()]


def parsed(answer: bytes) -> tuple[int, dict, bytes]:
    """Status, headers and body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def is_whole(answer: bytes) -> bool:
    if b"\r\n\r\n" not in answer:
        return False
    _, headers, body = parsed(answer)
    return len(body) >= int(headers.get("content-length", 0))


def test_five_hundred_at_once_of_which_twenty_are_admitted(tmp_path, flair, long):
    state = tmp_path / "state"
    budget = 512 << 20
    service = Service(state, *TINY, "--workers", "1", "--queue", "20", "--memory-budget-bytes", str(budget))
    # The service learns how fast it is, and opens all that it will keep open.
    service.submit(flair, SLOW)
    begin = service.resident(), service.handles()
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    text = request(service, flair, SLOW)

    async def probe(over: asyncio.Event) -> list[float]:
        healthy = []
        while not over.is_set():
            status, _, _, took = await ask(service, health)
            assert status == 200
            healthy.append(took)
            await asyncio.sleep(0.01)
        return healthy

    async def storm():
        over = asyncio.Event()
        probing = asyncio.create_task(probe(over))
        answers = await asyncio.to_thread(at_once, service, text, 500)
        over.set()
        return answers, await probing

    service.forget_peak()
    answers, healthy = asyncio.run(storm())
    taken = [json.loads(body)["id"] for status, _, body, _ in answers if status == 202]
    refused = [(headers, json.loads(body)) for status, headers, body, _ in answers if status != 202]
    # Those that were begun meanwhile made room for as many more.
    assert 20 <= len(taken) <= 30 and len(taken) + len(refused) == 500
    assert {problem["code"] for _, problem in refused} == {"queue_full"}
    waits = [int(headers["retry-after"]) for headers, _ in refused]
    assert min(waits) >= 1
    grown = service.peak() - begin[0]
    slow = statistics.quantiles(healthy, n=100)[98]
    told = statistics.median(took for status, _, _, took in answers if status != 202)
    print(f"\n{len(taken)} taken, {len(refused)} refused within {told * 1000:.0f} ms at the median of all 500 at once, "
          f"Retry-After {min(waits)} to {max(waits)} s; health: n = {len(healthy)}, median "
          f"{statistics.median(healthy) * 1000:.0f} ms, p99 {slow * 1000:.0f} ms, at most {max(healthy) * 1000:.0f} ms; "
          f"{grown >> 20} MB more than before, of {budget >> 20}")
    assert grown < budget

    # One that comes to a full queue is told quickly, and truly when to come again.
    right, quick = [], []
    while len(right) < (10 if long else 4):
        status, headers, body, took = asyncio.run(ask(service, text))
        if status == 202:
            taken.append(json.loads(body)["id"])
            continue
        begun, said = time.monotonic(), int(headers["retry-after"])
        quick.append(took)
        wait_until(lambda: service.metric("dawson_queue_jobs") < 20, 30)
        right.append((said, time.monotonic() - begun))
    print("Retry-After and what it was:", [(said, round(was, 2)) for said, was in right],
          f"refused within {statistics.median(quick) * 1000:.0f} ms")
    # Seconds are whole: what is over within one is said as 1.
    assert all(said <= 2 * max(was, 0.5) + 1 and math.ceil(was) <= 2 * said for said, was in right), right
    assert statistics.median(quick) < 0.1

    # Then it is over, and all is as before.
    for job in taken:
        service.call("POST", f"/v1/segmentations/{job}/cancel")
    status, answer = service.post(flair, Prefer="wait=60")
    assert status == 200 and answer["state"] == "succeeded"
    for job in (*taken, answer["id"]):
        service.call("DELETE", f"/v1/segmentations/{job}")
    assert files_below(state / "incoming") == []
    wait_until(lambda: service.handles() <= begin[1] + 2, 20)
    assert "panicked" not in service.log.read_text()
    service.stop()


def test_all_who_connect_at_once_are_let_in_without_a_second_try(tmp_path):
    service = Service(tmp_path / "state", *TINY)
    # Nobody is let in while the service stands still: the system keeps those who come, as many as it was told to.
    service.process.send_signal(signal.SIGSTOP)
    try:
        lines = [connect(service) for _ in range(500)]
    finally:
        service.process.send_signal(signal.SIGCONT)
    for line in lines:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert {line.recv(15) for line in lines} == {b"HTTP/1.1 200 OK"}
    for line in lines:
        line.close()
    service.stop()


def test_clients_that_vanish_in_the_middle_leave_nothing(tmp_path, flair, long):
    state = tmp_path / "state"
    service = Service(state, *TINY)
    service.submit(flair)
    text = request(service, flair)

    def vanish_at(part: float) -> None:
        line = connect(service)
        line.sendall(text[:int(len(text) * part)])
        if part > 0.3:
            wait_until(lambda: files_below(state / "incoming"), 10)
        vanish(line)

    def settle() -> None:
        """Threads that write are kept for ten seconds after they were needed."""
        wait_until(lambda: not any((state / "incoming").iterdir()), 10)
        if long:
            time.sleep(12)

    rounds = 300 if long else 20
    for n in range(rounds):
        vanish_at((n % 10) / 10)
    settle()
    begin = service.resident(), service.handles()
    for n in range(rounds):
        vanish_at((n % 10) / 10)
    settle()
    wait_until(lambda: service.handles() <= begin[1], 10)
    print(f"\n{rounds} vanished: {service.resident() - begin[0] >> 10:+} kB")
    assert service.resident() - begin[0] < 32 << 20
    jobs = json.loads(service.call("GET", "/v1/segmentations")[1])["jobs"]
    assert len(jobs) == 1, "only the first was ever whole"
    service.stop()


def test_connections_that_only_stay_open(tmp_path, flair, long):
    """Many more than are held at once, and (in the long form) as many held."""
    many = 10_000 if long else 500
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < many + 200:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for held in (many // 10, many + 100):
        service = Service(tmp_path / f"state-{held}", *TINY, "--max-connections", str(held), "--idle-timeout-s", "300",
                          "--header-timeout-s", "300")
        service.submit(flair)
        begin = service.resident(), service.handles()
        lines = []
        for n in range(many):
            lines.append(connect(service))
            if n % 3 == 0:
                lines[-1].sendall(b"GET /healthz HTT")
        begun = time.monotonic()
        assert service.call("GET", "/healthz", timeout=10)[0] == 200
        took = time.monotonic() - begun
        grown, handles = service.resident() - begin[0], service.handles() - begin[1]
        print(f"\n{many} connections, at most {held} held: {handles} handles, {grown / min(many, held) / 1024:.1f} kB "
              f"each, health in {took * 1000:.0f} ms")
        assert handles <= held + 5 and grown < held * (64 << 10) + (16 << 20)
        assert service.submit(flair)["state"] == "succeeded"
        for line in lines:
            line.close()
        wait_until(lambda: service.handles() <= begin[1] + 5, 30)
        service.stop()


def test_readers_who_take_their_time(tmp_path, long):
    """They are served from the disk as fast as they read, are let go when they take nothing, and hold nobody up."""
    scans = phantom(tmp_path / "large", "flair", spacing=1)
    service = Service(tmp_path / "state", *TINY, "--write-timeout-s", "3", "--idle-timeout-s", "3")
    job = service.submit(scans)
    bundle = service.call("GET", f"{job['links']['self']}/bundle.zip")[1]
    assert len(bundle) > 1 << 20
    begin = service.resident(), service.handles()
    lines = []
    for n in range(400 if long else 60):
        line = connect(service, room=4096)
        path = "bundle.zip" if n % 2 else "artifacts/probability.nii.gz"
        # One after the other on one connection: more than what lies between can hold.
        ask = f"GET {job['links']['self']}/{path} HTTP/1.1\r\nHost: {service.address}\r\n\r\n".encode()
        line.sendall(ask * 8)
        lines.append(line)
    time.sleep(1)
    grown = service.resident() - begin[0]
    print(f"\n{len(lines)} slow readers of {len(bundle) >> 10} kB: {grown >> 20} MB more")
    assert grown < len(lines) * (1 << 20) + (32 << 20)
    assert service.call("GET", "/healthz", timeout=10)[0] == 200
    assert service.call("GET", f"{job['links']['self']}/bundle.zip", timeout=30)[1] == bundle
    # Whoever takes nothing is let go.
    wait_until(lambda: service.handles() <= begin[1] + 5, 30)
    for line in lines:
        line.close()
    service.stop()


@pytest.mark.parametrize("how", ["cancel", "delete", "hang up"])
def test_who_changes_their_mind_stops_the_computing_within_a_patch(tmp_path, flair, how):
    state = tmp_path / "state"
    service = Service(state, *TINY)
    patches = "dawson_engine_batch_patches_sum"
    for _ in range(3):
        job = service.submit(flair, SLOW, wait=0)["id"]
        wait_until(lambda: service.metric(patches) > 20 and service.job(job)["state"] == "running", 30)
        begun = service.metric(patches)
        wait_until(lambda: service.metric(patches) > begun + 5, 30)
        if how == "cancel":
            status, answer = service.call("POST", f"/v1/segmentations/{job}/cancel")
            assert status == 202 and json.loads(answer)["state"] == "cancelled"
        elif how == "delete":
            assert service.call("DELETE", f"/v1/segmentations/{job}")[0] == 204
        else:
            # Who hangs up before the request was looked at is not heard; who is heard is obeyed to the end.
            erased = service.metric("dawson_jobs_erased_total")
            for wait_ms in itertools.count():
                line = connect(service)
                line.sendall(f"DELETE /v1/segmentations/{job} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                time.sleep(wait_ms / 1000)
                vanish(line)
                time.sleep(0.2)
                if service.call("GET", f"/v1/segmentations/{job}")[0] == 404:
                    break
                assert service.job(job)["state"] == "running" and wait_ms < 10
            wait_until(lambda: service.metric("dawson_jobs_erased_total") == erased + 1, 10)
        after = service.metric(patches)
        assert not (state / "jobs" / job).exists()
        time.sleep(0.5)
        # One is under way and as many wait as a job may have in the engine at once.
        assert service.metric(patches) - after <= 2
        wait_until(lambda: service.metric("dawson_jobs_running") == 0, 10)
        if how == "cancel":
            assert service.job(job)["report"] is None
            assert service.call("GET", f"/v1/segmentations/{job}/artifacts")[0] == 404
            assert service.call("POST", f"/v1/segmentations/{job}/cancel")[0] == 409
        assert files_below(state / "jobs") == [] and files_below(state / "incoming") == []
    assert service.submit(flair)["state"] == "succeeded"
    service.stop()


def test_a_deadline_that_passes_in_the_queue_is_never_run(tmp_path, flair):
    state = tmp_path / "state"
    service = Service(state, *TINY, "--workers", "1")
    before = [service.submit(flair, SLOW, wait=0)["id"] for _ in range(3)]
    late = service.submit(flair, {"deadline_s": 1}, wait=0)["id"]
    ended = service.job(late, wait=30)
    assert ended["state"] == "failed" and ended["error"]["code"] == "expired", ended
    assert ended["started_at"] is None and row(state, late)["attempt"] == 0
    assert not (state / "jobs" / late).exists() or files_below(state / "jobs" / late) == []
    assert [service.job(job, wait=60)["state"] for job in before] == ["succeeded"] * 3
    assert service.metric("dawson_job_attempts_total") == 3
    assert row(state, late)["attempt"] == 0
    service.stop()


def test_what_is_urgent_goes_first_and_a_small_study_is_not_starved(tmp_path, flair):
    service = Service(tmp_path / "state", *TINY, "--workers", "1")
    service.submit(flair, SLOW, wait=0)
    sent = [(priority, service.submit(flair, {"priority": priority}, wait=0)["id"])
            for priority in ("batch", "routine", "urgent", "batch", "routine", "urgent")]
    begun = sorted((time_of(service.job(job, wait=60)["started_at"]), priority, sent.index((priority, job)))
                   for priority, job in sent)
    assert [(priority, n) for _, priority, n in begun] == [
        ("urgent", 2), ("urgent", 5), ("routine", 1), ("routine", 4), ("batch", 0), ("batch", 3)]
    service.stop()


def test_studies_together_stay_within_the_memory(tmp_path, flair):
    service = Service(tmp_path / "large", *TINY, "--memory-budget-bytes", str(1 << 20))

    def needs(scan: pathlib.Path) -> int:
        status, answer = service.post({"flair": scan})
        assert status == 413 and answer["code"] == "study_too_large", answer
        return int(answer["detail"].split("about ")[1].split(" MB")[0])

    needed = needs(flair["flair"])
    # What is known from the header alone: 64-bit numbers are held twice while they are decoded.
    wide = {}
    for code, bits in ((4, 16), (64, 64)):
        scan = tmp_path / f"{bits}.nii"
        scan.write_bytes(seeds.header(shape=(256, 256, 64), code=code, bits=bits))
        wide[bits] = needs(scan)
    assert wide[64] - wide[16] == 8 * 256 * 256 * 64 >> 20, wide
    service.stop()
    # Room for one and a half: never two at once, although four workers are free.
    service = Service(tmp_path / "two", *TINY, "--workers", "4", "--memory-budget-bytes", str((needed + 1) * 3 << 19))
    jobs = [service.submit(flair, {"overlap": 0.8}, wait=0)["id"] for _ in range(12)]
    ended = [service.job(job, wait=60) for job in jobs]
    spans = sorted((time_of(job["started_at"]), time_of(job["ended_at"])) for job in ended)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])), spans
    service.stop()


class Receiver:
    """Whoever is told of a job's end. It believes only what is signed."""

    def __init__(self, port: int, secret: str, answers: tuple[int, ...] = ()):
        from standardwebhooks import Webhook
        heard, answers = [], list(answers)
        self.heard = heard

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                event = Webhook(secret).verify(body, dict(self.headers))
                heard.append((self.headers["webhook-id"], self.path, event))
                self.send_response(answers.pop(0) if answers else 204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_the_end_of_a_job_is_told_although_everybody_was_down_in_between(tmp_path, flair, long):
    pytest.importorskip("standardwebhooks")
    port, state = free_port(), tmp_path / "state"
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    flags = (*TINY, "--callback-hosts", f"127.0.0.1:{port}")
    env = {"DAWSON_CALLBACK_SECRET": secret}
    service = Service(state, *flags, env=env)
    for address in ("http://127.0.0.1/", f"http://127.0.0.2:{port}/", "http://169.254.169.254/latest", "file:///etc/passwd",
                    f"http://user@127.0.0.1:{port}/", f"http://127.0.0.1:{port}@evil.example/"):
        status, answer = service.post(flair, {"callback_url": address})
        assert (status, answer["code"]) == (422, "invalid_options"), (address, answer)
    hook = f"http://127.0.0.1:{port}/hooks/dawson?for=x"
    good = service.submit(flair, {"callback_url": hook, "label": "one"})
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(flair["flair"].read_bytes()[:-1000])
    bad = service.submit({"flair": broken}, {"callback_url": hook})
    assert bad["state"] == "failed"
    # Nobody hears it; then the service dies as well.
    wait_until(lambda: service.metric("dawson_callbacks_total") >= 2, 20)
    service.process.send_signal(signal.SIGKILL)
    service.process.wait()
    receiver = Receiver(port, secret, answers=(500,) if long else ())
    service = Service(state, *flags, env=env)
    # In the long form the first answer is 500, so that one is told again, under the same id.
    wait_until(lambda: len(receiver.heard) >= (3 if long else 2), 60)
    events = {}
    for name, path, event in receiver.heard:
        assert path == "/hooks/dawson?for=x" and events.setdefault(name, event) == event
    assert {(e["type"], e["data"]["id"], e["data"]["label"]) for e in events.values()} == {
        ("segmentation.succeeded", good["id"], "one"), ("segmentation.failed", bad["id"], None)}
    assert [e["data"]["error"]["code"] for e in events.values() if e["data"]["error"]] == ["damaged_image"]
    told = len(receiver.heard)
    time.sleep(6)
    assert len(receiver.heard) == told, "who was told is not told again"
    assert secret.removeprefix("whsec_") not in (state / "log").read_text()
    receiver.stop()
    service.stop()
