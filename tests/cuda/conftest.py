"""The process with the fake device: one for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.fake_cuda.library import library
from tests.support.fake_cuda.server import FakeCuda


@pytest.fixture(scope="session")
def fake_cuda() -> Iterator[FakeCuda]:
    with FakeCuda(str(library())) as started:
        yield started
