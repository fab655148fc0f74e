"""A running service for the tests of operation: the program in $DAWSON_BIN, as a user would start it."""
import pathlib
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from service import PROGRAM, ROOT, Service  # noqa: E402, F401  (the tests take them from here)


@pytest.fixture(scope="session")
def program() -> str:
    if not PROGRAM:
        pytest.skip("DAWSON_BIN names no program")
    return PROGRAM


@pytest.fixture(scope="session")
def phantom(program, tmp_path_factory) -> dict[str, pathlib.Path]:
    """A small synthetic head, by contrast."""
    folder = tmp_path_factory.mktemp("phantom")
    subprocess.run([program, "phantom", "--seed", "7", "--out", str(folder), "--spacing", "2,2,2",
                    "--contrasts", "flair,t1w"], check=True, stdout=subprocess.DEVNULL)
    return {contrast: folder / f"{contrast}.nii.gz" for contrast in ("flair", "t1w")}
