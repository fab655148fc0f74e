"""What the tests of the running service need: the service, databases, buckets, faults; all of them real."""
import mmap
import os
import pathlib
import pwd
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from service import PROGRAM, ROOT, Service, demo  # noqa: E402, F401  (the tests take them from here)

TINY = ("--models", str(ROOT / "tests/fixtures/models"), "--model", "tiny-lesion", "--device", "cpu", "--threads", "1",
        "--min-free-bytes", "0")

# A job of hundreds of patches that takes a second or more.
SLOW = {"overlap": 0.9, "flips": True}

needs_program = pytest.mark.skipif(not PROGRAM, reason="DAWSON_BIN names no program")


def phantom(folder: pathlib.Path, *contrasts: str, spacing: float = 3, seed: int = 5) -> dict[str, pathlib.Path]:
    """Scans of a synthetic head, by contrast."""
    subprocess.run([PROGRAM, "phantom", "--seed", str(seed), "--out", str(folder), "--spacing", ",".join([str(spacing)] * 3),
                    "--contrasts", ",".join(contrasts)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {c: folder / f"{c}.nii.gz" for c in contrasts}


class Postgres:
    """A PostgreSQL server of the test's own, at a port of this machine."""

    def __init__(self):
        versions = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not versions:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        self.bin = versions[-1].parent
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dawson-postgres-"))
        self.owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self.owner:
            who = pwd.getpwnam("postgres")
            os.chown(self.folder, who.pw_uid, who.pw_gid)
        self.port = free_port()
        self.run("initdb", "-A", "trust", "-U", "dawson", "--no-sync", "-D", self.folder / "data")
        self.process = subprocess.Popen(
            [*self.owner, self.bin / "postgres", "-D", self.folder / "data", "-k", self.folder, "-p", str(self.port),
             "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
        wait_until(lambda: subprocess.run([self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
                                          ).returncode == 0, 30)

    def run(self, program: str, *words):
        return subprocess.run([*self.owner, self.bin / program, *words], check=True, capture_output=True, text=True, cwd="/")

    def database(self, name: str) -> str:
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "dawson", name)
        return f"postgres://dawson@127.0.0.1:{self.port}/{name}"

    def ask(self, name: str, sql: str) -> list[list[str]]:
        done = self.run("psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "dawson", "-At", "-F", "\t", "-c", sql, name)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def stop(self):
        self.run("pg_ctl", "-D", self.folder / "data", "stop", "-m", "immediate")
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


class Bucket:
    """An S3-compatible server (rclone) on a folder."""

    def __init__(self, folder: pathlib.Path):
        program = pathlib.Path(sys.executable).with_name("rclone")
        if not program.exists():
            pytest.skip("rclone is not installed (tests/reference/requirements.txt brings it)")
        (folder / "scans").mkdir(parents=True)
        self.folder, self.port = folder, free_port()
        self.process = subprocess.Popen(
            [program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", "dawson,not-so-secret", folder],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", self.port)), 30)
        self.address = "s3://scans/service"
        self.env = {"AWS_ACCESS_KEY_ID": "dawson", "AWS_SECRET_ACCESS_KEY": "not-so-secret", "AWS_REGION": "x",
                    "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}", "AWS_ALLOW_HTTP": "true"}

    def objects(self) -> list[str]:
        top = self.folder / "scans"
        return sorted(str(p.relative_to(top)) for p in top.rglob("*") if p.is_file())

    def stop(self):
        self.process.terminate()
        self.process.wait()


def preloaded(name: str, folder: pathlib.Path) -> str:
    """A library of this folder's C code, built."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{name}.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, ROOT / f"tests/holds/{name}.c", "-ldl"], check=True)
    return str(library)


class Faults:
    """Operations on files that fail when they are told to; see faults.c."""

    def __init__(self, folder: pathlib.Path, below: pathlib.Path):
        library = preloaded("faults", folder)
        control = folder / "control"
        control.write_bytes(bytes(32))
        with control.open("r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 32)
        self.env = {"LD_PRELOAD": library, "FAULTS_CONTROL": str(control), "FAULTS_BELOW": str(below)}

    @property
    def count(self) -> int:
        return struct.unpack_from("q", self.mapped, 0)[0]

    def fail(self, after: int, how: int, times: int = 1) -> None:
        """The operation that comes after so many others fails with an errno, or kills (how = -1)."""
        begin = self.count + after + 1
        struct.pack_into("qqq", self.mapped, 8, 0, begin + times, how)
        struct.pack_into("q", self.mapped, 8, begin)

    def heal(self) -> None:
        struct.pack_into("q", self.mapped, 8, 0)

    @property
    def happened(self) -> bool:
        begin = struct.unpack_from("q", self.mapped, 8)[0]
        return bool(begin) and self.count >= begin


class Proxy:
    """A way to a server that breaks after so many messages: the client's, or the server's answers to it (what an
    answer is about has happened then, and the client does not know). It can also hold back a message of the client."""

    def __init__(self, port: int, loses: str = "messages"):
        self.target, self.loses = port, loses
        self.left: int | None = None
        self.broke = 0
        self.count = 0
        self.stalls: list[tuple[re.Pattern[bytes], float]] = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.carry, args=(client, server, self.loses == "messages"), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, self.loses == "answers"), daemon=True).start()

    def carry(self, source, sink, counted):
        try:
            while piece := source.recv(65536):
                if counted and self.breaks():
                    break
                time.sleep(self.stall_of(piece))
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stall(self, begins: bytes, seconds: float) -> None:
        """The first message that begins so is held back for a while."""
        self.stalls.append((re.compile(begins), seconds))

    def stall_of(self, piece: bytes) -> float:
        with self.lock:
            for n, (begins, seconds) in enumerate(self.stalls):
                if begins.match(piece):
                    del self.stalls[n]
                    return seconds
        return 0.0

    def breaks(self) -> bool:
        with self.lock:
            self.count += 1
            if self.left is None:
                return False
            self.left -= 1
            if self.left > 0:
                return False
            self.left, self.broke = None, self.broke + 1
            return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def wait_until(holds, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
