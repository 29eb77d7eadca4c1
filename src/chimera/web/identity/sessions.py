"""The sessions of pages: a sealed cookie that says who asks and until when, good for what pages of ours send."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from chimera.caller import Caller, Request
from chimera.core.clock import Clock
from chimera.errors import Rejected
from chimera.replies import Cookie
from chimera.web.identity.sealing import Sealer
from chimera.web.identity.settings import Identity
from chimera.web.identity.ways import NotKnown, checked

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
HOST = "__Host-"
"""Before the name of a cookie that comes by TLS: no other host and no plain page can have set it."""
PROOF = "x-csrf-token"


class PageSession(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks, until when (seconds since the epoch), and the proof that a program of hers shows."""

    caller: Caller
    until: float
    proof: str


class Sessions:
    """Reads and writes sessions. `secrets` seal them, the first one; all open."""

    def __init__(self, identity: Identity, secrets: Sequence[str], clock: Clock) -> None:
        self._sealer = Sealer(secrets, "chimera session", clock)
        self._name = identity.cookie
        self._url = identity.url
        self._lasts_s = identity.session_s
        self._clock = clock

    def shown(self, request: Request) -> str:
        """The cookie that a request shows; empty without one."""
        if self._name not in request.headers.get("cookie", ""):
            return ""
        cookies = request.cookies
        return cookies.get(HOST + self._name) or cookies.get(self._name, "")

    def read(self, request: Request, shown: str) -> PageSession:
        """The session of a cookie. Raises NotKnown, and Rejected (403) where another's page may have made it ask."""
        session = self._sealer.open(shown, PageSession)
        if session is None:
            raise NotKnown("the session can't be read here; log in again", anew=True)
        if self._clock.time() >= session.until:
            raise NotKnown("the session is over; log in again", anew=True)
        if request.method not in SAFE and not self.is_own(request, session.proof):
            raise Rejected(
                "cross_origin",
                f"another page than ours may have sent this; a program shows {PROOF}, from /_chimera/session",
                status=403,
            )
        return session

    def is_own(self, request: Request, proof: str = "") -> bool:
        """True where a page of the same origin asks, or somebody who could read the session's proof.

        Browsers say where a request comes from, and pages can't change it: Sec-Fetch-Site, or Origin where that is not
        sent (plain HTTP). Whoever sends neither shows the proof.
        """
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if proof and hmac.compare_digest(request.headers.get(PROOF, "").encode(), proof.encode()):
            return True
        if site is not None:
            return site in ("same-origin", "none")
        if origin is not None:
            return origin != "null" and _host_of(origin) in self._hosts(request)
        return False

    def begin(self, caller: Caller, *, is_tls: bool) -> Cookie:
        """The cookie of a new session. Raises NotKnown for a caller who does not fit."""
        proof = self._clock.random_bytes(18).hex()
        session = PageSession(checked(caller), self._clock.time() + self._lasts_s, proof)
        try:
            return self._cookie(self._sealer.seal(session), int(self._lasts_s), is_tls=is_tls)
        except ValueError as error:
            raise NotKnown(f"what the issuer says of her does not fit in a session: {error}") from error

    def end(self, request: Request) -> list[Cookie]:
        """The cookies that end a session, by whichever name it is there."""
        there = request.cookies
        names = {False: self._name, True: HOST + self._name}
        return [self._cookie("", 0, is_tls=is_tls) for is_tls, name in names.items() if name in there]

    def _cookie(self, value: str, max_age: int, *, is_tls: bool) -> Cookie:
        name = HOST + self._name if is_tls else self._name
        return Cookie(name, value, max_age_s=max_age, path="/", secure=is_tls, http_only=True, same_site="lax")

    def _hosts(self, request: Request) -> set[str]:
        """The hosts of our own pages: as it is set, and the one that was asked, here or at the gateway.

        A page of others can't send that header without asking first.
        """
        asked = request.headers.get("x-forwarded-host") or request.headers.get("host", "")
        return {host.lower() for host in (_host_of(self._url), asked) if host}


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
