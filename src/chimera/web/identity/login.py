"""The pages that log people in and out: OpenID Connect's authorization code, with PKCE, state and nonce."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from chimera.caller import Request
from chimera.errors import Invalid, NotYet, Rejected
from chimera.replies import Cookie
from chimera.web.identity.bearers import Believed
from chimera.web.identity.callers import LOGIN, KnownCallers
from chimera.web.identity.keysets import IssuerPlace
from chimera.web.identity.sealing import Sealer
from chimera.web.identity.sessions import PROOF, Sessions
from chimera.web.identity.settings import Issuer
from chimera.web.identity.ways import NotKnown, challenge_of, unpadded
from chimera.web.wire.http import HTML, Call, Header, encoded
from chimera.web.wire.routing import Route

CALLBACK = "/_chimera/callback"
LOGOUT = "/_chimera/logout"
SESSION = "/_chimera/session"
LASTS_S = 600
"""Seconds that somebody has to log in."""
LONGEST_NEXT = 1_500
LONGEST_CODE = 4_096
UNKEPT: Header = (b"cache-control", b"no-store")
_NEXT = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_WORD = re.compile(r"[\w.-]{1,64}")


class Begun(msgspec.Struct, frozen=True):
    """A login that was begun: at which issuer, what it must come back with, and where it goes on."""

    issuer: str
    state: str
    nonce: str
    verifier: str
    next: str
    until: float


class _Granted(msgspec.Struct):
    id_token: str


class Login:
    """The site part with the routes by which people log in and out, for a fleet that has set how."""

    def __init__(self, callers: KnownCallers, sessions: Sessions) -> None:
        self._callers = callers
        self._sessions = sessions
        self._clock = callers.clock
        self._sealer = Sealer(callers.secrets, "chimera login", callers.clock)
        self._cookie = f"{callers.identity.cookie}_login"

    def routes(self) -> Sequence[Route]:
        """The routes of the site as a whole."""
        return [
            Route("GET", LOGIN, self.begin),
            Route("GET", CALLBACK, self.come_back),
            Route("GET", LOGOUT, self.ask),
            Route("POST", LOGOUT, self.end),
            Route("GET", SESSION, self.tell),
        ]

    async def begin(self, call: Call) -> None:
        """Send a browser to the issuer, which sends it back; `next` is where it goes on, `issuer` which one."""
        query = call.query()
        goes_on = query.get("next", f"{call.root}/")
        if len(goes_on) > LONGEST_NEXT or not _NEXT.fullmatch(goes_on):
            raise Invalid("next must be a path of this site, as in: /orders", field="query.next", status=400)
        believed = self._chosen(query.get("issuer", ""))
        place = await _place_of(believed)
        state, nonce, verifier = (unpadded(self._clock.random_bytes(32)) for _ in range(3))
        begun = Begun(believed.issuer.issuer, state, nonce, verifier, goes_on, self._clock.time() + LASTS_S)
        wanted = {
            "response_type": "code",
            "client_id": believed.issuer.client_id,
            "redirect_uri": self._redirect_uri(call),
            "scope": " ".join(dict.fromkeys(["openid", *believed.issuer.scopes])),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        joined = "&" if urlsplit(place.authorization_endpoint).query else "?"
        sealed = self._login_cookie(self._sealer.seal(begun), LASTS_S, is_tls=self._is_tls(call))
        await _send_to(call, f"{place.authorization_endpoint}{joined}{urlencode(wanted)}", [sealed])

    async def come_back(self, call: Call) -> None:
        """Take the issuer's word for who she is, begin her session, and go on where she wanted to."""
        try:
            await self._take(call)
        except NotKnown as refusal:
            if not call.wants_html():
                raise
            again = f'<p>{escape(refusal.detail)}</p><p><a href="{escape(call.root + LOGIN)}">Log in</a></p>'
            await call.answer(_page("Not logged in", again), 401, HTML, [UNKEPT])

    async def _take(self, call: Call) -> None:
        query, request = call.query(), Request(call.scope)
        begun = self._begun(request)
        if not hmac.compare_digest(begun.state.encode(), query.get("state", "").encode()):
            raise NotKnown("this is not the login that was begun here; log in again")
        if query.get("iss", begun.issuer) != begun.issuer:
            raise NotKnown("another issuer answers than the one that was asked; log in again")
        if error := query.get("error"):
            told = error if _WORD.fullmatch(error) else "an error"
            raise NotKnown(f"the issuer did not log her in: {told}; log in again")
        code = query.get("code", "")
        if not 0 < len(code) <= LONGEST_CODE:
            raise NotKnown("the issuer sent no code; log in again")
        believed = self._chosen(begun.issuer)
        claims = await self._claims(believed, code, begun, self._redirect_uri(call))
        is_tls = self._is_tls(call)
        cookie = self._sessions.begin(believed.caller(claims), is_tls=is_tls)
        await _send_to(call, begun.next, [cookie, self._login_cookie("", 0, is_tls=is_tls)])

    async def ask(self, call: Call) -> None:
        """A page that asks whether to log out: a link from elsewhere must not do it."""
        form = f'<form method="post" action="{escape(call.root + LOGOUT)}"><button>Log out</button></form>'
        await call.answer(_page("Log out", form), 200, HTML, [UNKEPT])

    async def end(self, call: Call) -> None:
        """End the session in this browser. Raises Rejected (403) where a page of others may have sent it."""
        await call.body()
        request = Request(call.scope)
        shown = self._sessions.shown(request)
        if shown:
            with suppress(NotKnown):  # it is over anyway
                self._sessions.read(request, shown)
        headers = [UNKEPT, *_set(self._sessions.end(request))]
        if not call.wants_html():
            await call.answer(b"", 204, headers=headers)
            return
        ends = [await self._ends_at(each) for each in self._callers.issuers]
        links = "".join(
            f'<p><a href="{escape(url)}">Log out at {escape(urlsplit(url).hostname or "")} too</a></p>'
            for url in ends
            if url
        )
        await call.answer(_page("Log out", f"<p>You are logged out.</p>{links}"), 200, HTML, headers)

    async def tell(self, call: Call) -> None:
        """Tell a page's program who is logged in, until when, and the proof that it may show with a change."""
        request = Request(call.scope)
        if not (shown := self._sessions.shown(request)):
            raise NotKnown("nobody is logged in", "unauthenticated")
        session = self._sessions.read(request, shown)
        caller = session.caller
        told = {
            "subject": caller.subject,
            "roles": sorted(caller.roles),
            "tenant": caller.tenant,
            "ends_in_s": int(session.until - self._clock.time()),
            PROOF: session.proof,
        }
        await call.answer_json(told, 200, [UNKEPT])

    def _chosen(self, issuer: str) -> Believed:
        names = [each.issuer for each in self._callers.issuers]
        if issuer and issuer not in names:
            raise Invalid(f"issuer must be one of: {', '.join(names)}", field="query.issuer", status=400)
        return self._callers.believed[issuer or names[0]]

    def _begun(self, request: Request) -> Begun:
        begun = self._sealer.open(request.cookies.get(self._cookie, ""), Begun)
        if begun is None or self._clock.time() >= begun.until:
            raise NotKnown("no login was begun in this browser, or too long ago; log in again")
        return begun

    async def _claims(self, believed: Believed, code: str, begun: Begun, redirect_uri: str) -> Mapping[str, Any]:
        """The claims of the ID token that the issuer gives for a code. Raises NotKnown, NotYet and Unavailable."""
        issuer, place = believed.issuer, await _place_of(believed)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": issuer.client_id,
            "code_verifier": begun.verifier,
        }
        secret = (issuer.client_id, issuer.client_secret) if issuer.client_secret else None
        if secret and "client_secret_basic" not in place.token_endpoint_auth_methods_supported:
            form, secret = {**form, "client_secret": issuer.client_secret}, None
        status, body = await self._callers.fetch.post(place.token_endpoint, form, secret)
        if status != 200:
            raise NotKnown(f"the issuer gave nothing for its code ({status}); log in again")
        try:
            token = msgspec.json.decode(body, type=_Granted).id_token
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise NotKnown("the issuer gave no ID token; log in again") from error
        claims = await self._callers.bearers.claims(token, issuer.client_id)
        if claims["iss"] != issuer.issuer or not _is_same(claims.get("nonce"), begun.nonce):
            raise NotKnown("the issuer's ID token is not of this login; log in again")
        if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and claims.get("azp") != issuer.client_id:
            raise NotKnown("the issuer's ID token is for another client; log in again")
        return claims

    async def _ends_at(self, issuer: Issuer) -> str:
        """Where the issuer's own session ends; empty where it says nothing of that, or does not answer."""
        try:
            url = (await self._callers.believed[issuer.issuer].keys.place()).end_session_endpoint
        except NotYet:
            return ""
        return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode({'client_id': issuer.client_id})}" if url else ""

    def _redirect_uri(self, call: Call) -> str:
        base = self._callers.identity.url
        if not base:
            base = f"{call.scope.get('scheme', 'http')}://{call.header(b'host') or ''}{call.root}"
        return base.rstrip("/") + CALLBACK

    def _is_tls(self, call: Call) -> bool:
        return (self._callers.identity.url or f"{call.scope.get('scheme')}:").startswith("https:")

    def _login_cookie(self, value: str, max_age_s: int, *, is_tls: bool) -> Cookie:
        return Cookie(self._cookie, value, max_age_s, path="/", secure=is_tls)


async def _place_of(believed: Believed) -> IssuerPlace:
    """Where an issuer logs people in. Raises NotYet, and Rejected for one that does not."""
    place = await believed.keys.place()
    if not place.authorization_endpoint or not place.token_endpoint:
        raise Rejected("no_login", f"{believed.issuer.issuer} logs nobody in by a code", status=501)
    return place


async def _send_to(call: Call, url: str, cookies: Sequence[Cookie]) -> None:
    await call.answer(b"", 303, headers=[(b"location", url.encode()), UNKEPT, *_set(cookies)])


def _set(cookies: Sequence[Cookie]) -> list[Header]:
    return encoded([("set-cookie", each.written()) for each in cookies])


def _is_same(value: object, expected: str) -> bool:
    return isinstance(value, str) and hmac.compare_digest(value.encode("utf-8", "replace"), expected.encode())


def _page(title: str, body: str) -> bytes:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{body}</main></body></html>'.encode()
