import shutil
from pathlib import Path

import pytest

from tests.support.refusal import Job
from tests.support.text import prepare_data, write_model


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, for reading only."""
    return prepare_data(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "bert.json")


@pytest.fixture
def job(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Job:
    """A job that would start, in a folder with its data, for a test to break."""
    shutil.copytree(prepared, tmp_path / "data")
    write_model(tmp_path / "bert.json")
    return Job(tmp_path, monkeypatch, capfd)
