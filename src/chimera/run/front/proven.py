"""What a trusted proxy says of a client's certificate, taken over from its header; from nobody else is it believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from chimera.run.front.settings import EVERYBODY
from chimera.web.wire.http import PROVEN, ASGIApp, Receive, Scope, Send


class Proven:
    """Says in the scope of a request what stands in `header`, where one of the `proxies` has sent it.

    It looks at who is connected, so it stands in front of what believes `X-Forwarded-For`.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str], header: str) -> None:
        self._app = app
        self._all = EVERYBODY in proxies
        self._networks = [ipaddress.ip_network(each, strict=False) for each in proxies if each != EVERYBODY]
        self._header = header.lower().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""
        if scope["type"] == "http" and self._trusts(scope):
            found = [value.decode("latin-1") for name, value in scope["headers"] if name == self._header]
            scope = {**scope, PROVEN: found}
        await self._app(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        if self._all:
            return True
        client = scope.get("client")
        try:
            address = ipaddress.ip_address(client[0]) if client else None
        except ValueError:
            return False
        return address is not None and any(address in network for network in self._networks)
