"""The ASGI application: one or many services' routes on one port."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_network
from typing import Protocol

from chimera.core.clock import Clock
from chimera.core.timing import Doors, PerCaller
from chimera.errors import Unavailable
from chimera.web.replying import answer_error
from chimera.web.wire.http import Call, Receive, Render, Scope, Send, mounted
from chimera.web.wire.routing import Route, Router
from chimera.web.wire.shares import Shares
from chimera.web.wire.turns import CallerTurns


class SitePart(Protocol):
    """Something with routes, such as a service's read head."""

    def routes(self) -> Sequence[Route]:
        """The routes, in the order in which they win."""


class Site:
    """Answers for all its parts. Whatever goes wrong becomes a problem document.

    `doors` say how many requests, and bytes of bodies, may be under way. Each service has its share of them, reads that
    wait (`Chimera-After`, `wait=`) one of their own, and in both each client by its address: whoever comes beyond it is
    to come again. `limits` say what one address may ask for. Health is answered always.
    """

    def __init__(
        self,
        parts: Sequence[SitePart],
        *,
        doors: Doors = Doors(),
        limits: PerCaller = PerCaller(),
        clock: Clock | None = None,
    ) -> None:
        routes = [route for part in parts for route in part.routes()]
        self._router = Router(routes)
        self._render = _common_render(routes)
        self._requests = Shares(doors.requests)
        self._bodies = Shares(doors.body_bytes)
        self._turns = CallerTurns(limits, clock or Clock()) if limits.is_set else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send, {}, self._bodies, render=self._render)
        try:
            raw_path = scope.get("raw_path")
            if not raw_path or scope.get("root_path") or len(raw_path) != len(scope["path"]):
                raw_path, call.root = mounted(scope)
            call.client = client_of(scope)
            if self._turns is not None and not _is_health(raw_path):
                call.enter(self._turns, call.client)
            route, call.path = self._router.find(scope["method"], raw_path, scope["query_string"])
            call.service, call.render = route.service, route.render
            lane = self._requests.take((route.service, call.waits), call.client)
            if lane is None and "/health/" not in route.template:
                raise Unavailable(f"{self._requests.taken} requests are under way")
            try:
                await route.endpoint(call)
            finally:
                if lane is not None:
                    self._requests.give_back(lane, call.client)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - every failure is answered, none is hidden
            await answer_error(call, error)
        finally:
            if call.held:
                call.let_go()
            for leave in call.leaving:
                leave()


def _common_render(routes: Sequence[Route]) -> Render | None:
    """How errors are given where no route is: as the services do, when all that have a way have the same."""
    renders = {route.render for route in routes if route.render is not None}
    return renders.pop() if len(renders) == 1 else None


def _is_health(raw_path: bytes) -> bool:
    return raw_path.startswith(b"/_chimera/") and b"/health/" in raw_path


def client_of(scope: Scope) -> str:
    """The address of who asks; of IPv6, its network: whoever has one address there has them all."""
    client = scope.get("client")
    address: str = client[0] if client else ""
    return _network_of(address) if ":" in address else address


@lru_cache(4096)
def _network_of(address: str) -> str:
    try:
        return str(ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
