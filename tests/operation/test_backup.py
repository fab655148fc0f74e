"""A copy of a living service is one that another can start from, and nothing that was promised is lost in it."""
import sqlite3
import subprocess
import sys
import threading

import pytest
from conftest import PROGRAM, ROOT, Service

sys.path.insert(0, str(ROOT / "deploy"))
import backup  # noqa: E402


@pytest.fixture(scope="module")
def small(program, tmp_path_factory) -> dict:
    """A head of few voxels: what is looked at here is not the network."""
    folder = tmp_path_factory.mktemp("small")
    subprocess.run([PROGRAM, "phantom", "--seed", "7", "--out", str(folder), "--spacing", "3,3,3",
                    "--contrasts", "flair"], check=True, stdout=subprocess.DEVNULL)
    return {"flair": folder / "flair.nii.gz"}


def copied(state, copy) -> None:
    ran = subprocess.run([sys.executable, str(ROOT / "deploy/backup.py"), str(state), str(copy)],
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert f"{copy}: the database and" in ran.stdout


def test_copies_of_a_service_at_work_end_every_job_that_was_acknowledged_before_them(small, tmp_path):
    state = tmp_path / "state"
    service = Service(state, "--workers", "1")
    acknowledged: list[dict] = []
    promised: dict[str, list[str]] = {}
    try:
        first = service.submit(small)
        mask = service.artifact(first, "lesions.nii.gz")
        enough = threading.Event()

        def submit() -> None:
            while not enough.is_set() and len(acknowledged) < 12:
                acknowledged.append(service.submit(small, wait=0))

        sender = threading.Thread(target=submit)
        sender.start()
        for n in range(2):  # while studies arrive, are computed, and their scans are removed
            before = [job["id"] for job in acknowledged]
            copied(state, tmp_path / f"copy-{n}")
            promised[f"copy-{n}"] = [first["id"], *before]
        enough.set()
        sender.join()
    finally:
        service.process.kill()
        service.process.wait()

    waiting = 0
    for name, jobs in promised.items():
        rows = sqlite3.connect(tmp_path / name / "dawson.sqlite").execute("SELECT state FROM jobs").fetchall()
        waiting += sum(state in ("queued", "running") for (state,) in rows)
        assert len(rows) >= len(jobs)
        restored = Service(tmp_path / name, "--workers", "2")
        try:
            assert restored.artifact(first, "lesions.nii.gz") == mask, "what had ended is served"
            for job in jobs:
                ended = restored.job(job, wait=300)
                assert ended["state"] == "succeeded", ended["error"]
                assert restored.artifact(ended, "lesions.nii.gz") == mask
        finally:
            restored.stop()
    assert waiting, "some copy must hold jobs that had not ended, else this test shows nothing"


def test_a_job_that_ends_between_database_and_files_is_copied_as_ended(small, tmp_path, monkeypatch):
    service = Service(tmp_path / "state")
    try:
        jobs: list[dict] = []
        copy_database = backup.copy_database

        def copy_and_wait(state, copy) -> None:
            if not jobs:
                jobs.append(service.submit(small, wait=0))
                copy_database(state, copy)
                assert service.job(jobs[0]["id"], wait=300)["state"] == "succeeded"
            else:
                copy_database(state, copy)

        monkeypatch.setattr(backup, "copy_database", copy_and_wait)
        backup.backup(tmp_path / "state", tmp_path / "copy")
        (state,) = sqlite3.connect(tmp_path / "copy/dawson.sqlite").execute("SELECT state FROM jobs").fetchone()
        assert state == "succeeded"
        assert {p.parent.name for p in (tmp_path / "copy/jobs").glob("*/*/*")} == {"results-1"}
    finally:
        service.stop()


def test_a_file_that_is_not_what_its_row_says_is_no_copy(small, tmp_path):
    state = tmp_path / "state"
    service = Service(state)
    try:
        job = service.submit(small)
        (mask,) = state.glob(f"jobs/{job['id']}/results-*/lesions.nii.gz")
        mask.write_bytes(mask.read_bytes()[:-1] + b"x")
        ran = subprocess.run([sys.executable, str(ROOT / "deploy/backup.py"), str(state), str(tmp_path / "copy")],
                             capture_output=True, text=True)
        assert ran.returncode != 0 and "is not what its row says" in ran.stderr
        assert not (tmp_path / "copy").exists()
    finally:
        service.stop()
