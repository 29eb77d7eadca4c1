"""Small texts that only the fleet can write and read, kept by browsers: sealed (Fernet) with secrets that change."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from chimera.core.clock import Clock

Sealed = TypeVar("Sealed", bound=msgspec.Struct)

LONGEST = 4_000
"""Characters of a cookie that every browser keeps, its name and attributes apart."""


class Sealer:
    """Seals with the first of some secrets, opens what any of them has sealed. `use`: what for; no other opens it."""

    def __init__(self, secrets: Sequence[str], use: str, clock: Clock) -> None:
        self._fernet = MultiFernet([Fernet(_key(secret, use)) for secret in secrets])
        self._clock = clock

    def seal(self, value: msgspec.Struct) -> str:
        """A value as a text that is good in a cookie. Raises ValueError for one too long."""
        sealed = self._fernet.encrypt_at_time(msgspec.json.encode(value), int(self._clock.time())).decode()
        if len(sealed) > LONGEST:
            raise ValueError(f"sealed it has {len(sealed):,} characters; a cookie holds {LONGEST:,}")
        return sealed

    def open(self, text: str, type_: type[Sealed]) -> Sealed | None:
        """The value; None for what was not sealed so."""
        if not 0 < len(text) <= LONGEST or not text.isascii():
            return None
        try:
            return msgspec.json.decode(self._fernet.decrypt(text), type=type_)
        except (InvalidToken, msgspec.MsgspecError, ValueError, TypeError):
            return None


def _key(secret: str, use: str) -> bytes:
    made = hashlib.blake2b(use.encode(), key=hashlib.sha256(secret.encode()).digest(), digest_size=32)
    return base64.urlsafe_b64encode(made.digest())
