"""The short form runs in `make test`; `--long` runs what `make soak` promises."""
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import support  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long form")


@pytest.fixture(scope="session")
def long(request):
    return request.config.getoption("--long")


@pytest.fixture(scope="session")
def postgres():
    server = support.Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def flair(tmp_path_factory):
    """A study that takes a fraction of a second."""
    return support.phantom(tmp_path_factory.mktemp("phantom"), "flair")


@pytest.fixture
def bucket(tmp_path):
    server = support.Bucket(tmp_path / "bucket")
    yield server
    server.stop()
