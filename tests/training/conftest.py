"""What the tests of pictures share."""

from collections.abc import Iterator

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that are drawn, kept open until the test has ended."""
    kept: list[Figure] = []
    with monkeypatch.context() as patched:
        patched.setattr(pyplot, "close", kept.append)
        yield kept
    for figure in kept:
        pyplot.close(figure)
