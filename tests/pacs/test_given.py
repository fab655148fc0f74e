"""Results of series that were made and measured elsewhere, with the masks that came with them."""
import pathlib
import subprocess
import zipfile

import pytest

from conftest import GIVEN, PROGRAM, SHARED, Written, tool, write


@pytest.mark.parametrize("name", GIVEN)
def test_a_given_series_gets_its_mask_back(name: str, tmp_path: pathlib.Path):
    data, checker = SHARED / "data" / "dicom", SHARED / "dicom-tools" / "check_seg.py"
    if not PROGRAM or not data.is_dir() or not checker.exists():
        pytest.skip("there is no ../shared/data/dicom beside the repository, or $DICOM_RESULTS names no program")
    with zipfile.ZipFile(data / f"{GIVEN[name]}.zip") as archive:
        archive.extractall(tmp_path)
    series, mask = tmp_path / name, data / "truth_study" / f"{name}_lesion.nii.gz"
    written: Written = write(tmp_path / "out", ("--from", str(series), str(mask)))
    for result, words in [("dicom_seg", ["--segment", "1"]), ("dicom_seg_lesions", [])]:
        done = subprocess.run([tool("python"), checker, written.result(result), mask, series, *words],
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    for file in written.every():
        done = subprocess.run([tool("dciodvfy"), "-new", file], capture_output=True, text=True)
        assert "Error" not in done.stdout + done.stderr, file.name
