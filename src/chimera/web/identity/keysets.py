"""What an issuer says of itself, and the keys with which it signs: fetched, kept, and asked for again in good time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from chimera.core.aio.tasks import take_exception
from chimera.core.clock import Clock
from chimera.errors import NotYet, Unavailable
from chimera.web.identity.settings import Issuer, KeyTimes
from chimera.web.identity.ways import Fetch, NotKnown

logger = logging.getLogger("chimera")

FOUND_AT = "/.well-known/openid-configuration"
LEAST_BITS = 2048
MOST_KEYS = 64
LONGEST_KID = 256
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
ALGORITHMS = _RSA | {*_CURVES.values()}
"""Those with a key that only the issuer has, and another one that all may know."""


class IssuerPlace(msgspec.Struct, frozen=True):
    """Where an issuer is asked for what, as it says itself."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    end_session_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class SigningKey(NamedTuple):
    """A public key, and the algorithms that it may be used with."""

    key: Any
    algorithms: frozenset[str]


Keys = Mapping[str, SigningKey]
"""Keys by their ids; under the empty one a key without any, where it is the only one."""


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySet:
    """The keys of an issuer. Those at hand go on while it is away.

    A key that is not known makes us ask again, at most every `least_s` seconds, whoever asks us, and however many.
    """

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Clock, times: KeyTimes = KeyTimes()) -> None:
        self.issuer = issuer.issuer
        self._plain = issuer.plain
        self._fetch = fetch
        self._clock = clock
        self._times = times
        self._place: IssuerPlace | None = None
        self._keys: Keys = {}
        self._got_at = self._tried_at = float("-inf")
        self._failed = ""
        self._asking: asyncio.Future[None] | None = None

    async def find(self, kid: str, algorithm: str) -> Any:
        """The key of an id, for an algorithm. Raises NotKnown, and NotYet where the issuer has never answered."""
        now = self._clock.monotonic()
        if kid not in self._keys and self._may_ask(now):
            await self._refreshed()
        elif now >= self._got_at + self._times.fresh_s and self._may_ask(now):
            self._begin()
        if not self._keys:
            raise self._away()
        if (found := self._keys.get(kid)) is None:
            raise NotKnown(f"the token is signed with a key that {self.issuer} does not have, or not any more")
        if algorithm not in found.algorithms:
            raise NotKnown(f"the token is signed with {algorithm}, and its key is not for that")
        return found.key

    async def place(self) -> IssuerPlace:
        """Where the issuer is asked for what. Raises NotYet."""
        if self._place is None and self._may_ask(self._clock.monotonic()):
            await self._refreshed()
        if self._place is None:
            raise self._away()
        return self._place

    async def close(self) -> None:
        """Ask no longer."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _away(self) -> NotYet:
        return NotYet(f"{self.issuer}, which tells who asks, does not answer now; try again")

    def _may_ask(self, now: float) -> bool:
        """False too soon after the last time; those who come while it is being asked wait for that."""
        if self._asking is not None:
            return True
        return now >= self._tried_at + (self._times.again_s if self._failed else self._times.least_s)

    async def _refreshed(self) -> None:
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Future[None]:
        if self._asking is None:
            self._tried_at = self._clock.monotonic()
            self._asking = asyncio.ensure_future(self._refresh())
            self._asking.add_done_callback(self._ended)
        return self._asking

    def _ended(self, asking: asyncio.Future[None]) -> None:
        self._asking = None
        take_exception(asking)

    async def _refresh(self) -> None:
        try:
            place = _place_of(await self._fetch.get(self.issuer.rstrip("/") + FOUND_AT), self.issuer)
            _check_plain(place, is_plain=self._plain)
            keys = _keys_of(await self._fetch.get(place.jwks_uri), self.issuer)
        except Unavailable as error:
            if str(error) != self._failed:
                logger.warning("%s: its keys can't be had: %s; %s", self.issuer, error, self._goes_on())
            self._failed = str(error)
            self._tried_at = self._clock.monotonic()
            return
        if self._failed:
            logger.warning("%s answers again", self.issuer)
        self._place, self._keys, self._failed = place, keys, ""
        self._got_at = self._tried_at = self._clock.monotonic()

    def _goes_on(self) -> str:
        return "those at hand go on" if self._keys else "nobody can be known by it"


def is_private(url: str, *, is_plain: bool) -> bool:
    """True for an address that is reached by TLS, or on this machine, or may be without."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    is_here = is_plain or parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and is_here))


def _place_of(body: bytes, issuer: str) -> IssuerPlace:
    """What an issuer says of itself. Raises Unavailable for what is not a word of this one."""
    try:
        place = msgspec.json.decode(body, type=IssuerPlace)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unavailable(f"what it says at {FOUND_AT} can't be read: {error}") from error
    if place.issuer != issuer:
        raise Unavailable(f"it calls itself {place.issuer[:200]!r}; set issuer to that, if it is meant")
    return place


def _check_plain(place: IssuerPlace, *, is_plain: bool) -> None:
    """Raises Unavailable for an address that others on the way could answer for."""
    for url in (place.jwks_uri, place.authorization_endpoint, place.token_endpoint, place.end_session_endpoint):
        if url and not is_private(url, is_plain=is_plain):
            raise Unavailable(f"it names {url[:200]!r}, which is without TLS")


def _keys_of(body: bytes, issuer: str) -> Keys:
    """The keys that can be used. Raises Unavailable for what holds none."""
    try:
        given = msgspec.json.decode(body, type=_Set).keys
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unavailable(f"its keys can't be read: {error}") from error
    found: dict[str, SigningKey] = {}
    for each in given[:MOST_KEYS]:
        kid = each.get("kid", "")
        key = _key_of(each)
        if key is None or not isinstance(kid, str) or len(kid) > LONGEST_KID or kid in found:
            logger.info("%s: a key of %r is none that is used here", issuer, each.get("kty"))
            continue
        found[kid] = key
    if not found:
        raise Unavailable("it has no key that is used here (RSA of 2048 bits or more, EC, Ed25519)")
    if len(found) == 1:
        found.setdefault("", next(iter(found.values())))
    else:
        found.pop("", None)
    return found


def _key_of(given: Mapping[str, Any]) -> SigningKey | None:
    """A key for signatures; None for any other."""
    kind, curve, own = given.get("kty"), given.get("crv"), given.get("alg")
    if given.get("use", "sig") != "sig":
        return None
    if kind == "RSA":
        may = _RSA
    elif kind in ("EC", "OKP") and isinstance(curve, str) and curve in _CURVES:
        may = frozenset({_CURVES[curve]})
    else:
        return None
    if own is not None:
        may &= {own} if isinstance(own, str) else frozenset[str]()
    if not may:
        return None
    try:
        key = jwt.PyJWK({**given}, algorithm=min(may)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, NotImplementedError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < LEAST_BITS:
        return None
    return None if hasattr(key, "sign") else SigningKey(key, may)
