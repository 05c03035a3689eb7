"""Taking away what keeps GPU jobs from hanging, one remedy at a time, to show that each is needed."""

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from ds_bert.engine.engine import Engine
from ds_bert.engine.transport import Transport


def nothing(*_: Any) -> None:
    """In place of a remedy."""


def without_connecting() -> AbstractContextManager[Any]:
    """Receives are posted before the ends of a channel have met."""
    return mock.patch.object(Transport, "connect", nothing)


def with_one_group_for_both_directions() -> AbstractContextManager[Any]:
    """Gradients take the channels of activations."""
    make = Transport.__init__

    def making(transport: Transport, grid: Any) -> None:
        make(transport, grid)
        for back, forth in (("gradients_in", "activations_out"), ("gradients_out", "activations_in")):
            if (channel := getattr(transport, back)) is not None:
                channel.group = getattr(transport, forth).group

    return mock.patch.object(Transport, "__init__", making)


def with_a_clock_that_starts_late() -> AbstractContextManager[Any]:
    """The first span starts the clock, after receives have been posted."""
    get_ready = Engine._get_ready

    def getting_ready(engine: Engine, batches: Any) -> None:
        with mock.patch.object(engine.timeline, "start", nothing):
            get_ready(engine, batches)

    return mock.patch.object(Engine, "_get_ready", getting_ready)
