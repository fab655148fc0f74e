#!/usr/bin/env python3
"""What a service needs for a number of studies at once: memory, time, disk.

    python3 tools/sizing.py target/release/dawson [--workers 1,2,4] [--studies 4]

Each study is a synthetic head of 182 x 218 x 182 voxels in three contrasts.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import demo


def kilobytes(pid: int, field: str) -> int:
    return int(re.search(rf"^{field}:\s+(\d+) kB$", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def measure(program: str, scans: dict, workers: int, studies: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        words = [program, "serve", "--listen", "127.0.0.1:0", "--state", folder, "--workers", str(workers), "--log", "warn"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            address = re.search(r"http://(\S+)", process.stdout.readline())[1]
            idle = kilobytes(process.pid, "VmRSS")

            def study(_: int) -> dict:
                body, kind = demo.form(scans)
                connection = http.client.HTTPConnection(address, timeout=600)
                connection.request("POST", "/v1/segmentations", body, {"Content-Type": kind, "Prefer": "wait=300"})
                return json.loads(connection.getresponse().read())

            started = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(studies) as all_at_once:
                jobs = list(all_at_once.map(study, range(studies)))
            took = time.monotonic() - started
            assert all(job["state"] == "succeeded" for job in jobs), jobs
            peak = kilobytes(process.pid, "VmHWM")
            kept = sum(p.stat().st_size for p in pathlib.Path(folder).glob("jobs/*/results-*/*"))
            process.terminate()
    device = jobs[0]["report"]["engine"]["device"]
    return (f"{workers} worker(s), {device}: {idle / 1e6:.2f} GB idle, {peak / 1e6:.2f} GB at most, "
            f"{took / studies:.1f} s a study, {kept / studies / 1e6:.1f} MB kept of each")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("program")
    words.add_argument("--workers", default="1,2,4")
    words.add_argument("--studies", type=int, default=4)
    asked = words.parse_args()
    print(f"{os.cpu_count()} cores, {asked.studies} studies at once", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([asked.program, "phantom", "--seed", "1", "--out", folder, "--contrasts", "flair,t1w,t2w"],
                       check=True, stdout=subprocess.DEVNULL)
        scans = {c: pathlib.Path(folder) / f"{c}.nii.gz" for c in ("flair", "t1w", "t2w")}
        sent = sum(p.stat().st_size for p in scans.values())
        print(f"a study is sent as {sent / 1e6:.1f} MB", flush=True)
        for workers in asked.workers.split(","):
            print(measure(asked.program, scans, int(workers), asked.studies), flush=True)


if __name__ == "__main__":
    main()
