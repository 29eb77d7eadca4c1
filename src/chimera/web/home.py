"""The front page of a site, and its OpenAPI description."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import msgspec

from chimera.web import openapi
from chimera.web.http import HTML, Call
from chimera.web.routing import Route

if TYPE_CHECKING:
    from chimera.read_head import ReadHead

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1d2330}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:1.6rem}code{background:#f1f3f6;padding:.1rem .3rem}
li{margin:.2rem 0}a{color:#0b57d0}"""


class Home:
    """What is served here, for people (`/`) and for programs (`/openapi.json`)."""

    def __init__(self, title: str, heads: Sequence[ReadHead]) -> None:
        self._title = title
        self._heads = heads
        self._routes = [route for head in heads for route in head.routes()]
        self._described = msgspec.json.encode(openapi.document(title, self._routes))
        self._page = self._render().encode()

    def routes(self) -> Sequence[Route]:
        return [Route("GET", "/", self.front, {}), Route("GET", "/openapi.json", self.described, {})]

    async def front(self, call: Call) -> None:
        await call.answer(self._page, 200, HTML)

    async def described(self, call: Call) -> None:
        await call.answer(self._described)

    def _render(self) -> str:
        sections = []
        for head in self._heads:
            name = head.body.service.name
            own = [route for route in head.routes() if not route.template.startswith(("/_chimera/", "/metrics"))]
            items = "".join(f"<li><code>{route.method} {escape(route.template)}</code></li>" for route in own)
            status = f"<a href='/_chimera/{name}/status'>status</a>"
            sections.append(f"<h2 id='{name}'>{name}</h2><p>{status}</p><ul>{items}</ul>")
        title = escape(self._title)
        return (
            f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
            f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
            f"<p>{len(self._heads)} services are served here."
            f" Programs read <a href='/openapi.json'>openapi.json</a>.</p>"
            f"{''.join(sections)}</html>"
        )
