"""Every operation fails once, in turn; the disk fills up; the process dies at any of them. Nothing that was
acknowledged is lost, nothing half-written is seen, and nobody has to lend a hand."""
import concurrent.futures
import contextlib
import errno
import hashlib
import itertools
import json
import os
import pathlib
import random
import sqlite3
import subprocess
import time

import pytest
from support import TINY, Faults, Proxy, Service, needs_program, preloaded, wait_until

pytestmark = needs_program


def all_is_well(service: Service, state: pathlib.Path, jobs: list[str]) -> None:
    """Every job has ended once, with whole results and without its scans; nothing else lies about."""
    for job in jobs:
        ended = service.job(job, wait=60)
        assert ended["state"] == "succeeded", ended["error"]
        listed = json.loads(service.call("GET", ended["links"]["artifacts"])[1])["artifacts"]
        assert len(listed) == 6
        for artifact in listed:
            assert hashlib.sha256(service.artifact(ended, artifact["name"])).hexdigest() == artifact["sha256"]
    wait_until(lambda: not any((state / "jobs" / job / "inputs").exists() for job in jobs), 10)
    for job in jobs:
        assert len(list((state / "jobs" / job).iterdir())) == 1, "one attempt's results"
        assert not list((state / "jobs" / job).rglob("*.tmp"))


def survives(service: Service, state: pathlib.Path) -> None:
    assert service.process.poll() is None, service.log.read_text()[-3000:]
    assert "panicked" not in service.log.read_text()


@pytest.mark.parametrize("how", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_each_operation_on_files_fails_once(tmp_path, flair, long, how):
    state = tmp_path / "state"
    faults = Faults(tmp_path / "faults", state)
    service = Service(state, *TINY, "--lease-s", "1", env=faults.env)
    begun = faults.count
    assert service.submit(flair)["state"] == "succeeded"
    time.sleep(0.2)
    operations = faults.count - begun
    assert operations > 20
    acknowledged, refused, broken = [], 0, []
    # Every one in the long form; a stride that meets all kinds of them in the short one.
    for n in range(0, operations + 5, 1 if long else 3):
        faults.fail(after=n, how=how)
        status, answer = service.post(flair, Idempotency_Key=f"{how}-{n}")
        survives(service, state)
        if status == 202:
            acknowledged.append((n, answer["id"]))
        else:
            assert status == 503 and answer["code"] == "storage_failed", answer
            refused += 1
            faults.heal()
            # The same request again: nothing of the refused one is in its way.
            status, answer = service.post(flair, Idempotency_Key=f"{how}-{n}")
            assert status == 202, answer
            acknowledged.append((n, answer["id"]))
        broken.append(faults.happened)
        ended = service.job(answer["id"], wait=60)
        assert ended["state"] == "succeeded", (n, ended["error"])
    faults.heal()
    assert refused > 3 and len(acknowledged) > refused
    all_is_well(service, state, [job for _, job in acknowledged])
    assert service.call("GET", "/readyz")[0] == 200
    service.stop()
    rows = sqlite3.connect(state / "dawson.sqlite").execute("PRAGMA integrity_check").fetchall()
    assert rows == [("ok",)]


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path, flair):
    state = tmp_path / "state"
    faults = Faults(tmp_path / "faults", state)
    service = Service(state, *TINY, "--lease-s", "1", "--retries", "20", env=faults.env)
    jobs = [service.submit(flair, wait=0)["id"] for _ in range(4)]
    faults.fail(after=3, how=errno.ENOSPC, times=10**9)
    status, answer = service.post(flair)
    assert status == 503 and answer["code"] == "storage_failed"
    time.sleep(3)
    survives(service, state)
    assert service.call("GET", "/healthz")[0] == 200
    faults.heal()
    all_is_well(service, state, jobs)
    assert service.submit(flair)["state"] == "succeeded"
    service.stop()


def test_memory_that_does_not_suffice_makes_batches_smaller_and_room_and_then_one_error(tmp_path, flair):
    many = {"voting": "full", "overlap": 0.9}

    def counted(service: Service) -> dict[str, float]:
        return {name: service.metric(f"dawson_engine_{name}_total") for name in ("out_of_memory", "rebuilds")}

    plain = Service(tmp_path / "plain", *TINY, "--batch", "64")
    asked = plain.artifact(plain.submit(flair, many), "lesions.nii.gz")
    assert counted(plain) == {"out_of_memory": 0, "rebuilds": 0}
    plain.stop()

    # The engine has room for one patch of 32 or of 64 voxels a side, and for none of 96.
    env = {"LD_PRELOAD": preloaded("memory", tmp_path), "MEMORY_MOST": str(3 << 19)}
    service = Service(tmp_path / "state", *TINY, "--batch", "64", "--retries", "0", env=env)
    halved = service.submit(flair, many)
    assert halved["state"] == "succeeded" and service.artifact(halved, "lesions.nii.gz") == asked
    first = counted(service)
    assert first["out_of_memory"] > 0 and first["rebuilds"] == 0
    assert service.submit(flair, many)["state"] == "succeeded"
    assert counted(service) == first, "what did not fit is not tried again"

    alone = service.submit(flair, {**many, "patch": [64, 64, 64], "overlap": 0})
    assert alone["state"] == "succeeded" and counted(service)["rebuilds"] == 1
    failed = service.submit(flair, {**many, "patch": [96, 96, 96], "overlap": 0})
    assert failed["state"] == "failed" and failed["error"]["code"] == "out_of_memory", failed
    assert service.artifact(service.submit(flair, many), "lesions.nii.gz") == asked
    service.stop()


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str):
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_what_was_opened_while_the_disk_was_full_writes_again(tmp_path, flair):
    """Requests at once make the service open its database anew, which SQLite then does for reading only."""
    state = tmp_path / "state"
    faults = Faults(tmp_path / "faults", state)
    service = Service(state, *TINY, env=faults.env)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        faults.fail(after=0, how=errno.ENOSPC, times=10**9)
        full = [status for status, _ in pool.map(lambda _: service.post(flair), range(48))]
        faults.heal()
        again = [service.post(flair)[0] for _ in range(4)] + [a[0] for a in pool.map(lambda _: service.post(flair),
                                                                                     range(16))]
    assert set(full) == {503} and set(again) == {202}
    service.stop()


def test_a_real_disk_that_fills_up_is_refused_before_and_recovers_by_itself(tmp_path, flair):
    """Results are kept until the disk is nearly full; then new work is refused, what was taken ends, and what is
    erased or too old makes room."""
    disk = tmp_path / "disk"
    with small_disk(disk, "24m"):
        flags = [word for word in TINY if word not in ("--min-free-bytes", "0")]
        service = Service(disk / "state", *flags, "--min-free-bytes", str(4 << 20), "--results-ttl-s", "15")
        taken, refused = [], None
        for _ in range(400):
            status, answer = service.post(flair)
            if status == 503:
                refused = answer
                break
            assert status == 202, answer
            taken.append(answer["id"])
            service.job(answer["id"], wait=30)
        assert refused and refused["code"] == "storage_failed" and "free" in refused["detail"], refused
        status, ready = service.call("GET", "/readyz")
        assert status == 503 and b'"disk"' in ready
        # What was taken has ended or is gone by its time, and by then there is room again.
        wait_until(lambda: service.call("GET", "/readyz")[0] == 200, 60)
        # It is ready by a hair's breadth at first: less than what a study brings.
        wait_until(lambda: service.post(flair)[0] == 202, 60)
        assert service.submit(flair)["state"] == "succeeded"
        survives(service, disk / "state")
        service.stop()


def kill_and_check(state, flags, env, flair, moment, count=10, inspect=None):
    """Ten jobs; the process dies in between; the next one ends what was acknowledged, each once."""
    service = Service(state, *flags, env=env)
    acknowledged = {}
    try:
        moment(service)
        for n in range(count):
            status, answer = service.post(flair, Idempotency_Key=f"job-{n}")
            assert status == 202, answer
            acknowledged[n] = answer["id"]
        for job in acknowledged.values():
            service.job(job, wait=30)
    except (OSError, ValueError, http_error()):
        pass
    service.process.kill()
    service.process.wait()
    return acknowledged


def http_error():
    import http.client
    return http.client.HTTPException


def check_after(service, state, flair, acknowledged, folders=True):
    again = {}
    for n in acknowledged:
        status, answer = service.post(flair, Idempotency_Key=f"job-{n}")
        assert status in (200, 202) and answer["id"] == acknowledged[n], "an idempotent resubmission gives the same job"
        again[n] = answer["id"]
    if folders:
        all_is_well(service, state, list(acknowledged.values()))
    else:
        for job in acknowledged.values():
            assert service.job(job, wait=60)["state"] == "succeeded"


def test_killed_at_an_operation_on_a_file(tmp_path, flair, long):
    """The process dies at exactly the n-th operation, for n spread over a run of jobs."""
    state = tmp_path / "measure"
    faults = Faults(tmp_path / "faults", state)
    service = Service(state, *TINY, env=faults.env)
    begun = faults.count
    for n in range(3):
        service.submit(flair)
    operations = faults.count - begun
    service.stop()
    points = range(operations) if long else random.Random(1).sample(range(operations), 10)
    for n in points:
        state = tmp_path / f"state-{n}"
        faults = Faults(tmp_path / f"faults-{n}", state)
        acknowledged = kill_and_check(state, TINY, faults.env, flair, lambda _: faults.fail(after=n, how=-1), count=3)
        survivor = Service(state, *TINY)
        check_after(survivor, state, flair, acknowledged)
        survivor.stop()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_killed_at_a_random_moment(tmp_path, flair, long, kind, postgres):
    """Runs of ten jobs, killed after a random time: 1,000 in the long form over both stores."""
    chance, points, taken = random.Random(7), 500 if long else 8, 0
    for n in range(points):
        state = tmp_path / f"state-{n}"
        env = {"DAWSON_DATABASE": postgres.database(f"kill{os.getpid()}x{n}")} if kind == "postgres" else None
        # Long enough that a busy machine does not make a crash of a slow heartbeat: the third would end the job.
        flags = (*TINY, "--lease-s", "3")
        delay = chance.uniform(0, 2.0)

        def moment(service):
            import threading
            threading.Timer(delay, service.process.kill).start()

        acknowledged = kill_and_check(state, flags, env, flair, moment)
        survivor = Service(state, *flags, env=env)
        check_after(survivor, state, flair, acknowledged)
        survivor.stop()
        subprocess.run(["rm", "-rf", state], check=True)
        taken += len(acknowledged)
        if (n + 1) % 50 == 0 or n + 1 == points:
            print(f"\n{kind}: killed {n + 1} times, {taken} acknowledged jobs ended once each", flush=True)


@pytest.mark.parametrize("loses", ["messages", "answers"])
def test_the_connection_to_the_database_breaks_at_each_message(tmp_path, flair, postgres, loses):
    name = f"breaks_{loses}"
    postgres.database(name)
    proxy = Proxy(postgres.port, loses)
    service = Service(tmp_path / "state", *TINY, "--lease-s", "2",
                      env={"DAWSON_DATABASE": f"postgres://dawson@127.0.0.1:{proxy.port}/{name}"})
    begun = proxy.count
    service.submit(flair)
    messages = proxy.count - begun
    assert messages > 10
    jobs = []
    for n in range(1, messages + 2):
        proxy.left = n
        for attempt in itertools.count():
            status, answer = service.post(flair, Idempotency_Key=f"key-{n}")
            if status in (200, 202):
                break
            assert status == 503 and answer["code"] == "storage_failed" and attempt < 20, answer
            time.sleep(0.1)
        # To ask may fail as well while connections are made anew.
        for attempt in itertools.count():
            status, ended = service.call("GET", f"/v1/segmentations/{answer['id']}", Prefer="wait=30")
            if status == 200 and json.loads(ended)["state"] == "succeeded":
                break
            assert attempt < 40, ended
            time.sleep(0.5)
        jobs.append(answer["id"])
    proxy.left = None
    assert proxy.broke > 3
    rows = postgres.ask(name, "SELECT state, count(*) FROM jobs GROUP BY state")
    assert rows == [["succeeded", str(len(jobs) + 1)]]
    service.stop()


def test_a_study_whose_acknowledgement_was_lost_is_still_there_to_be_run(tmp_path, flair, postgres):
    """The row was written and the answer to that was lost: the client is told of a failure, asks again, and gets the
    job of its first request, scans and all. Nothing is run meanwhile, so that nothing was read before it could go."""
    postgres.database("lost")
    proxy = Proxy(postgres.port, "answers")
    service = Service(tmp_path / "state", *TINY, "--workers", "1",
                      env={"DAWSON_DATABASE": f"postgres://dawson@127.0.0.1:{proxy.port}/lost"})
    many_looks = {"voting": "full", "patch": [32, 32, 32], "overlap": 0.9, "flips": True, "priority": "urgent"}
    busy = [service.submit(flair, many_looks, wait=0)["id"] for _ in range(6)]
    begun = proxy.count
    jobs = [service.submit(flair, wait=0)["id"]]
    answers = proxy.count - begun + 3
    refused = 0
    for n in range(1, answers):
        proxy.left = n
        for attempt in itertools.count():
            status, answer = service.post(flair, Idempotency_Key=f"key-{n}")
            if status in (200, 202):
                break
            refused += 1
            assert status == 503 and answer["code"] == "storage_failed" and attempt < 20, answer
            time.sleep(0.05)
        jobs.append(answer["id"])
    proxy.left = None
    assert refused > 1 and service.job(busy[-1])["state"] in ("queued", "running"), "the worker was free too early"
    for job in jobs:
        ended = service.job(job, wait=120)
        assert ended["state"] == "succeeded", ended["error"]
    service.stop()
