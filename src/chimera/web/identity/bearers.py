"""Tokens of issuers (JWT): what makes one good. Any other is refused with a reason, and never taken for nobody's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from chimera.caller import Caller
from chimera.core.clock import Clock
from chimera.web.identity.keysets import ALGORITHMS, LONGEST_KID, KeySet
from chimera.web.identity.settings import Issuer, KeyTimes
from chimera.web.identity.ways import NotKnown, checked, claim, texts_of

LONGEST = 16_384
KNOWN = 1_024
"""Tokens that are remembered as checked, for `KNOWN_S` seconds at most: then a key that is gone is missed."""
KNOWN_S = 60.0
_OPTIONS: Any = {
    "require": ["exp", "iss", "sub", "aud"],
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_sub": False,
    "verify_jti": False,
}
"""Times are compared with the clock that was handed in."""


class Believed:
    """An issuer whose tokens are believed, with its keys."""

    def __init__(self, issuer: Issuer, keys: KeySet, prefixes: Sequence[str] = ()) -> None:
        self.issuer = issuer
        self.keys = keys
        self._foreign = tuple(each for each in prefixes if each and each != issuer.prefix)

    def caller(self, claims: Mapping[str, Any]) -> Caller:
        """Whom the claims of a good token tell of. Raises NotKnown."""
        issuer, subject = self.issuer, claims["sub"]
        if not isinstance(subject, str) or not subject:
            raise NotKnown("the token names no subject")
        tenant = claim(claims, issuer.tenant) if issuer.tenant else None
        if tenant is not None and not isinstance(tenant, str):
            raise NotKnown(f"the claim {issuer.tenant!r} is no text")
        subject = issuer.prefix + subject
        if any(subject.startswith(each) and len(each) > len(issuer.prefix) for each in self._foreign):
            raise NotKnown(f"{issuer.issuer} does not tell of {subject[:64]!r}")
        kept = {name: claims[name] for name in ("scope", "scp") if name in claims}
        kept |= {name: found for name in issuer.claims if (found := claim(claims, name)) is not None}
        roles = frozenset(texts_of(claim(claims, issuer.roles), issuer.roles))
        return checked(Caller(subject, roles, kept, tenant or ""))


class Bearers:
    """Reads the tokens of several issuers."""

    def __init__(self, believed: Sequence[Believed], clock: Clock, times: KeyTimes = KeyTimes()) -> None:
        self._believed = {each.issuer.issuer: each for each in believed}
        self._clock = clock
        self._skew_s = times.skew_s
        self._known: dict[str, tuple[Caller, float]] = {}

    async def read(self, token: str) -> Caller:
        """Whose token it is. Raises NotKnown, and NotYet where nobody can tell now."""
        now = self._clock.time()
        if (known := self._known.get(token)) is not None and now < known[1]:
            return known[0]
        claims = await self.claims(token)
        caller = self._believed[claims["iss"]].caller(claims)
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[token] = caller, min(claims["exp"] + self._skew_s, now + KNOWN_S)
        return caller

    async def claims(self, token: str, audience: str = "") -> Mapping[str, Any]:
        """The claims of a token that is good, for an audience, or its issuer's own. Raises NotKnown, and NotYet."""
        issuer, kid, algorithm = _addressed(token)
        believed = self._believed.get(issuer)
        if believed is None:
            raise NotKnown("the token is of an issuer that is not believed here")
        key = await believed.keys.find(kid, algorithm)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audience or believed.issuer.audience,
                issuer=issuer,
                options=_OPTIONS,
            )
        except jwt.InvalidSignatureError as error:
            raise NotKnown("the token's signature is wrong") from error
        except jwt.InvalidAudienceError as error:
            raise NotKnown("the token is for another audience") from error
        except jwt.MissingRequiredClaimError as error:
            raise NotKnown(f"the token does not say its {error.claim!r}") from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise NotKnown("the token can't be read") from error
        self._check_times(claims)
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now, skew = self._clock.time(), self._skew_s
        if now >= _moment(claims, "exp") + skew:
            raise NotKnown("the token has expired", anew=True)
        for name in ("nbf", "iat"):
            if name in claims and now < _moment(claims, name) - skew:
                raise NotKnown("the token is not good yet")


def _addressed(token: str) -> tuple[str, str, str]:
    """The issuer, the key's id and the algorithm that a token names, none of which is believed. Raises NotKnown."""
    if len(token) > LONGEST or not token.isascii():
        raise NotKnown("the token can't be read")
    try:
        header = jwt.get_unverified_header(token)
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise NotKnown("the token can't be read") from error
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise NotKnown("the token is not signed with a key that only its issuer has")
    if "crit" in header or "b64" in header:
        raise NotKnown("the token asks for what is not known here")
    if not isinstance(kid, str) or len(kid) > LONGEST_KID or not isinstance(issuer, str):
        raise NotKnown("the token can't be read")
    return issuer, kid, algorithm


def _moment(claims: Mapping[str, Any], name: str) -> float:
    """A time among the claims, in seconds. Raises NotKnown."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e12 < value < 1e12:
        raise NotKnown(f"the token's {name!r} is no time")
    return float(value) if math.isfinite(value) else 0.0
