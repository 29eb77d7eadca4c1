"""The front page of a site, and its OpenAPI description."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from chimera.parts import path_parameters
from chimera.web.wire import openapi
from chimera.web.wire.http import HTML, Call
from chimera.web.wire.routing import Route

if TYPE_CHECKING:
    from chimera.web.read_head import ReadHead

STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--accent:#0a6c4c}
@media(prefers-color-scheme:dark){:root{--accent:#5fd3a8}}
*{box-sizing:border-box}
body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:0}p{margin:.25rem 0}
a{color:var(--accent)}code,pre{font:.9rem/1.5 ui-monospace,monospace}
nav,.links{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin:.5rem 0}
section{border-top:1px solid var(--line);margin-top:1.5rem;padding-top:1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--soft)}
td:first-child{width:4.5rem}td:nth-child(2){width:50%}
@media(max-width:40rem){tr{display:block;padding:.4rem 0;border-bottom:1px solid var(--soft)}
td{display:inline;border:0;padding:0 .5rem 0 0}td:last-child{display:block}}
summary{cursor:pointer}pre{background:var(--soft);padding:.75rem;border-radius:.4rem;margin:.5rem 0;
overflow-x:auto;white-space:pre-wrap}
"""
ADDED = ("status", "heads", "borrows", "health/ready", "metrics")
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")
_BASE = b"http://host.invalid"
_ROOT = b"/root.invalid"


class _Written(NamedTuple):
    """The description, as JSON, and the front page."""

    described: bytes
    page: bytes


class Home:
    """The front page for people (`/`), the description for programs (`/openapi.json`), the process's `/metrics`.

    `about` says in a sentence what each service is.
    """

    def __init__(self, title: str, heads: Sequence[ReadHead], about: Mapping[str, str] = {}) -> None:
        self._process = heads[0].probes.process_routes()
        self._heads, self._title, self._about = heads, title, about
        self._writing: asyncio.Future[_Written] | None = None

    def routes(self) -> Sequence[Route]:
        """The routes of the site as a whole, beside those of its services."""
        return [Route("GET", "/", self.front), Route("GET", "/openapi.json", self.described), *self._process]

    async def front(self, call: Call) -> None:
        """Answer with the front page as HTML; its examples name the host that was asked."""
        host = call.header(b"host") or ""
        named, root = host.encode("latin-1"), call.root.encode()
        scheme = b"https" if call.scope.get("scheme") == "https" else b"http"
        base = b"%b://%b" % (scheme, named) if _HOST.fullmatch(named) else b""
        page = (await self._written()).page.replace(_ROOT, escape(call.root).encode())
        await call.answer(page.replace(_BASE, base + root), 200, HTML)

    async def described(self, call: Call) -> None:
        """Answer with the OpenAPI description as JSON; its server is where it is mounted."""
        described = (await self._written()).described
        if call.root:
            described = b'{"servers":%b,' % msgspec.json.encode([{"url": call.root}]) + described[1:]
        await call.answer(described)

    async def _written(self) -> _Written:
        """Both documents, written when first asked for: of a hundred services they take seconds."""
        if self._writing is None:
            self._writing = asyncio.ensure_future(asyncio.to_thread(self._write))
        return await asyncio.shield(self._writing)

    def _write(self) -> _Written:
        routes = {head.context.service.name: head.routes() for head in self._heads}
        every = [route for own in routes.values() for route in own] + self._process
        document = _without_unset(openapi.document(self._title, every, self._about))
        return _Written(msgspec.json.encode(document), _page(self._title, self._about, routes, document).encode())


def _without_unset(found: Any) -> Any:
    """A description without the defaults of fields that may be left out: JSON has no word for them."""
    if isinstance(found, dict):
        return {name: _without_unset(value) for name, value in found.items() if value is not msgspec.UNSET}
    return [_without_unset(each) for each in found] if isinstance(found, list) else found


def _page(
    title: str, about: Mapping[str, str], routes: Mapping[str, Sequence[Route]], document: openapi.Described
) -> str:
    sections = "".join(
        _section(name, about.get(name, ""), own, document, first=index == 0)
        for index, (name, own) in enumerate(routes.items())
    )
    contents = "".join(f"<a href='#{name}'>{name}</a>" for name in routes) if len(routes) > 1 else ""
    root = _ROOT.decode()
    count = f"{len(routes)} services are" if len(routes) > 1 else "One service is"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{count} served here. <code>POST</code>, <code>PUT</code>, <code>PATCH</code> and <code>DELETE</code> are commands:
a command is done when it is answered, or it is accepted, and what became of it can be asked for.
<code>GET</code> reads; pages come as JSON, and as HTML to a browser. The examples under <em>Try it</em> work as they
are. For programs: <a href="{root}/openapi.json">openapi.json</a>, <a href="{root}/metrics">metrics</a>.</p>
<nav aria-label="Services">{contents}</nav>
<main>{sections}</main></body></html>
"""


def _section(name: str, about: str, routes: Sequence[Route], document: openapi.Described, *, first: bool) -> str:
    own = [route for route in routes if route.describe and not route.template.startswith("/_chimera/")]
    rows = "".join(_row(route) for route in own)
    examples = "\n".join(_curl(route, document) for route in own)
    added = "".join(f"<a href='{_ROOT.decode()}/_chimera/{name}/{path}'>{path}</a>" for path in ADDED)
    return f"""<section aria-labelledby="{name}"><h2 id="{name}">{name}</h2><p>{_marked(about)}</p>
<table><tbody>{rows}</tbody></table>
<details{" open" if first else ""}><summary>Try it</summary><pre>{escape(examples)}</pre></details>
<p class="links"><span>For operators:</span>{added}</p></section>
"""


def _row(route: Route) -> str:
    path = escape(route.template)
    if route.method == "GET":
        path = f"<a href='{_ROOT.decode()}{escape(_filled(route.template))}'>{path}</a>"
    operation = route.describe() if route.describe else {}
    words = (
        operation.get("summary", "")
        if len(operation.get("description", "")) > 160
        else (operation.get("description") or operation.get("summary", ""))
    )
    return f"<tr><td><code>{route.method}</code></td><td><code>{path}</code></td><td>{_marked(words)}</td></tr>"


def _marked(text: str) -> str:
    """Text with `code` in it, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _curl(route: Route, document: openapi.Described) -> str:
    """A command line that works as it is."""
    url = f"{_BASE.decode()}{_filled(route.template)}"
    quoted = f"'{url}'" if "?" in url else url
    if route.method == "GET":
        return f"curl {quoted}"
    described = document["paths"][route.template][route.method.lower()]
    if "requestBody" not in described:
        return f"curl -X {route.method} {quoted}"
    schema = described["requestBody"]["content"].get("application/json", {}).get("schema")
    if schema is None:  # an upload: a body of any kind
        return f"curl -X {route.method} {quoted} --data-binary @FILE"
    key = [name for name in schema["properties"] if name.endswith("_id")][:1]
    names = dict.fromkeys([*key, *schema["required"]])
    body = {name: _sample(name, schema["properties"][name]) for name in names}
    data = msgspec.json.encode(body).decode()
    return f"curl -X {route.method} {quoted} -H 'Content-Type: application/json' -d '{data}'"


def _filled(template: str) -> str:
    """A path with its parameters filled in."""
    for name in path_parameters(template):
        template = template.replace(f"{{{name}}}", str(_sample(name, {})))
    return template


def _sample(name: str, schema: openapi.Described) -> object:
    """A value that fits a field, the same wherever the field has that name."""
    if "anyOf" in schema:
        return _sample(name, schema["anyOf"][0])
    if "enum" in schema:
        return next((value for value in schema["enum"] if value != schema["enum"][0]), schema["enum"][0])
    match schema.get("type"):
        case "integer" | "number":
            return min(max(1500, schema.get("minimum", 0)), schema.get("maximum", 1500))
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            return {}
    if schema.get("format") == "date-time":
        return "2025-05-01T12:00:00Z"
    return f"{name.removesuffix('_id')}-1" if name.endswith("_id") else f"Some {name.replace('_', ' ')}"
