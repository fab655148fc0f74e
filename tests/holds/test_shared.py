"""Two services on one database and one bucket: they share the queue, and what one leaves the other ends."""

import pytest
from support import TINY, Proxy, Service, needs_program, wait_until

pytestmark = needs_program


def database_of(tmp_path) -> str:
    return tmp_path.name.replace("-", "_").lower()[:40]


@pytest.fixture
def pair(tmp_path, postgres, bucket):
    """Two services, and the name of their database."""
    name = database_of(tmp_path)
    address = postgres.database(name)
    flags = (*TINY, "--artifacts", bucket.address, "--lease-s", "3", "--workers", "1")
    env = {**bucket.env, "DAWSON_DATABASE": address}
    services = [Service(tmp_path / part, *flags, env=env) for part in ("a", "b")]
    yield services, name
    for service in services:
        if service.process.poll() is None:
            service.stop()


def test_each_job_is_run_once_by_whoever_is_free(pair, postgres, bucket, flair):
    (a, b), name = pair
    jobs = [a.submit(flair, {"label": str(n)}, wait=0) for n in range(12)]
    # Whoever is asked knows: of jobs that the other runs too, and at once when they end.
    ended = [b.job(job["id"], wait=60) for job in jobs]
    assert {job["state"] for job in ended} == {"succeeded"}, ended
    rows = postgres.ask(name, "SELECT attempt, state FROM jobs")
    assert rows == [["1", "succeeded"]] * 12
    assert a.artifact(ended[0], "lesions.nii.gz") == b.artifact(ended[-1], "lesions.nii.gz")
    assert not [o for o in bucket.objects() if "inputs" in o]
    assert a.call("DELETE", f"/v1/segmentations/{jobs[0]['id']}")[0] == 204
    assert b.call("GET", f"/v1/segmentations/{jobs[0]['id']}")[0] == 404
    assert not [o for o in bucket.objects() if jobs[0]["id"] in o]


def test_a_slow_bucket_costs_no_lease(tmp_path, postgres, bucket, flair):
    """Scans are read and results written for longer than the lease lasts and the sweeper waits."""
    name = database_of(tmp_path)
    proxy = Proxy(bucket.port)
    env = {**bucket.env, "AWS_ENDPOINT": f"http://127.0.0.1:{proxy.port}", "DAWSON_DATABASE": postgres.database(name)}
    service = Service(tmp_path / "s", *TINY, "--artifacts", bucket.address, "--lease-s", "3", env=env)
    try:
        proxy.stall(rb"GET \S*/inputs/", 7)
        proxy.stall(rb"PUT \S*/results-1/", 7)
        job = service.submit(flair, wait=0)["id"]
        ended = service.job(job, wait=60)
        assert ended["state"] == "succeeded" and not proxy.stalls, (ended, proxy.stalls)
        assert postgres.ask(name, "SELECT attempt, retries FROM jobs") == [["1", "0"]]
        assert {o.split("/")[3] for o in bucket.objects()} == {"results-1"}, bucket.objects()
    finally:
        service.stop()


def test_what_a_killed_service_ran_and_had_taken_the_other_ends(pair, postgres, bucket, flair):
    (a, b), name = pair
    jobs = [a.submit(flair, wait=0)["id"] for _ in range(16)]
    wait_until(lambda: postgres.ask(name, "SELECT count(*) FROM jobs WHERE state = 'succeeded'") > [["3"]], 30)
    a.kill()
    for job in jobs:
        assert b.job(job, wait=60)["state"] == "succeeded"
    attempts = postgres.ask(name, "SELECT count(*), max(attempt) FROM jobs")[0]
    assert attempts[0] == "16" and int(attempts[1]) <= 2
    folders = {tuple(o.split("/")[2:4]) for o in bucket.objects()}
    assert len(folders) == 16, "one attempt's results for each job"


def test_a_job_is_cancelled_by_the_service_that_does_not_run_it(pair, postgres, flair):
    (a, b), name = pair
    jobs = [a.submit(flair, wait=0)["id"] for _ in range(10)]
    for job in jobs[5:]:
        assert b.call("POST", f"/v1/segmentations/{job}/cancel")[0] in (202, 409)
    states = [a.job(job, wait=60)["state"] for job in jobs]
    assert states[:5] == ["succeeded"] * 5 and "cancelled" in states[5:]


def test_progress_is_seen_at_the_other_service(pair, flair):
    (a, b), _ = pair
    job = a.submit(flair, wait=0)["id"]
    for service in (a, b):
        status, stream = service.call("GET", f"/v1/segmentations/{job}/events")
        assert status == 200
        last = stream.decode().strip().split("\n\n")[-1]
        assert "event: end" in last and "succeeded" in last, last


def test_a_service_whose_database_is_gone_says_so_and_comes_back(tmp_path, flair):
    from support import Postgres
    server = Postgres()
    try:
        service = Service(tmp_path / "s", *TINY, env={"DAWSON_DATABASE": server.database("gone")})
        assert service.submit(flair)["state"] == "succeeded"
        server.run("pg_ctl", "-D", server.folder / "data", "stop", "-m", "immediate")
        status, answer = service.call("GET", "/readyz")
        assert status == 503 and b"does not answer" in answer
        status, answer = service.post(flair)
        assert status == 503 and answer["code"] == "storage_failed"
        assert service.call("GET", "/healthz")[0] == 200
        server.run("pg_ctl", "-D", server.folder / "data", "start", "-w", "-l", "/dev/null",
                   "-o", f"-k {server.folder} -p {server.port} -c listen_addresses=127.0.0.1")
        wait_until(lambda: service.call("GET", "/readyz")[0] == 200, 30)
        assert service.submit(flair)["state"] == "succeeded"
        service.stop()
    finally:
        server.run("pg_ctl", "-D", server.folder / "data", "stop", "-m", "immediate")


def test_a_password_is_not_shown(tmp_path):
    import subprocess
    from support import PROGRAM
    shown = subprocess.run([PROGRAM, "serve", "--print-config", "--database", "postgres://u:hunter2@h/d",
                            "--callback-secret", "whsec_hunter2"], capture_output=True, text=True, check=True)
    assert "hunter2" not in shown.stdout + shown.stderr
    refused = subprocess.run([PROGRAM, "serve", *TINY, "--state", str(tmp_path), "--callback-hosts", "x",
                              "--callback-secret", "whsec_hunter2"], capture_output=True, text=True)
    assert refused.returncode != 0 and "hunter2" not in refused.stdout + refused.stderr
