"""Tokens by which services of a fleet know each other: signed, for one owner, and good for a minute.

A token says which service asks (`sub`), whom (`aud`), and which of the owner's shares it has declared to borrow. It is
a JWT, signed with the first of the fleet's keys; all are known, each by its id (`kid`), so that keys can be changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jwt

from chimera.core.clock import Clock
from chimera.service import Service

ALGORITHM = "HS256"
ISSUER = "chimera"
GOOD_S = 60
SKEW_S = 30
"""Seconds by which clocks may differ."""
LONGEST = 8_192
KNOWN = 256
"""Tokens that are remembered as checked."""
REQUIRED = ["aud", "exp", "iat", "iss", "sub"]


class Peer(NamedTuple):
    """A service of the fleet that asks, and the names of the shares that it has declared to borrow of the one asked."""

    name: str
    borrows: frozenset[str]
    until: float


def key_id(key: str) -> str:
    """What names a key, and tells nothing of it."""
    return hashlib.sha256(f"chimera fleet {key}".encode()).hexdigest()[:16]


def bearing(service: Service, owner: str, keys: Sequence[str], clock: Clock) -> Callable[[], str] | None:
    """What gives, again and again, the token with which a service asks an owner; None without a key."""
    if not keys:
        return None
    made, until = "", float("-inf")
    claims = {
        "iss": ISSUER,
        "sub": service.name,
        "aud": owner,
        "borrows": sorted(each.share for each in service.borrows.values() if each.owner == owner),
    }

    def token() -> str:
        nonlocal made, until
        now = clock.now().timestamp()
        if now >= until or now < until - GOOD_S:
            times = {"iat": int(now), "exp": int(now) + GOOD_S}
            made = jwt.encode({**claims, **times}, keys[0], ALGORITHM, headers={"kid": key_id(keys[0])})
            until = now + GOOD_S / 2
        return made

    return token


class Peers:
    """Reads the tokens of those who ask `owner`. One that is malformed, of another audience, or old is refused."""

    def __init__(self, owner: str, keys: Sequence[str], clock: Clock) -> None:
        self._owner = owner
        self._keys = {key_id(key): key for key in keys}
        self._clock = clock
        self._known: dict[str, Peer] = {}

    def read(self, token: str) -> Peer | None:
        """Whose it is; None where it is nobody's."""
        now = self._clock.now().timestamp()
        if (known := self._known.get(token)) is not None:
            return known if now < known.until else None
        peer = self._read(token, now) if len(token) <= LONGEST else None
        if peer is not None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[token] = peer
        return peer

    def _read(self, token: str, now: float) -> Peer | None:
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                return None
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._owner,
                issuer=ISSUER,
                options={"require": REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        subject, began, ends, borrows = (claims.get(name) for name in ("sub", "iat", "exp", "borrows"))
        if not (isinstance(began, int) and isinstance(ends, int) and began <= ends <= began + GOOD_S):
            return None
        if not began - SKEW_S <= now < ends + SKEW_S or claims["aud"] != self._owner or not subject:
            return None
        if not isinstance(borrows, list) or not all(isinstance(each, str) for each in borrows):
            return None
        return Peer(str(subject), frozenset(borrows), float(ends + SKEW_S))
