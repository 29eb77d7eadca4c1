"""A small issuer of tokens (OpenID Connect) on loopback, with keys of its own; and a desk whose callers it knows."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from httpx import ASGITransport, AsyncClient
from msgspec import Struct

from chimera import Caller, Command, Entity, Event, Reader, Service, Transaction, anyone, role, somebody
from chimera.core.clock import Clock
from chimera.core.context import Context, Reach
from chimera.run.engines import context_of
from chimera.run.front.issuers import IssuersOverHttp, login_of
from chimera.run.serving import listening
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.web.identity.callers import KnownCallers
from chimera.web.identity.settings import Identity, KeyTimes
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from chimera.web.wire.http import Receive, Scope, Send, below
from tests.support import NoOwner

CLIENT, AUDIENCE, SECRET = "desk-client", "desk", "s" * 40
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(kid: str, key: Any, **more: Any) -> dict[str, Any]:
    """The public half of a key as an issuer shows it."""
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        shown = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        shown = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        shown = jwt.algorithms.OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**shown, "kid": kid, "use": "sig", **more}


class MovedTime(Clock):
    """The system's clock, moved by so many seconds."""

    def __init__(self) -> None:
        self.moved = 0.0
        self.monotonic = lambda: time.monotonic() + self.moved
        self.time = lambda: time.time() + self.moved


class SmallIssuer:
    """Issues tokens; shows its keys, and logs `person` in at once."""

    def __init__(self) -> None:
        self.base = ""
        self.shown: list[dict[str, Any]] = [jwk("one", RSA_KEY)]
        self.asked: list[str] = []
        self.is_away = False
        self.says: dict[str, Any] = {}
        self.person: dict[str, Any] = {"sub": "ann", "roles": ["editor"]}
        self.methods = ["client_secret_basic"]
        self.codes: dict[str, dict[str, str]] = {}
        self.id_token: dict[str, Any] = {}

    def token(
        self,
        subject: str = "ann",
        *,
        key: Any = RSA_KEY,
        kid: str | None = "one",
        algorithm: str = "RS256",
        **more: Any,
    ) -> str:
        """A token; a claim of None is left out."""
        now = int(time.time())
        claims = {"iss": self.base, "sub": subject, "aud": AUDIENCE, "iat": now, "exp": now + 300, "roles": ["editor"]}
        header = more.pop("header", {})
        claims = {name: value for name, value in {**claims, **more}.items() if value is not None}
        return str(jwt.encode(claims, key, algorithm, headers={**({"kid": kid} if kid is not None else {}), **header}))

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"issuer": self.base, "audience": AUDIENCE, **more}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, query = scope["path"], dict(parse_qsl(scope["query_string"].decode()))
        self.asked.append(path)
        status, headers, body = 200, [(b"content-type", b"application/json")], b""
        if self.is_away:
            status, body = 500, b"away"
        elif path.startswith("/.well-known/"):
            body = json.dumps(self._place()).encode()
        elif path == "/keys":
            body = json.dumps({"keys": self.shown}).encode()
        elif path == "/authorize":
            self.codes[code := f"code-{len(self.codes)}"] = query
            target = f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state'], 'iss': self.base})}"
            status, headers = 302, [(b"location", target.encode())]
        elif path == "/token":
            status, body = self._granted(dict(parse_qsl(await _body(receive))), dict(scope["headers"]))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _place(self) -> dict[str, Any]:
        place = {
            "issuer": self.base,
            "jwks_uri": f"{self.base}/keys",
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "end_session_endpoint": f"{self.base}/end",
            "token_endpoint_auth_methods_supported": self.methods,
        }
        return {**place, **self.says}

    def _granted(self, form: dict[str, str], headers: dict[bytes, bytes]) -> tuple[int, bytes]:
        """The answer to a code, once: for who has begun the login, and knows the client's secret."""
        asked = self.codes.pop(form.get("code", ""), None)
        basic = b"Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode())
        is_client = headers.get(b"authorization") == basic or form.get("client_secret") == SECRET
        if asked is None or not is_client:
            return 400, b'{"error": "invalid_grant"}'
        challenge = text(hashlib.sha256(form["code_verifier"].encode()).digest())
        if challenge != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return 400, b'{"error": "invalid_grant"}'
        claims = {"aud": CLIENT, "nonce": asked["nonce"], **self.person, **self.id_token}
        key, kid = claims.pop("key", RSA_KEY), claims.pop("kid", "one")
        token = self.token(claims.pop("sub"), key=key, kid=kid, **claims)
        return 200, json.dumps({"id_token": token, "access_token": "opaque", "token_type": "Bearer"}).encode()


async def _body(receive: Receive) -> str:
    data = b""
    while True:
        event = await receive()
        data += bytes(event.get("body", b""))
        if not event.get("more_body"):
            return str(data, "utf-8")


@asynccontextmanager
async def issuing() -> AsyncIterator[SmallIssuer]:
    """An issuer at a port of this machine."""
    issuer = SmallIssuer()
    async with listening(issuer, "127.0.0.1", 0) as base:
        issuer.base = base
        yield issuer


class Note(Entity, key="note_id"):
    note_id: str
    by: str


class Write(Command, key="note_id"):
    note_id: str


class Put(Command, key="note_id"):
    note_id: str


class Written(Event, source="desk", key="note_id"):
    note_id: str


class Told(Struct):
    subject: str
    roles: list[str]
    tenant: str
    claims: dict[str, Any]


def desk_service() -> Service:
    desk = Service("desk", partitions=2)
    desk.entity(Note)

    @desk.handle("POST /notes", allow=somebody)
    async def write(command: Write, tx: Transaction, caller: Caller) -> None:
        if command.note_id.startswith("poison"):
            raise RuntimeError(f"{command.note_id} of {caller} can't be written")
        tx.save(Note(command.note_id, caller.subject))
        tx.emit(Written(command.note_id))

    @desk.handle("PUT /notes/{note_id}", direct=True, allow=role("editor"))
    async def put(command: Put, tx: Transaction, caller: Caller) -> None:
        tx.save(Note(command.note_id, caller.subject))
        tx.emit(Written(command.note_id))

    @desk.get("/me", allow=somebody)
    async def me(caller: Caller) -> Told:
        return Told(caller.subject, sorted(caller.roles), caller.tenant, dict(caller.claims))

    @desk.get("/greeting", allow=anyone)
    async def greeting(caller: Caller | None) -> str:
        return caller.subject if caller else "nobody"

    @desk.get("/notes/{note_id}", allow=anyone)
    async def note(note_id: str, read: Reader) -> Note | None:
        return await read.load(Note, note_id)

    return desk


async def _mounted(site: Site, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    inside = below(scope, path)
    assert inside is not None, scope["path"]
    await site(inside, receive, send)


class Desk:
    """A desk that is served, with its insides at hand."""

    def __init__(self, context: Context, callers: KnownCallers, client: AsyncClient) -> None:
        self.context = context
        self.callers = callers
        self.client = client

    async def me(self, token: str = "", **headers: str) -> tuple[int, Any]:
        """Who asks, as the desk sees it, or why nobody."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        shown = {"authorization": f"Bearer {token}", **given} if token else given
        answer = await self.client.get("/me", headers=shown)
        return answer.status_code, answer.json()


@asynccontextmanager
async def served(
    identity: Identity,
    *,
    clock: Clock | None = None,
    secrets: list[str] | None = None,
    times: KeyTimes = KeyTimes(),
    base: str = "http://desk.test",
    reach: Reach = Reach(),
    below_path: str = "",
) -> AsyncIterator[Desk]:
    """The desk, whose callers are known by these settings; mounted below a path where one is given."""
    clock, fetch = clock or Clock(), IssuersOverHttp()
    callers = KnownCallers(identity, secrets or [SECRET], fetch, clock, times)
    engines = (MemoryLog(), MemoryStore(), MemoryViews())
    context = context_of(desk_service(), *engines, lambda name: NoOwner(), clock=clock, callers=callers)
    context = replace(context, reach=reach)
    await context.prepare()
    head = ReadHead(context)
    site: Any = Site([head, *login_of(callers)])
    served_site: Any = partial(_mounted, site, below_path) if below_path else site
    try:
        async with AsyncClient(transport=ASGITransport(served_site), base_url=base) as client:
            yield Desk(context, callers, client)
    finally:
        await head.stop()
        await callers.close()
        await fetch.close()
