"""A head as a DICOM series and its results, written by the example `dicom_results` in $DICOM_RESULTS."""
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import nibabel
import numpy
import pydicom
import pytest

PROGRAM = os.environ.get("DICOM_RESULTS", "")
ROOT = pathlib.Path(__file__).resolve().parents[2]
LPS_TO_RAS = numpy.array([-1.0, -1.0, 1.0])

# Plane and flags of the example; between them every way in which a series' slices may lie.
CASES = [
    ("axial",),
    ("sagittal",),
    ("coronal", "--enhanced"),
    ("oblique", "--descending"),
    ("negated", "--enhanced", "--descending"),
    ("oblique", "--no-regions"),
    ("axial", "--no-lesions"),
]


@dataclasses.dataclass
class Written:
    """What the example wrote."""

    folder: pathlib.Path
    flags: tuple[str, ...]

    @property
    def series(self) -> pathlib.Path:
        return self.folder / "series"

    def result(self, name: str) -> pathlib.Path:
        return self.folder / "results" / f"{name}.dcm"

    def dataset(self, name: str) -> pydicom.Dataset:
        return pydicom.dcmread(self.result(name))

    def captures(self) -> list[pathlib.Path]:
        return sorted((self.folder / "results").glob("dicom_sc_*.dcm"))

    def every(self) -> list[pathlib.Path]:
        return sorted((self.folder / "results").glob("*.dcm"))

    def instances(self) -> nibabel.Nifti1Image:
        """0 outside, else a lesion's number; on the series' slices."""
        return nibabel.load(self.folder / "instances.nii.gz")

    def lesions(self) -> list[tuple[int, float, str, str]]:
        """Number, volume in ml, tracking UID and region of each lesion."""
        lines = (self.folder / "lesions.tsv").read_text().splitlines()
        rows = (line.split("\t") for line in lines)
        return [(int(number), float(ml), uid, region) for number, ml, uid, region in rows]


SHARED = ROOT.parent / "shared"
# Series beside the repository: sagittal 3D, oblique, enhanced with shared and with per-frame geometry, post contrast.
GIVEN = {"02_flair_sag3d": "study", "04_t2_oblique": "study", "07_flair_post_gd_2d": "study",
         "10_flair_enhanced": "enhanced", "11_flair_enhanced_pf": "enhanced"}


def write(folder: pathlib.Path, flags: tuple[str, ...]) -> Written:
    subprocess.run([PROGRAM, folder, *flags], check=True, stdout=subprocess.DEVNULL)
    return Written(folder, flags)


@pytest.fixture(scope="session", params=CASES, ids=lambda flags: "".join(flags))
def written(request, tmp_path_factory) -> Written:
    if not PROGRAM:
        pytest.skip("$DICOM_RESULTS names no program: run make test-pacs")
    return write(tmp_path_factory.mktemp("pacs"), request.param)


def tool(name: str) -> str:
    """A program of this environment's packages, or of the system's; the test is skipped without it."""
    beside = pathlib.Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name}: run tools/setup.sh pacs")
    return found
