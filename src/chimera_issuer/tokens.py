"""What the issuer hands out: access tokens (RFC 9068), and ID tokens for the client that logs somebody in."""

from __future__ import annotations

from typing import Any

import jwt

from chimera.core.clock import Clock
from chimera.web.identity.people import AUDIENCE, CLIENT, Person
from chimera_issuer.keys import ALGORITHM, Key

GOOD_S = 8 * 3600
"""Seconds that a token is good: a day at work."""


class Tokens:
    """Makes the tokens of one issuer, and reads its own again."""

    def __init__(self, issuer: str, key: Key, clock: Clock) -> None:
        self.issuer = issuer
        self._key = key
        self._clock = clock

    def access(self, person: Person, scope: str) -> str:
        """What she shows to services."""
        own = {"aud": AUDIENCE, "client_id": CLIENT, "scope": scope, "jti": self._clock.new_id()}
        return self._signed(person, own, "at+jwt")

    def identity(self, person: Person, nonce: str) -> str:
        """What tells the client who has logged in."""
        own = {"aud": CLIENT, "auth_time": int(self._clock.time())}
        return self._signed(person, own | ({"nonce": nonce} if nonce else {}), "JWT")

    def subject_of(self, token: str) -> str:
        """Whose access token it is; empty for one that is not good."""
        options = {"verify_exp": False, "verify_iat": False, "require": ["exp", "sub"]}
        try:
            claims = jwt.decode(
                token,
                self._key.private.public_key(),
                [ALGORITHM],
                options,  # type: ignore[arg-type]  # its options are declared more narrowly than they are taken
                audience=AUDIENCE,
                issuer=self.issuer,
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return ""
        ends = claims["exp"]
        return str(claims["sub"]) if isinstance(ends, int) and self._clock.time() < ends else ""

    def _signed(self, person: Person, own: dict[str, Any], typ: str) -> str:
        now = int(self._clock.time())
        claims = {"iss": self.issuer, "iat": now, "exp": now + GOOD_S, **told_of(person), **own}
        return jwt.encode(claims, self._key.private, ALGORITHM, headers={"kid": self._key.kid, "typ": typ})


def told_of(person: Person) -> dict[str, Any]:
    """What is said of somebody, in tokens and when it is asked for."""
    return {"sub": person.subject, "name": person.name or person.subject, "roles": person.roles}
