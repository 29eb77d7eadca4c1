"""The base of the suites, and the messages and keys that they use."""

from __future__ import annotations

import inspect
from typing import ClassVar

import hypothesis

from chimera.messages import Message
from chimera.ports import Log, Store, ViewStore

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
    """The base of the contract suites; see `chimera.testing.contracts` for what a subclass provides.

    `optional` are the fixtures that only some engines have a use for: where a suite with an `engine` has no such
    fixture, the tests that need it do not exist.
    """

    patience_s = 60.0
    optional: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        absent = {name for name in cls.optional if not hasattr(cls, name)} if hasattr(cls, "engine") else set()
        for name, test in inspect.getmembers(cls, inspect.isfunction):
            if name.startswith("test_") and absent & inspect.signature(test).parameters.keys():
                setattr(cls, name, None)


class EngineSuite(Suite):
    """The base of the suites whose engines have `features`."""

    optional = ("reopen",)

    async def test_what_is_durable_or_shared_can_be_reopened(self, engine: Log | Store | ViewStore) -> None:
        """A subclass for such an engine has the fixture `reopen`; without it tests would be missing unnoticed."""
        outlives = engine.features.durable or engine.features.shared
        assert not outlives or hasattr(self, "reopen"), f"{type(self).__name__} has to provide the fixture `reopen`"


def event(partition: int, number: int, key: str = "key", data: bytes = b"{}") -> Message:
    """An event as the journal gives it back."""
    time, traceparent = "2024-05-01T12:00:00.000001Z", f"00-{number:032x}-{partition + 1:016x}-01"
    position, chain = f"contract/{partition}@{number}", f"{number:032x}"
    metadata = '{"caller":{"subject":"ann"}}' if number % 2 else ""
    return Message(
        *(position, "contract", "contract.Happened", key, time, data, partition, number, traceparent, chain),
        metadata=metadata,
    )
