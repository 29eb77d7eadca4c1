"""The ASGI application: one or many services' routes on one port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from chimera.core.timing import Limits
from chimera.errors import Invalid, Rejected, Unavailable
from chimera.web.http import Call, Receive, Scope, Send, answer_problem
from chimera.web.routing import NoRoute, Route, Router

logger = logging.getLogger("chimera")


class SitePart(Protocol):
    """Something with routes, such as a service's read head."""

    def routes(self) -> Sequence[Route]:
        """The routes, in the order in which they win."""


class Site:
    """Answers for all its parts. Whatever goes wrong becomes a problem document.

    `requests`: the most that may be under way; whoever comes beyond them is to come again.
    """

    def __init__(self, parts: Sequence[SitePart], *, requests: int = Limits().requests) -> None:
        self._router = Router([route for part in parts for route in part.routes()])
        self._requests = requests
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"chimera answers HTTP, not {scope['type']}")
        path: Mapping[str, str] = {}
        self._under_way += 1
        try:
            if self._under_way > self._requests and "/health/" not in scope["path"]:
                raise Unavailable(f"{self._requests} requests are under way")
            raw_path = scope.get("raw_path") or scope["path"].encode()
            if root := scope.get("root_path"):
                raw_path = raw_path.removeprefix(root.encode())
            endpoint, path = self._router.find(scope["method"], raw_path, scope["query_string"])
            await endpoint(Call(scope, receive, send, path))
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - every failure is answered, none is hidden
            await _answer_error(Call(scope, receive, send, path), error)
        finally:
            self._under_way -= 1


async def _answer_error(call: Call, error: Exception) -> None:
    if isinstance(error, NoRoute):
        allow = [(b"allow", ", ".join(error.allowed).encode())] if error.allowed else []
        detail = (
            f"{call.scope['path'][:200]} does not take {call.scope['method']}"
            if error.allowed
            else f"nothing is served at {call.scope['path'][:200]}"
        )
        await answer_problem(call, error.status, detail, headers=allow)
    elif isinstance(error, Invalid):
        close = [(b"connection", b"close")] if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else []
        await answer_problem(call, error.status, error.detail, field=error.field, headers=close)
    elif isinstance(error, Rejected):
        await answer_problem(call, error.status, error.detail or error.reason, reason=error.reason)
    elif isinstance(error, Unavailable):
        logger.warning("%s %s: %s", call.scope["method"], call.scope["path"], error)
        await answer_problem(
            call,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "it can't be done now, and nothing was kept; try again",
            headers=[(b"retry-after", b"1")],
        )
    else:
        logger.error("%s %s failed", call.scope["method"], call.scope["path"], exc_info=error)
        await answer_problem(call, HTTPStatus.INTERNAL_SERVER_ERROR, "something went wrong here; it is in the log")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return
