#!/usr/bin/env python3
"""The main job on real bytes: a study through the HTTP service, then through the command line.

    python3 tools/demo.py target/release/dawson [FOLDER]

FOLDER holds flair.nii.gz and any of t1w, t2w, pdw, t1gd; without one a phantom is made. Uses the
standard library alone, so that it shows what any client has to do.
"""
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import uuid

CONTRASTS = ("flair", "t1w", "t2w", "pdw", "t1gd")


def study(program: str, folder: str | None, out: pathlib.Path) -> dict[str, pathlib.Path]:
    """The scans of the study, by contrast."""
    if folder is None:
        place = out / "phantom"
        subprocess.run([program, "phantom", "--seed", "1", "--out", str(place), "--overwrite",
                        "--contrasts", "flair,t1w,t2w"], check=True)
    else:
        place = pathlib.Path(folder)
    scans = {c: place / f"{c}.nii.gz" for c in CONTRASTS if (place / f"{c}.nii.gz").exists()}
    if "flair" not in scans:
        sys.exit(f"{place} holds no flair.nii.gz")
    return scans


def start(program: str, state: str, log: pathlib.Path) -> tuple[subprocess.Popen, str]:
    """Starts the service on a free port, its log in a file, and returns it with its address."""
    with log.open("w") as lines:
        server = subprocess.Popen([program, "serve", "--listen", "127.0.0.1:0", "--state", state, "--log", "warn"],
                                  stdout=subprocess.PIPE, stderr=lines, text=True)
    line = server.stdout.readline()
    address = re.search(r"http://(\S+)", line)
    if address is None:
        server.wait()
        sys.exit(f"the service did not start: `{program} doctor` says why\n{log.read_text()}")
    return server, address.group(1)


def form(scans: dict[str, pathlib.Path]) -> tuple[bytes, str]:
    """A multipart/form-data body and its content type."""
    boundary = uuid.uuid4().hex
    body = b""
    for contrast, path in scans.items():
        body += (f"--{boundary}\r\nContent-Disposition: form-data; name=\"{contrast}\"; "
                 f"filename=\"{contrast}.nii.gz\"\r\nContent-Type: application/gzip\r\n\r\n").encode()
        body += path.read_bytes() + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def call(address: str, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> bytes:
    connection = http.client.HTTPConnection(address)
    connection.request(method, path, body, {"Content-Type": kind} if kind else {})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 400:
        problem = json.loads(content)
        sys.exit(f"{problem['title']}: {problem['detail']}")
    return content


def follow(address: str, path: str) -> None:
    """Draws a progress bar from server-sent events until the job ends."""
    connection = http.client.HTTPConnection(address)
    connection.request("GET", path)
    event = "message"
    for line in connection.getresponse():
        name, _, value = line.decode().rstrip("\r\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            data = json.loads(value)
            if event == "progress":
                filled = round(30 * data["fraction"])
                bar = "#" * filled + "." * (30 - filled)
                end = "\r" if sys.stdout.isatty() else "\n"
                print(f"  [{bar}] {data['stage']:10}", end=end, flush=True)
            elif event == "state":
                print(f"  state: {data['state']}", flush=True)
            elif event == "end":
                print(f"  end: {data['state']}".ljust(60), flush=True)
                return


def table(report: dict) -> None:
    lesions = report["lesions"]
    print(f"\n{lesions['count']} lesions, {lesions['volume_ml']:.2f} ml together")
    print("  id        ml  extent mm  mean p  centroid x, y, z (RAS mm)")
    for lesion in lesions["items"]:
        centre = ", ".join(f"{c:+.1f}" for c in lesion["centroid_mm"])
        print(f"{lesion['id']:4} {lesion['volume_ml']:9.3f} {lesion['largest_extent_mm']:10.1f} "
              f"{lesion['mean_probability']:7.2f}  {centre}")
    for warning in report["warnings"]:
        print(f"warning {warning['code']}: {warning['detail']}")
    seconds = report["timings_s"]
    print(f"{report['model']['name']} {report['model']['version']} in {report['engine']['precision']} on "
          f"{report['engine']['device']}: {seconds['total']:.1f} s, {seconds['network']:.1f} s of it in the network")
    print(report["notice"])


def main() -> None:
    program, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 and sys.argv[2] else None
    out = pathlib.Path("out/demo")
    out.mkdir(parents=True, exist_ok=True)
    scans = study(program, folder, out)
    with tempfile.TemporaryDirectory() as state:
        server, address = start(program, state, out / "service.log")
        try:
            print(f"\nthe service listens at http://{address}; its description is at /docs")
            body, kind = form(scans)
            job = json.loads(call(address, "POST", "/v1/segmentations", body, kind))
            print(f"submitted {', '.join(scans)} as job {job['id']}")
            follow(address, job["links"]["events"])
            job = json.loads(call(address, "GET", job["links"]["self"]))
            if job["state"] != "succeeded":
                sys.exit(f"the job {job['state']}: {job['error']['detail']}")
            table(job["report"])
            for artifact in json.loads(call(address, "GET", job["links"]["artifacts"]))["artifacts"]:
                (out / artifact["name"]).write_bytes(call(address, "GET", artifact["href"]))
        finally:
            server.terminate()
            server.wait()
    print("\nnow the same by the command line")
    by_cli = out / "command-line"
    shutil.rmtree(by_cli, ignore_errors=True)
    flags = [word for contrast, path in scans.items() for word in (f"--{contrast}", str(path))]
    subprocess.run([program, "segment", *flags, "--out", str(by_cli)], check=True, stdout=subprocess.DEVNULL)
    same = (out / "lesions.nii.gz").read_bytes() == (by_cli / "lesions.nii.gz").read_bytes()
    if not same:
        sys.exit("the masks of service and command line differ")
    print("the masks of service and command line are the same, byte for byte")
    truth = next(iter(scans.values())).parent / "lesions.nii.gz"
    if truth.exists():
        print()
        subprocess.run([program, "evaluate", "--prediction", str(out / "lesions.nii.gz"), "--truth", str(truth),
                        "--probability", str(out / "probability.nii.gz")], check=True)
    print(f"\nmask:    {out / 'lesions.nii.gz'}\npicture: {out / 'preview.png'}\nreport:  {out / 'report.json'}")


if __name__ == "__main__":
    main()
