"""Job after job: what is over leaves nothing behind, in memory, handles, rows and files."""
import os
import sqlite3
import time

from support import TINY, Service, needs_program, wait_until

pytestmark = needs_program


def pages(service: Service) -> int:
    """Memory now, once what is free was given back as far as it will be: the least of some looks."""
    looks = []
    for _ in range(6):
        looks.append(service.resident())
        time.sleep(0.25)
    return min(looks)


def test_many_small_jobs_leave_nothing(tmp_path, flair, long):
    number, warm = (2000, 300) if long else (60, 30)
    state = tmp_path / "state"
    service = Service(state, *TINY, "--results-ttl-s", "2")

    def run(count: int) -> None:
        for n in range(count):
            job = service.submit(flair, {"label": f"job {n}"})
            assert job["state"] == "succeeded", job["error"]
            assert len(service.artifact(job, "lesions.nii.gz")) > 100

    def is_gone() -> bool:
        with sqlite3.connect(state / "dawson.sqlite") as rows:
            count = sum(rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "artifacts"))
        return count == 0 and not os.listdir(state / "jobs") and not os.listdir(state / "incoming")

    run(warm)
    wait_until(is_gone, 30)
    begin, handles, threads = pages(service), service.handles(), service.metric("process_threads")
    run(number)
    wait_until(is_gone, 30)
    end = pages(service)
    print(f"\n{number} jobs after {warm}: {begin / 2 ** 20:.1f} MB, then {end / 2 ** 20:.1f} MB "
          f"({100 * (end - begin) / begin:+.2f} %), {service.handles() - handles:+d} handles")
    # The short form is over before the allocator has come to rest: what leaks goes on leaking, what rests does not.
    if not long and end - begin >= 0.1 * begin:
        run(number)
        wait_until(is_gone, 30)
        begin, end = end, pages(service)
    assert end - begin < (0.02 * begin if long else 0.1 * begin)
    # A few threads come and go with what is written.
    assert service.handles() <= handles and service.metric("process_threads") <= threads + 10
    assert (state / "dawson.sqlite").stat().st_size < 1 << 20
    assert "ERROR" not in service.log.read_text() and "panicked" not in service.log.read_text()
    service.stop()
