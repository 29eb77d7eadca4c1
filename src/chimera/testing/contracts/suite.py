"""What the suites share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

from chimera.messages import Message

NAMES = ("plain", 'it\'s "quoted"; --', "straße", "日本語", "🦁🐐🐍", "a b\tc\nd", "%_\\", "Ω", "z" * 200)
"""Keys that engines get wrong."""

MEBIBYTE = b'"' + b"x" * (1024 * 1024 - 2) + b'"'

quick = hypothesis.settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.differing_executors,
        hypothesis.HealthCheck.too_slow,
    ],
)
"""Settings for properties of an engine: each example goes on with the engine that the one before left."""


class Suite:
    """The base of the contract suites; see `chimera.testing.contracts` for what a subclass provides."""

    patience_s = 10.0

    @pytest.fixture
    def reopen(self, engine: Any) -> Callable[[], Any]:
        """Makes one more engine on the same data."""
        if engine.features.durable or engine.features.shared:
            pytest.fail(f"{type(self).__name__} must override the fixture `reopen`: its engine is durable or shared")
        pytest.skip("nothing to reopen: the engine is neither durable nor shared")


def event(partition: int, number: int, key: str = "key", data: bytes = b"{}") -> Message:
    """An event as the journal gives it back."""
    time, traceparent = "2024-05-01T12:00:00.000001Z", f"00-{number:032x}-{partition + 1:016x}-01"
    place = f"contract/{partition}@{number}"
    return Message(place, "contract", "contract.Happened", key, time, data, partition, number, traceparent)
