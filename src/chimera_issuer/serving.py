"""The endpoints of the issuer (OpenID Connect Core 1.0, authorization code with PKCE), as a part of a site."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chimera.core.clock import Clock
from chimera.errors import Invalid, Rejected
from chimera.web.identity.people import CLIENT, PATH, People, Person
from chimera.web.permission.groups import is_local
from chimera.web.replying import Unauthenticated
from chimera.web.wire.http import HTML, POLICY, Call, Header, parse_query
from chimera.web.wire.routing import Endpoint, Route
from chimera_issuer.grants import Codes, Denied, LoginWanted, is_of_this_machine, read_wanted
from chimera_issuer.keys import ALGORITHM, kept_key
from chimera_issuer.pages import choosing, left
from chimera_issuer.tokens import GOOD_S, Tokens, told_of

NOT_KEPT: Header = (b"cache-control", b"no-store")
FORM = "application/x-www-form-urlencoded"
FORM_LIMIT = 16 << 10


class DevelopmentIssuer:
    """Tells clients who somebody is, who has only said so: for this machine, and nobody beyond it.

    `base`: where it is served, as in `http://127.0.0.1:8000`. Its key is kept in the folder `state`.
    """

    def __init__(self, settings: People, state: Path, base: str, clock: Clock) -> None:
        self._people = {person.subject: person for person in settings.people}
        self._key = kept_key(state / "issuer.pem")
        self._issuer = base + PATH
        self._tokens = Tokens(self._issuer, self._key, clock)
        self._codes = Codes(clock)

    def routes(self) -> Sequence[Route]:
        """The routes, all below `/_issuer`."""
        endpoints: list[tuple[str, str, Endpoint]] = [
            ("GET", "/.well-known/openid-configuration", self.described),
            ("GET", "/jwks", self.keys),
            ("GET", "/authorize", self.asked),
            ("POST", "/authorize", self.chosen),
            ("POST", "/token", self.token),
            ("GET", "/userinfo", self.told),
            ("POST", "/userinfo", self.told),
            ("GET", "/logout", self.logged_out),
            ("POST", "/logout", self.logged_out),
        ]
        return [Route(method, PATH + path, _local(endpoint)) for method, path, endpoint in endpoints]

    async def described(self, call: Call) -> None:
        """Answer with what clients have to know (OpenID Connect Discovery 1.0)."""
        own = self._issuer
        found = {
            "issuer": own,
            "authorization_endpoint": f"{own}/authorize",
            "token_endpoint": f"{own}/token",
            "userinfo_endpoint": f"{own}/userinfo",
            "end_session_endpoint": f"{own}/logout",
            "jwks_uri": f"{own}/jwks",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": ["openid", "profile"],
            "claims_supported": ["sub", "name", "roles"],
            "authorization_response_iss_parameter_supported": True,
        }
        await call.answer_json(found)

    async def keys(self, call: Call) -> None:
        """Answer with the public half of the key."""
        await call.answer_json({"keys": [self._key.public]})

    async def asked(self, call: Call) -> None:
        """Answer with the page on which one says who one is."""
        given = call.query()
        try:
            wanted = read_wanted(given)
        except Denied as refused:
            await _redirect(call, refused.answer)
            return
        page = choosing([*self._people.values()], given, f"{call.root}{PATH}/authorize")
        await call.answer(page.encode(), 200, HTML, [NOT_KEPT, _policy(wanted)])

    async def chosen(self, call: Call) -> None:
        """Send her who was chosen back to the client, with a code."""
        _check_own(call)
        given = await _form(call)
        try:
            wanted = read_wanted(given)
        except Denied as refused:
            await _redirect(call, refused.answer)
            return
        person = self._person(given.get("subject", ""))
        code = self._codes.give(wanted, person.subject)
        await _redirect(call, wanted.answer(code=code, iss=self._issuer))

    async def token(self, call: Call) -> None:
        """Answer with tokens for a code (RFC 6749, 5.1), or with why not (5.2)."""
        given = await _form(call)
        if given.get("grant_type") != "authorization_code":
            await _refuse(call, "unsupported_grant_type", "the grant_type is authorization_code")
            return
        if given.get("client_id") != CLIENT:
            await _refuse(call, "invalid_client", f"the client here is {CLIENT!r}")
            return
        found = self._codes.take(given.get("code", ""), given.get("redirect_uri", ""), given.get("code_verifier", ""))
        if found is None:
            await _refuse(call, "invalid_grant", "the code is not good, was used, or is another's")
            return
        wanted, subject = found
        person = self._person(subject)
        tokens = {
            "access_token": self._tokens.access(person, wanted.scope),
            "token_type": "Bearer",
            "expires_in": GOOD_S,
            "scope": wanted.scope,
            "id_token": self._tokens.identity(person, wanted.nonce),
        }
        await call.answer_json(tokens, 200, [NOT_KEPT])

    async def told(self, call: Call) -> None:
        """Answer with what is known of her whose access token is shown."""
        scheme, _, shown = (call.header(b"authorization") or "").partition(" ")
        subject = self._tokens.subject_of(shown.strip()) if scheme.lower() == "bearer" else ""
        if (person := self._people.get(subject)) is None:
            raise Unauthenticated("unauthenticated", "an access token of this issuer is needed", "Bearer")
        await call.answer_json(told_of(person), 200, [NOT_KEPT])

    async def logged_out(self, call: Call) -> None:
        """Send her back to the client: the issuer remembers nobody."""
        given = call.query() if call.scope["method"] != "POST" else await _form(call)
        back, state = given.get("post_logout_redirect_uri", ""), given.get("state", "")
        if not back:
            await call.answer(left().encode(), 200, HTML, [NOT_KEPT])
            return
        if not is_of_this_machine(back):
            raise Invalid("an address of this machine is needed", field="post_logout_redirect_uri", status=400)
        await _redirect(call, LoginWanted(back, state, "", "", "").answer() if state else back)

    def _person(self, subject: str) -> Person:
        if (person := self._people.get(subject)) is None:
            raise Invalid(f"nobody here is {subject[:64]!r}", field="subject", status=400)
        return person


def issuer_of(settings: People, state: Path, base: str, clock: Clock) -> DevelopmentIssuer:
    """What the entry point names. Raises SettingsError for a key that can't be read."""
    return DevelopmentIssuer(settings, state, base, clock)


def _local(endpoint: Callable[[Call], Awaitable[None]]) -> Endpoint:
    async def guarded(call: Call) -> None:
        if not is_local(call):
            raise Rejected("forbidden", "this issuer is for development: it serves its own machine only", status=403)
        await endpoint(call)

    return guarded


def _check_own(call: Call) -> None:
    """Raises Rejected for a form that is another site's."""
    origin = call.header(b"origin")
    if origin is not None and urlsplit(origin).netloc != call.header(b"host"):
        raise Rejected("forbidden", "a page of another site can't choose who you are", status=403)


async def _form(call: Call) -> Mapping[str, str]:
    """The fields of a form. Raises Invalid."""
    content_type = (call.header(b"content-type") or "").partition(";")[0].strip().lower()
    if content_type != FORM:
        raise Invalid(f"the body is {FORM}", field="header.Content-Type", status=415)
    pairs = parse_query(await call.body(FORM_LIMIT))
    given = dict(pairs)
    if len(given) != len(pairs):
        raise Invalid("a field is given more than once", field="body", status=400)
    return given


def _policy(wanted: LoginWanted) -> Header:
    """The form leads here, and from here to the client."""
    allowed = f"default-src 'none'; style-src 'unsafe-inline'; form-action 'self' {wanted.origin}"
    return POLICY, f"{allowed}; base-uri 'none'; frame-ancestors 'none'".encode()


async def _redirect(call: Call, where: str) -> None:
    await call.answer(b"", 303, b"text/plain", [(b"location", where.encode("ascii", "ignore")), NOT_KEPT])


async def _refuse(call: Call, error: str, description: str) -> None:
    told: dict[str, Any] = {"error": error, "error_description": description}
    await call.answer_json(told, 400, [NOT_KEPT])
