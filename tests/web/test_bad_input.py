"""Every route with every kind of bad input: a problem document, a 4xx, and nothing kept.

A route is a method, a path with its good values filled in, and a good body. Each bad input changes one thing.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.web.served import Answer, Served

SERVICES = ("orders", "analytics", "top-clients", "gig-page", "user-page", "search")
BORROWERS = ("gig-page", "user-page", "search")
NEVER = b"-never-a-value-"


class Route(NamedTuple):
    """`path` has `{name}` where a key goes; `keyed` says that keys are checked there, else any text may be unknown."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    required: tuple[str, ...] = ()
    query: str = ""
    after: bool = False

    @property
    def good(self) -> str:
        for name in ("order_id", "seller_id", "client_id", "gig_id", "user_id"):
            if f"{{{name}}}" in self.path:
                return self.path.replace(f"{{{name}}}", "bad-input-1").replace("{client_id}", "c-1") + self.query
        return self.path + self.query

    def __str__(self) -> str:
        return f"{self.method} {self.path}{self.query}"


ORDER = {"buyer_id": "b", "seller_id": "s", "gig_id": "g", "amount_cents": 5, "order_id": "bad-input-1", "at": None}
GIG = {"seller_id": "s", "title": "t", "category": "c", "price_cents": 5}
OWN = (
    Route("POST", "/orders", ORDER, ("buyer_id", "seller_id", "gig_id", "amount_cents")),
    Route("POST", "/orders/{order_id}/stage", {"stage": "paid", "at": None}, ("stage",)),
    Route("GET", "/orders/{order_id}"),
    Route("GET", "/sellers/{seller_id}/sales", after=True),
    Route("GET", "/sellers/{seller_id}/sales", query="?by=day", after=True),
    Route("POST", "/sellers/{seller_id}/clients", {"name": "n", "client_id": "c-1", "industry": None}, ("name",)),
    Route("GET", "/sellers/{seller_id}/clients"),
    Route("DELETE", "/sellers/{seller_id}/clients/{client_id}", {}),
    Route("PUT", "/gigs/{gig_id}", GIG, tuple(GIG)),
    Route("GET", "/gigs/{gig_id}", after=True),
    Route("PUT", "/users/{user_id}", {"name": "n", "city": None, "about": None}, ("name",)),
    Route("GET", "/users/{user_id}", after=True),
    Route("GET", "/search", query="?q=a&category=b&page=1", after=True),
)
ADDED = (
    *(Route("GET", f"/_chimera/{service}/commands/nobody", query="?wait=0") for service in SERVICES),
    *(Route("GET", f"/_chimera/{service}/commands", query="?id=a&id=b") for service in SERVICES),
    *(Route("GET", f"/_chimera/{service}/journal", query="?partition=0&after=0&limit=1") for service in SERVICES),
    *(
        Route("GET", f"/_chimera/{service}/{path}")
        for service in SERVICES
        for path in ("heads", "journal/heads", "borrows", "status", "health/live", "health/ready", "metrics")
    ),
    Route("GET", "/_chimera/top-clients/share/top-clients", query="?key=a&key=b"),
    Route("GET", "/_chimera/top-clients/share/top-clients/digests", query="?partition=0"),
    Route("GET", "/_chimera/top-clients/share/top-clients/entries", query="?partition=0&bucket=1&bucket=2"),
    *(Route("PUT", f"/_chimera/{name}/borrows/top-clients", {"mode": "sync"}, ("mode",)) for name in BORROWERS),
    Route("GET", "/metrics"),
)
ROUTES = (*OWN, *ADDED)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


class Bad(NamedTuple):
    """What is sent instead, and the field that must be named, where one is at fault."""

    what: str
    path: str
    body: bytes | None = None
    headers: tuple[tuple[str, str | bytes], ...] = ()
    field: str | None = None
    status: int | None = None
    chunked: bool = False


def deep(opening: str, closing: str) -> bytes:
    return (opening * 10_000 + "1" + closing * 10_000).encode()


NOT_JSON: tuple[tuple[str, bytes], ...] = (
    ("cut off", b'{"a'),
    ("text", b"hello"),
    ("nul", b"\0"),
    ("trailing comma", b'{"a":1,}'),
    ("single quotes", b"{'a':1}"),
    ("two objects", b"{}{}"),
    ("byte order mark", b"\xef\xbb\xbf{}"),
    ("utf-16", '{"a":1}'.encode("utf-16")),
    ("form", b"a=1&b=2"),
    ("comment", b"{/* */}"),
    ("array", b"[]"),
    ("string", b'"x"'),
    ("number", b"1"),
    ("null", b"null"),
    ("true", b"true"),
    ("deep arrays", deep("[", "]")),
    ("deep objects", deep('{"a":', "}")),
    ("invalid utf-8 name", b'{"\xff":1}'),
    ("lone surrogate in a name", b'{"\\ud800":1}'),
    ("unknown field", b'{"surprise":1}'),
)
WRONG: tuple[tuple[str, bytes], ...] = (
    ("a boolean", b"true"),
    ("an array", b"[1]"),
    ("an object", b'{"a":1}'),
    ("NaN", b"NaN"),
    ("Infinity", b"-Infinity"),
    ("1e400", b"1e400"),
    ("5000 digits", b"9" * 5000),
    ("a fraction", b"1.5"),
    ("-1", b"-1"),
    ("deep arrays", deep("[", "]")),
    ("deep objects", deep('{"a":', "}")),
    ("a lone surrogate", b'"\\ud800"'),
    ("a low surrogate", b'"\\udc00x"'),
    ("invalid utf-8", b'"\xff"'),
    ("an encoded surrogate", b'"\xed\xa0\x80"'),
    ("overlong utf-8", b'"\xc0\x80"'),
    ("nul", b'"\\u0000"'),
    ("a raw control", b'"\x01"'),
    ("a bad escape", b'"\\x"'),
    ("10 kB", b'"' + b"x" * 10_000 + b'"'),
    ("nothing", b""),
)


def with_value(route: Route, name: str, value: bytes) -> bytes:
    body = json.dumps({**(route.body or {}), name: NEVER.decode()}).encode()
    return body.replace(b'"%b"' % NEVER, value)


def bad_bodies(route: Route) -> Iterator[Bad]:
    if route.body is None:
        return
    for what, body in NOT_JSON:
        yield Bad(f"body: {what}", route.good, body)
    extra = json.dumps({**route.body, "surprise": 1}).encode()
    yield Bad("body: one field too many", route.good, extra, field="$.surprise")
    for name in route.required:
        less = {key: value for key, value in route.body.items() if key != name}
        yield Bad(f"body: without {name}", route.good, json.dumps(less).encode(), field=f"$.{name}")
        yield Bad(f"body: {name} is null", route.good, with_value(route, name, b"null"), field=f"$.{name}")
    for name in route.body:
        for what, value in WRONG:
            yield Bad(f"body: {name} is {what}", route.good, with_value(route, name, value))
        twice = (
            json.dumps(route.body)
            .encode()
            .replace(b"{", b'{"%b": %b, ' % (name.encode(), json.dumps(route.body[name]).encode()), 1)
        )
        yield Bad(f"body: {name} twice", route.good, twice, field=f"$.{name}")
        escaped = twice.replace(name.encode(), b"\\u%04x" % ord(name[0]) + name[1:].encode(), 1)
        yield Bad(f"body: {name} twice, once escaped", route.good, escaped, field=f"$.{name}")
    for parameter in ("order_id", "seller_id", "client_id", "gig_id", "user_id"):
        if f"{{{parameter}}}" in route.path:
            again = json.dumps({**route.body, parameter: "x"}).encode()
            yield Bad(f"body: {parameter} of the path again", route.good, again, field=f"$.{parameter}")
    large = json.dumps({**route.body, "surprise": "x" * (2 << 20)}).encode()
    yield Bad("body: 2 MiB", route.good, large, field="$", status=413)
    yield Bad("body: 2 MiB in chunks", route.good, large, field="$", status=413, chunked=True)


KEYS = (
    ("a slash", "a%2Fb"),
    ("only a slash", "%2F"),
    ("nul", "a%00"),
    ("an emoji", "%F0%9F%98%80"),
    ("dots", ".."),
    ("escaped dots", "%2e%2E"),
    ("a dot", "."),
    ("a trailing newline", "a%0A"),
    ("a carriage return", "%0D"),
    ("10 kB", "a" * 10_000),
    ("nothing", ""),
    ("a space", "%20"),
    ("invalid utf-8", "%FF"),
    ("a surrogate", "%ED%A0%80"),
    ("a broken escape", "%zz"),
    ("a percent sign", "%"),
    ("a plus", "a+b"),
    ("raw bytes", "caf\xe9"),
    ("a semicolon", "a;b=c"),
)


def bad_paths(route: Route) -> Iterator[Bad]:
    for name in ("order_id", "seller_id", "client_id", "gig_id", "user_id"):
        if f"{{{name}}}" not in route.path:
            continue
        for what, key in KEYS:
            path = route.path.replace(f"{{{name}}}", key).replace("{seller_id}", "s").replace("{client_id}", "c")
            body = None if route.body is None else json.dumps(route.body).encode()
            yield Bad(f"path: {name} is {what}", path + route.query, body)


QUERIES = (
    ("unknown", "surprise=1"),
    ("unknown without a value", "surprise"),
    ("invalid utf-8", "q=%FF"),
    ("nul", "q=%00"),
    ("3000 parameters", "&".join(f"a{number}=1" for number in range(3000))),
    ("raw bytes", "caf\xe9=1"),
)
WRONG_QUERIES: dict[str, tuple[str, ...]] = {
    "wait": ("", "abc", "nan", "NaN", "inf", "1e309", "-1", "31", "1_0", "0x1", "%D9%A1", "wait"),
    "partition": ("", "-1", "8", "256", "abc", "1e309", "NaN", "1.5", "9" * 6000, "%20", "null"),
    "after": ("", "-1", "abc", "1e309", "99999999999999999999999", "1.5"),
    "bucket": ("", "-1", "64", "abc", "1e309", "1.5", "null"),
    "limit": ("", "0", "-1", "1001", "abc", "1e309"),
    "page": ("", "0", "-1", "1001", "abc", "1e309", "1.5"),
    "q": ("x" * 201,),
    "category": ("x" * 201,),
    "id": ("x" * 65,),
    "by": ("", "week", "DAY", "day%20", "day&by=day", "day&x=1"),
}


def bad_queries(route: Route) -> Iterator[Bad]:
    path, _, query = route.good.partition("?")
    body = None if route.body is None else json.dumps(route.body).encode()
    for what, extra in QUERIES:
        yield Bad(f"query: {what}", f"{path}?{query}&{extra}" if query else f"{path}?{extra}", body)
    given = dict.fromkeys(pair.partition("=")[0] for pair in query.split("&") if query)
    for name in given:
        rest = "&".join(pair for pair in query.split("&") if not pair.startswith(f"{name}="))
        for value in WRONG_QUERIES.get(name, ()):
            yield Bad(f"query: {name}={value[:20]}", f"{path}?{rest}&{name}={value}", body)
        if name in ("partition", "id", "key", "bucket"):
            yield Bad(f"query: without {name}", f"{path}?{rest}".rstrip("?"), body, field=f"query.{name}")
        if name not in ("id", "key", "bucket"):
            yield Bad(f"query: {name} twice", f"{path}?{query}&{query}", body)
    for name in {"id", "key", "bucket"} & given.keys():
        rest = "".join(f"{pair}&" for pair in query.split("&") if not pair.startswith(f"{name}="))
        many = "&".join(f"{name}={number}" for number in range(501))
        yield Bad(f"query: 501 times {name}", f"{path}?{rest}{many}", body, field=f"query.{name}")


AFTER = (
    *("", " ", "x", "orders/3", "orders/a@1", "orders/3@-1", "orders/3@" + "9" * 30, "@", "orders/3@1,", "Orders/3@1"),
    *("caf\xe9", "orders/3@1;orders/3@2", ",".join(["orders/0@0"] * 513), "orders/3@1 orders/3@2"),
)
IDEMPOTENCY = ("", " ", "two words", "x" * 256, "caf\xe9", "tab\there")


def bad_headers(route: Route) -> Iterator[Bad]:
    body = None if route.body is None else json.dumps(route.body).encode()
    if route.after:
        for value in AFTER:
            headers = (("Chimera-After", value.encode("latin-1")),)
            yield Bad(f"header: Chimera-After: {value[:20]}", route.good, body, headers, "header.Chimera-After")
    if route.body is not None and not route.path.startswith("/_chimera"):
        for value in IDEMPOTENCY:
            headers = (("Idempotency-Key", value.encode("latin-1")),)
            yield Bad(f"header: Idempotency-Key: {value[:20]}", route.good, body, headers, "header.Idempotency-Key")
        twice = (("Idempotency-Key", "a"), ("Idempotency-Key", "b"))
        yield Bad("header: Idempotency-Key twice", route.good, body, twice, "header.Idempotency-Key")
    yield Bad("header: 70 kB", route.good, body, (("X-Large", "x" * 70_000),), status=431)
    yield Bad("header: 200 of 1 kB", route.good, body, tuple((f"X-{n}", "x" * 1000) for n in range(200)), status=431)
    separator = "&" if "?" in route.good else "?"
    yield Bad("address: 70 kB", f"{route.good}{separator}x={'x' * 70_000}", body, status=414)
    yield Bad("address: 2 MB", f"{route.good}{separator}x={'x' * 2_000_000}", body, status=414)


def every_bad(route: Route) -> Iterator[Bad]:
    for kind in (bad_bodies, bad_paths, bad_queries, bad_headers):
        yield from kind(route)


def check_problem(answer: Answer, bad: Bad) -> str | None:
    """What is wrong with the answer to bad input; None when it is as it should be."""
    if not 400 <= answer.status < 500:
        return f"{answer.status} {answer.body[:200]!r}"
    if answer.kind != "application/problem+json":
        return f"{answer.status} as {answer.kind!r}"
    problem = answer.json
    if problem["status"] != answer.status or not problem["title"] or not problem["detail"]:
        return f"not a whole problem: {problem}"
    if bad.status and answer.status != bad.status:
        return f"{answer.status}, not {bad.status}: {problem}"
    if bad.field and problem.get("field") != bad.field:
        return f"field {problem.get('field')!r}, not {bad.field!r}: {problem}"
    named = problem.get("field") or bad.what.startswith("path") or bad.what.endswith("raw bytes")
    if answer.status in (400, 422) and not named:
        return f"no field: {problem}"
    return None


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_bad_input_is_a_problem_and_nothing_is_kept(served: Served, route: Route) -> None:
    check_all(served, route)


@pytest.mark.parametrize("route", OWN, ids=str)
def test_bad_input_is_a_problem_and_nothing_is_kept_behind_a_gateway(gateway: Served, route: Route) -> None:
    check_all(gateway, route)


def check_all(served: Served, route: Route) -> None:
    served.settle()
    before = served.kept()
    failed = []
    for bad in every_bad(route):
        method = route.method
        answer = served.ask(method, bad.path, bad.body, bad.headers, chunked=bad.chunked)
        if wrong := check_problem(answer, bad):
            failed.append(f"{route} with {bad.what}: {wrong}")
    served.settle()
    if served.kept() != before:
        failed.append(f"{route}: something was kept")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_wrong_method_is_a_405_that_says_which_are_allowed(served: Served, route: Route) -> None:
    path = route.good.partition("?")[0]
    taken = {each.method for each in ROUTES if each.good.partition("?")[0] == path}
    allowed = taken | ({"HEAD"} if "GET" in taken else set())
    for method in sorted({*METHODS, "HEAD"} - allowed):
        answer = served.ask(method, path)
        assert answer.status == 405, f"{method} {path}"
        assert answer.headers["allow"] == ", ".join(sorted(allowed))
        if method != "HEAD":
            assert answer.kind == "application/problem+json"
            assert answer.json["status"] == 405


@pytest.mark.parametrize(
    "request_",
    [
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /search HTTP/9.9\r\n\r\n",
        b"FETCH /search HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /sea rch HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /search HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /search HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 40,
    ],
    ids=lambda request_: request_[:40].decode("latin-1").partition("\r")[0],
)
def test_what_is_no_http_is_a_problem_too(served: Served, request_: bytes) -> None:
    before = served.kept()
    answer = served.send_raw(request_)
    assert 400 <= answer.status < 500
    assert answer.kind == "application/problem+json"
    assert answer.json["status"] == answer.status
    assert served.kept() == before


def test_a_body_cut_short_by_the_client_keeps_nothing(served: Served) -> None:
    before = served.kept()
    body = json.dumps({**ORDER, "order_id": "cut-short"}).encode()
    with socket.create_connection(served.address) as connection:
        connection.sendall(b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(body) + 5) + body)
    served.settle()
    assert served.kept() == before


def test_a_request_to_upgrade_is_answered_as_if_it_asked_for_nothing(served: Served) -> None:
    upgrade = b"Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    assert served.send_raw(b"GET /sellers/s/sales HTTP/1.1\r\n" + upgrade + b"\r\n").status == 200
    h2c = b"Host: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 2\r\n"
    assert served.send_raw(b"POST /orders HTTP/1.1\r\n" + h2c + b"\r\n{}").status == 422
