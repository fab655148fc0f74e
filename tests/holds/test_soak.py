"""Job after job: what is over leaves nothing behind, in memory, handles, rows and files."""
import os
import sqlite3
import statistics
import time

from support import TINY, Service, needs_program, wait_until

pytestmark = needs_program

# Allocators keep what is freed for a while, here now a third of all memory and now none; told so, they give it back.
AT_ONCE = {"MIMALLOC_PURGE_DELAY": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
BLOCKS = 10
ROUNDS = 3


def pages(service: Service) -> int:
    """Memory now, once what is free was given back as far as it will be: the least of some looks."""
    looks = []
    for _ in range(6):
        looks.append(service.resident())
        time.sleep(0.25)
    return min(looks)


def test_many_small_jobs_leave_nothing(tmp_path, flair, long):
    number, warm = (2000, 300) if long else (120, 60)
    state = tmp_path / "state"
    service = Service(state, *TINY, "--results-ttl-s", "2", env=AT_ONCE)

    def run(count: int) -> None:
        for n in range(count):
            job = service.submit(flair, {"label": f"job {n}"})
            assert job["state"] == "succeeded", job["error"]
            assert len(service.artifact(job, "lesions.nii.gz")) > 100

    def is_gone() -> bool:
        with sqlite3.connect(state / "dawson.sqlite") as rows:
            count = sum(rows.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "artifacts"))
        return count == 0 and not os.listdir(state / "jobs") and not os.listdir(state / "incoming")

    def block() -> int:
        run(number // BLOCKS)
        wait_until(is_gone, 30)
        return pages(service)

    run(warm)
    wait_until(is_gone, 30)
    handles, threads = service.handles(), service.metric("process_threads")

    def growth() -> float:
        looks = [block() for _ in range(BLOCKS)]
        # Between the middles of the halves lies half of the jobs.
        begin, end = (statistics.median(half) for half in (looks[:BLOCKS // 2], looks[BLOCKS // 2:]))
        grown = 2 * (end - begin) / begin
        print(f"\n{number} jobs after {warm}: {grown:+.2%}; MB at rest: {' '.join(f'{look >> 20}' for look in looks)}; "
              f"{service.handles() - handles:+d} handles")
        return grown

    # A few jobs say little: only what leaks much shows in the short form. Memory at rest also wanders, by 2 MB in 20
    # looks of the long form (66 to 68); what leaks grows again when as many jobs are run once more, what wanders does not.
    bound = 0.02 if long else 0.1
    assert any(growth() < bound for _ in range(ROUNDS))
    # A few threads come and go with what is written.
    assert service.handles() <= handles and service.metric("process_threads") <= threads + 10
    assert (state / "dawson.sqlite").stat().st_size < 1 << 20
    assert "ERROR" not in service.log.read_text() and "panicked" not in service.log.read_text()
    service.stop()
