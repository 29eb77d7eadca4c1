"""What a client asks for, and the codes that it is given for it: each good once, for a minute, for who can prove it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from chimera.core.clock import Clock
from chimera.errors import Invalid
from chimera.web.identity.people import CLIENT
from chimera.web.identity.ways import challenge_of, unpadded
from chimera.web.permission.groups import is_loopback

CODE_S = 60
"""Seconds that a code is good."""
MOST = 1_000
"""Codes that nobody has fetched tokens for."""
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class LoginWanted(NamedTuple):
    """What is asked for at `authorize`: where the answer goes, and what it is bound to."""

    redirect_uri: str
    state: str
    scope: str
    nonce: str
    challenge: str

    def answer(self, **said: str) -> str:
        """The address at which the client is told."""
        more = {**said, **({"state": self.state} if self.state else {})}
        return f"{self.redirect_uri}{'&' if '?' in self.redirect_uri else '?'}{urlencode(more)}"

    @property
    def origin(self) -> str:
        """Scheme, host and port of where the answer goes."""
        parts = urlsplit(self.redirect_uri)
        return f"{parts.scheme}://{parts.netloc}"


class Denied(Exception):  # noqa: N818 - an answer
    """A client is told no, at its own address."""

    def __init__(self, wanted: LoginWanted, error: str, description: str) -> None:
        super().__init__(description)
        self.answer = wanted.answer(error=error, error_description=description)


def read_wanted(given: Mapping[str, str]) -> LoginWanted:
    """The parameters of `authorize`. Raises Invalid where nobody may be sent back to the client, else Denied."""
    if given.get("client_id") != CLIENT:
        raise Invalid(f"the client here is {CLIENT!r}", field="query.client_id", status=400)
    uri = given.get("redirect_uri", "")
    if not is_of_this_machine(uri):
        raise Invalid("an address of this machine is needed", field="query.redirect_uri", status=400)
    names = ("state", "scope", "nonce", "code_challenge")
    wanted = LoginWanted(uri, *(given.get(name, "") for name in names))
    if given.get("response_type") != "code":
        raise Denied(wanted, "unsupported_response_type", "the response_type is code")
    if "openid" not in wanted.scope.split():
        raise Denied(wanted, "invalid_scope", "the scope has openid in it")
    if given.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(wanted.challenge):
        raise Denied(wanted, "invalid_request", "a code_challenge by S256 is needed (PKCE)")
    if "none" in given.get("prompt", "").split():
        raise Denied(wanted, "login_required", "who she is has to be asked each time")
    return wanted


def is_of_this_machine(uri: str) -> bool:
    """True for an address, without a fragment, that only this machine reaches."""
    try:
        parts = urlsplit(uri)
        return (
            parts.scheme in ("http", "https")
            and parts.netloc.isascii()
            and re.fullmatch(r"[A-Za-z0-9.:\[\]-]+", parts.netloc) is not None
            and (parts.port is None or parts.port > 0)
            and is_loopback(parts.hostname or "")
            and not parts.fragment
            and uri.isprintable()
        )
    except ValueError:
        return False


class _CodeGiven(NamedTuple):
    wanted: LoginWanted
    subject: str
    until: float


class Codes:
    """The codes that were given, and not used yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._granted: dict[str, _CodeGiven] = {}

    def give(self, wanted: LoginWanted, subject: str) -> str:
        """A code for somebody who has said who she is."""
        now = self._clock.monotonic()
        self._granted = {code: each for code, each in self._granted.items() if each.until > now}
        while len(self._granted) >= MOST:
            del self._granted[next(iter(self._granted))]
        code = unpadded(self._clock.random_bytes(32))
        self._granted[code] = _CodeGiven(wanted, subject, now + CODE_S)
        return code

    def take(self, code: str, redirect_uri: str, verifier: str) -> tuple[LoginWanted, str] | None:
        """What the code was given for, and who she is, once; None where it is not good, or not this client's."""
        granted = self._granted.pop(code, None)
        if granted is None or granted.until <= self._clock.monotonic() or not _VERIFIER.fullmatch(verifier):
            return None
        proof = challenge_of(verifier)
        if granted.wanted.redirect_uri != redirect_uri or not hmac.compare_digest(proof, granted.wanted.challenge):
            return None
        return granted.wanted, granted.subject
