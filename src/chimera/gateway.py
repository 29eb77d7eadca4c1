"""One port in front of services that run in processes of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aiohttp

from chimera.engines import Engines
from chimera.errors import Unavailable
from chimera.read_head import ReadHead
from chimera.settings import Settings
from chimera.web.home import Home
from chimera.web.http import Call
from chimera.web.routing import Endpoint, Route
from chimera.web.site import Site

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"host",
    b"content-length",
    b"expect",
}
TIMEOUT = aiohttp.ClientTimeout(total=60.0, connect=2.0)


class Gateway:
    """Forwards each route to the process of its service."""

    def __init__(self, settings: Settings) -> None:
        engines = Engines(settings, fleet=True)
        self._heads = [ReadHead(engines.body(name)) for name in settings.services]
        self._bases = {name: settings.base(name, fleet=True) for name in settings.services}
        self._title = settings.title
        self._session: aiohttp.ClientSession | None = None

    def site(self) -> Site:
        """The application that serves the routes of all services."""
        return Site([self, Home(self._title, self._heads)])

    def routes(self) -> Sequence[Route]:
        return [
            route._replace(endpoint=self._forward(self._bases[head.body.service.name]))
            for head in self._heads
            for route in head.routes()
        ]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _forward(self, base: str) -> Endpoint:
        async def forward(call: Call) -> None:
            body = await call.body()
            query = call.scope["query_string"]
            path = call.scope["raw_path"] + (b"?" + query if query else b"")
            await self._send(call, base, path, body)

        return forward

    async def _send(self, call: Call, base: str, path: bytes, body: bytes) -> None:
        from yarl import URL

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=256)
            self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, auto_decompress=False)
        try:
            async with self._session.request(
                call.scope["method"],
                URL(base + path.decode("latin-1"), encoded=True),
                data=body or None,
                headers=_passed_on(dict(call.scope["headers"])),
                allow_redirects=False,
            ) as response:
                answer = await response.read()
                headers = [
                    (name.lower(), value) for name, value in response.raw_headers if name.lower() not in HOP_BY_HOP
                ]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{base} can't be reached: {type(error).__name__} {error}") from error
        content_type = next((value for name, value in headers if name == b"content-type"), b"application/octet-stream")
        await call.answer(
            answer, response.status, content_type, [pair for pair in headers if pair[0] != b"content-type"]
        )


def _passed_on(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items() if name not in HOP_BY_HOP
    }
