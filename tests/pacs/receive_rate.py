"""How fast images are received beside other makers' receivers, all in one run: python receive_rate.py DAWSON [IMAGES].

One association of dcmsend (dcmtk) on loopback, uncompressed images of 256 x 256 voxels, each receiver three times, in
turn; the middle one counts. dcmtk's and pynetdicom's receivers write files too, but do not sync them to the disk.
"""
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import pydicom
from pydicom.uid import ExplicitVRLittleEndian

PYNETDICOM = """
import sys
from pynetdicom import AE, evt, AllStoragePresentationContexts, VerificationPresentationContexts
folder, port = sys.argv[1], int(sys.argv[2])
def keep(event):
    event.dataset.file_meta = event.file_meta
    event.dataset.save_as(f"{folder}/{event.request.AffectedSOPInstanceUID}", enforce_file_format=True)
    return 0
entity = AE()
entity.supported_contexts = AllStoragePresentationContexts + VerificationPresentationContexts
entity.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, keep)])
"""


def write(folder: pathlib.Path, count: int) -> None:
    random = numpy.random.default_rng(1)
    study, series = "2.25.49061", "2.25.49061.1"
    for k in range(count):
        data = pydicom.Dataset()
        data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"{series}.{k + 1}"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = study, series, "MR"
        data.Rows = data.Columns = 256
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, k], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.InstanceNumber = [1, 1], k + 1
        data.PixelData = random.integers(0, 4096, (256, 256), dtype=numpy.uint16).tobytes()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(folder / f"{k}.dcm", enforce_file_format=True)


def receiver(name: str, program: str, folder: pathlib.Path, port: int) -> list[str]:
    return {
        "dawson": [program, "serve", "--listen", "127.0.0.1:0", "--state", str(folder), "--dicom-listen",
                   f"127.0.0.1:{port}", "--ae-title", "ANY", "--study-quiet-s", "3600", "--log", "error"],
        "dcmtk storescp": [shutil.which("storescp") or "storescp", "-od", str(folder), "-aet", "ANY", str(port)],
        "pynetdicom": [sys.executable, "-c", PYNETDICOM, str(folder), str(port)],
    }[name]


def main() -> None:
    program, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500
    took: dict[str, list[float]] = {"dawson": [], "dcmtk storescp": [], "pynetdicom": []}
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with tempfile.TemporaryDirectory() as place:
        images = pathlib.Path(place) / "images"
        images.mkdir()
        write(images, count)
        for turn in range(3):
            for name, times in took.items():
                folder = pathlib.Path(place) / f"{turn} {name}"
                folder.mkdir()
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port = probe.getsockname()[1]
                process = subprocess.Popen(receiver(name, program, folder, port), env=environment,
                                           stdout=subprocess.DEVNULL)
                try:
                    while subprocess.run(["echoscu", "-aec", "ANY", "127.0.0.1", str(port)],
                                         stderr=subprocess.DEVNULL).returncode:
                        time.sleep(0.2)
                    begun = time.monotonic()
                    subprocess.run(["dcmsend", "-aec", "ANY", "+sd", "127.0.0.1", str(port), str(images)], check=True,
                                   env=environment)
                    times.append(time.monotonic() - begun)
                finally:
                    process.terminate()
                    process.wait()
                kept = [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > 100_000]
                assert len(kept) >= count, f"{name} kept {len(kept)} of {count}"
    ours = statistics.median(took["dawson"])
    print(f"{count} images of 131 kB, one association, seconds (median of 3):")
    for name, times in took.items():
        middle = statistics.median(times)
        print(f"  {name:15} {middle:6.2f}   dawson / {name}: {ours / middle:.2f}")


if __name__ == "__main__":
    main()
