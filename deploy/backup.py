#!/usr/bin/env python3
"""Copies the state folder of a Dawson that may be running, so that another can start from the copy.

    python3 deploy/backup.py /var/lib/dawson /backup/dawson-monday

Database and files cannot be copied in one moment, and the service removes a job's scans when the job ends.
So the database is copied first (SQLite's own online backup), then the files that its rows speak of; if one
is gone by then, its job has ended or was erased meanwhile, and all is copied once more from a newer
database. The copy is done when every file that its rows speak of is there with its size and SHA-256. Files
never change once they have their name, so what an earlier round copied need not be read again.

To restore: stop the service, put the copy in the place of the state folder, give it to the service's user,
start. Only the standard library is needed. PostgreSQL and buckets have tools of their own: see
docs/operation.md.
"""
import hashlib
import json
import os
import pathlib
import shutil
import sqlite3
import sys

DATABASE = "dawson.sqlite"
MOST_ROUNDS = 20


def copy_database(state: pathlib.Path, copy: pathlib.Path) -> None:
    source = sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True, timeout=30)
    target = sqlite3.connect(copy / DATABASE)
    try:
        source.backup(target)
        # A copy on a medium that cannot share memory must open too.
        target.execute("PRAGMA journal_mode = DELETE")
    finally:
        target.close()
        source.close()


def spoken_of(copy: pathlib.Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of the files that the rows of the copy need, by their place in the state folder."""
    database = sqlite3.connect(copy / DATABASE)
    files = {}
    for job, inputs in database.execute("SELECT id, inputs FROM jobs WHERE state IN ('queued', 'running')"):
        for file in json.loads(inputs):
            files[f"jobs/{job}/inputs/{file['name']}"] = (file["bytes"], file["sha256"])
    results = """SELECT job, attempt, name, bytes, sha256 FROM artifacts JOIN jobs ON jobs.id = artifacts.job
                 WHERE state = 'succeeded'"""
    for job, attempt, name, size, sha256 in database.execute(results):
        files[f"jobs/{job}/results-{attempt}/{name}"] = (size, sha256)
    database.close()
    return files


def copy_file(source: pathlib.Path, target: pathlib.Path, size: int, sha256: str) -> bool:
    """Whether the file is in the copy now, whole."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            shutil.copyfile(source, part)
        except FileNotFoundError:
            return False
        with part.open("rb") as file:
            os.fsync(file.fileno())
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if (part.stat().st_size, found) != (size, sha256):
            sys.exit(f"{source} is not what its row says: {found}, {part.stat().st_size} bytes")
        part.rename(target)
    return True


def backup(state: pathlib.Path, copy: pathlib.Path) -> int:
    """Makes the copy and gives the number of its files."""
    unfinished = copy.with_name(copy.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    for _ in range(MOST_ROUNDS):
        (unfinished / DATABASE).unlink(missing_ok=True)
        copy_database(state, unfinished)
        files = spoken_of(unfinished)
        if all([copy_file(state / name, unfinished / name, *what) for name, what in files.items()]):
            break
    else:
        sys.exit(f"files were still missing after {MOST_ROUNDS} rounds: is {state} in use by more than Dawson?")
    for path in sorted(unfinished.glob("jobs/**/*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(unfinished)) not in files:
            path.unlink()  # of a job that has gone on since an earlier round
    os.sync()
    unfinished.rename(copy)
    return len(files)


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    state, copy = map(pathlib.Path, sys.argv[1:])
    if copy.exists():
        print(f"{copy} is there already", file=sys.stderr)
        return 1
    print(f"{copy}: the database and {backup(state, copy)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
