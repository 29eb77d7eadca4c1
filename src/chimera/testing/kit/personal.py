"""Personal values in tests: with keys that everybody knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from chimera.core.keys.ciphers import conceal
from chimera.forms import encode
from chimera.personal import Personal
from chimera.ports import KnownKey

Value = TypeVar("Value")

MASTERS = ("a-master-key-that-is-known-to-everybody",)
"""The master keys of services in tests."""
WHO = "testing"
"""The service that has the keys of what `personal` makes."""
_KEY = KnownKey("00000000", bytes(32))


def personal(value: Value, of: str) -> Personal[Value]:
    """A value about a person, as it is kept and sent: the same for the same value and person."""
    text = conceal(_KEY.key, WHO, _KEY.id, of, encode(value), "")
    return Personal(text, type(value))


class KnownToAll:
    """The owner, in tests, of the keys of what `personal` makes."""

    async def subject_keys(self, subjects: Sequence[str]) -> Mapping[str, KnownKey]:
        return dict.fromkeys(subjects, _KEY)

    async def close(self) -> None:
        """There is nothing to close."""
