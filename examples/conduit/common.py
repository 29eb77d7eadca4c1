"""What both services of Conduit have in common: what one shares, who asks, passwords, and how errors look."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from typing import Any, NamedTuple

import jwt
from msgspec import Struct

from chimera import Caller, FieldError, Problem, Rejected, Reply, Request, Service

SECRET = os.environ.get("CONDUIT_SECRET", "a secret that only development has")
MISSING = ("required", "missing required field", "length >= 1", "got `null`")


class Profile(Struct):
    username: str
    bio: str | None = None
    image: str | None = None


class Follows(Struct):
    user_ids: list[str]


class Named(Struct):
    user_id: str


class Tokens(NamedTuple):
    """Makes tokens, and reads them."""

    secret: str = SECRET

    def make(self, user_id: str) -> str:
        return jwt.encode({"sub": user_id}, self.secret.ljust(32), algorithm="HS256")

    def read(self, token: str) -> str:
        return str(jwt.decode(token, self.secret.ljust(32), algorithms=["HS256"])["sub"])


class Hasher:
    """Hashes passwords beside the event loop."""

    async def hash(self, password: str) -> str:
        salt = os.urandom(16)
        return base64.b64encode(salt + await self._key(password, salt)).decode()

    async def fits(self, password: str, hashed: str) -> bool:
        known = base64.b64decode(hashed)
        return hmac.compare_digest(known[16:], await self._key(password, known[:16]))

    async def _key(self, password: str, salt: bytes) -> bytes:
        return await asyncio.to_thread(hashlib.scrypt, password.encode(), salt=salt, n=2**12, r=8, p=1)


def refused(status: int, field: str, detail: str) -> Rejected:
    return Rejected(detail.replace(" ", "_").replace("'", ""), detail, status=status, field=field)


def not_blank(**texts: Any) -> None:
    blank = [FieldError(name, "can't be blank") for name, text in texts.items() if text is None or text == ""]
    if blank:
        raise Rejected("blank", "can't be blank", status=422, errors=blank)


def set_up(service: Service) -> None:
    """Tokens, and errors as the front ends of Conduit know them."""
    service.provide(Tokens)

    @service.authenticate(challenge="Token")
    async def who(request: Request, tokens: Tokens) -> Caller | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer"):
            return None
        try:
            return Caller(tokens.read(token))
        except jwt.InvalidTokenError:
            raise refused(401, "token", "is invalid") from None

    @service.errors
    def shaped(problem: Problem) -> Reply[Any]:
        errors: dict[str, list[str]] = {}
        for each in problem.errors or [FieldError(problem.field, problem.detail)]:
            name = each.field.rpartition(".")[2].removeprefix("$") or "body"
            detail = "can't be blank" if any(words in each.detail for words in MISSING) else each.detail
            errors.setdefault(name, []).append("has already been taken" if problem.reason == "taken" else detail)
        if problem.reason == "unauthenticated":
            errors = {"token": ["is missing"]}
        return Reply({"errors": errors}, problem.status)
