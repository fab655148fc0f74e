"""The program in $DAWSON_BIN as a running service, and the plainest of clients to it."""
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = os.environ.get("DAWSON_BIN", "")

sys.path.insert(0, str(ROOT / "tools"))
import demo  # noqa: E402  (the demo's client is the plainest one there is)


class Service:
    """A `dawson serve` process on a free port, under another program if one is named. What it logs lies in `log`."""

    def __init__(self, state: pathlib.Path, *flags: str, log: str = "warn", env: dict | None = None,
                 under: tuple[str, ...] = ()):
        state.mkdir(parents=True, exist_ok=True)
        self.log = state / "log"
        words = [*under, PROGRAM, "serve", "--listen", "127.0.0.1:0", "--state", str(state), "--log", log, *flags]
        with self.log.open("a") as kept:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=kept, text=True, cwd=ROOT,
                                            env={**os.environ, **(env or {})})
        line = self.process.stdout.readline()
        found = re.search(r"https?://(\S+)", line)
        assert found, f"did not start: {line}{self.log.read_text()[-2000:]}"
        self.address = found.group(1)

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.address, timeout=timeout)

    def call(self, method: str, path: str, body: bytes | None = None, timeout: float = 600, **headers: str):
        connection = self.connection(timeout)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, scans: dict[str, pathlib.Path], options: dict | None = None, **headers: str):
        """Status and JSON of a submission."""
        body, kind = demo.form(scans)
        if options is not None:
            boundary = kind.split("boundary=")[1]
            part = (f"--{boundary}\r\nContent-Disposition: form-data; name=\"options\"\r\n\r\n"
                    f"{json.dumps(options)}\r\n").encode()
            body = part + body
        status, answer = self.call("POST", "/v1/segmentations", body, Content_Type=kind, **headers)
        return status, json.loads(answer)

    def submit(self, scans: dict[str, pathlib.Path], options: dict | None = None, wait: int = 300,
               **headers: str) -> dict:
        """The job of a submission that must be taken, ended if it has within `wait` seconds."""
        prefer = {"Prefer": f"wait={wait}"} if wait else {}
        status, answer = self.post(scans, options, **prefer, **headers)
        assert status in (200, 202), answer
        return answer

    def job(self, job: str, wait: int = 0) -> dict:
        status, answer = self.call("GET", f"/v1/segmentations/{job}", **({"Prefer": f"wait={wait}"} if wait else {}))
        assert status == 200, answer
        return json.loads(answer)

    def artifact(self, job: dict, name: str) -> bytes:
        status, content = self.call("GET", f"{job['links']['artifacts']}/{name}")
        assert status == 200, content
        return content

    def resident(self) -> int:
        """Bytes in memory now."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024

    def peak(self) -> int:
        """The most bytes that were in memory since `forget_peak`."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) * 1024

    def forget_peak(self) -> None:
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def handles(self) -> int:
        """Open files and sockets, but for those of the database file: as many are kept as were once needed at once."""
        handles = pathlib.Path(f"/proc/{self.process.pid}/fd")
        count = 0
        for handle in handles.iterdir():
            try:
                count += "dawson.sqlite" not in os.readlink(handle)
            except FileNotFoundError:
                pass
        return count

    def metric(self, series: str) -> float:
        """The sum of a series over its labels; 0 if nothing was counted."""
        lines = self.call("GET", "/metrics")[1].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{series}(\{{| )", line))

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text()[-2000:]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
