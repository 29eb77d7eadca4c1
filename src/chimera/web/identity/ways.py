"""A way to know who asks: what all ways have in common, and how one refuses what it was shown."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from chimera.caller import Caller, Request, metadata_of
from chimera.errors import Rejected

PASSED = "chimera-certificate"
"""The header in which a gateway tells a service of the fleet whom a certificate names, sealed with the fleet's key."""
RESERVED = frozenset({"nobody", "system"})
"""Subjects that nobody bears: they stand for who is not known, and for what no person asked for."""


class NotKnown(Rejected):
    """What is shown says of nobody who she is. `anew`: who logs in again gets over it."""

    def __init__(self, detail: str, reason: str = "bad_credentials", *, anew: bool = False) -> None:
        super().__init__(reason, detail, status=401)
        self.anew = anew


class Fetch(Protocol):
    """The way to an issuer."""

    async def get(self, url: str) -> bytes:
        """The body of a 200. Raises Unavailable for all else."""

    async def post(self, url: str, form: Mapping[str, str], secret: tuple[str, str] | None) -> tuple[int, bytes]:
        """The status and body of the answer to a form. `secret`: client and its secret. Raises Unavailable."""


class Untold:
    """No way at all: nobody is known but where somebody else says who asks, such as a test."""

    challenge = "Bearer"

    async def __call__(self, request: Request) -> Caller | None:
        """Nobody."""
        return None

    def login(self, request: Request) -> str:
        """Nowhere."""
        return ""


def checked(caller: Caller) -> Caller:
    """The caller, who can be told to others. Raises NotKnown."""
    if not caller.subject or caller.subject in RESERVED:
        raise NotKnown(f"nobody is known as {caller.subject!r}")
    try:
        metadata_of(caller)
    except ValueError as error:
        raise NotKnown(f"what is said of her can't be kept: {error}") from error
    return caller


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path with dots; None where there is none."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def texts_of(value: object, what: str) -> Collection[str]:
    """Texts in a list, or words in a text. Raises NotKnown for all else; None is none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    raise NotKnown(f"the claim {what!r} is no list of texts")


def unpadded(data: bytes) -> str:
    """Base64 as it stands in addresses and tokens, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def challenge_of(verifier: str) -> str:
    """What is shown of a secret before it is told (RFC 7636, S256)."""
    return unpadded(hashlib.sha256(verifier.encode()).digest())
