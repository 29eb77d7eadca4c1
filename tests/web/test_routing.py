"""How a request finds its endpoint, and which representation it gets."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from chimera.core.json import read_object, with_whole_numbers
from chimera.errors import Invalid
from chimera.web.wire.http import Call, prefers_html
from chimera.web.wire.routing import NoRoute, Route, Router


class Named:
    """An endpoint that is only found."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, call: Call) -> None:
        raise NotImplementedError


class Found(NamedTuple):
    name: str
    parameters: dict[str, str]


class Finder:
    """A router whose endpoints are the names of their routes."""

    def __init__(self, *routes: tuple[str, str]) -> None:
        self._router = Router([Route(method, path, Named(f"{method} {path}")) for method, path in routes])

    def find(self, method: str, raw_path: bytes, query: bytes) -> Found:
        route, parameters = self._router.find(method, raw_path, query)
        assert isinstance(route.endpoint, Named)
        return Found(route.endpoint.name, parameters)


def test_names_belong_to_the_route_and_not_to_its_neighbour() -> None:
    found = Finder(("GET", "/users/{user_id}"), ("PUT", "/users/{id}"))
    assert found.find("GET", b"/users/a", b"") == ("GET /users/{user_id}", {"user_id": "a"})
    assert found.find("PUT", b"/users/a", b"") == ("PUT /users/{id}", {"id": "a"})


def test_fixed_segments_win_and_another_pattern_may_have_the_method() -> None:
    found = Finder(("POST", "/{anything}/b"), ("GET", "/a/{x}"), ("GET", "/a/b"))
    assert found.find("GET", b"/a/b", b"")[0] == "GET /a/b"
    assert found.find("GET", b"/a/c", b"") == ("GET /a/{x}", {"x": "c"})
    assert found.find("POST", b"/a/b", b"") == ("POST /{anything}/b", {"anything": "a"})
    with pytest.raises(NoRoute) as refused:
        found.find("PUT", b"/a/b", b"")
    assert (refused.value.status, refused.value.allowed) == (405, ("GET", "HEAD", "POST"))


def test_a_key_may_hold_any_character_but_nul() -> None:
    found = Finder(("GET", "/v/{key}"))
    assert found.find("GET", b"/v/a%2Fb%0A%F0%9F%98%80", b"")[1] == {"key": "a/b\n\U0001f600"}
    assert found.find("HEAD", b"/v/", b"")[1] == {"key": ""}
    for bad in (b"/v/%00", b"/v/%FF"):
        with pytest.raises(Invalid):
            found.find("GET", bad, b"")


def test_a_literal_query_is_found_however_it_is_written() -> None:
    found = Finder(("GET", "/s"), ("GET", "/s?by=day"), ("GET", "/only?by=day"))
    assert found.find("GET", b"/s", b"by=day")[0] == "GET /s?by=day"
    assert found.find("GET", b"/s", b"b%79=%64ay")[0] == "GET /s?by=day"
    assert found.find("GET", b"/s", b"by=week")[0] == "GET /s"
    with pytest.raises(Invalid, match="by=day"):
        found.find("GET", b"/only", b"")


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        ("text/html", True),
        ("text/html;q=0.1", True),
        ("text/html, */*", True),
        ("text/html;q=0", False),
        ("text/html;q=0.5, application/json", False),
        ("application/json, text/html", False),
        ("text/html, application/json", True),
        ("*/*;q=0.9, text/html;q=0.8", False),
        ("text/html;q=nonsense", True),
        ("application/json", False),
        ("application/xhtml+xml, application/json", False),
        ("", False),
    ],
)
def test_html_is_for_those_who_like_it_better(accept: str, html: bool) -> None:
    assert prefers_html(accept) is html


def test_an_object_is_read_as_everybody_reads_it() -> None:
    assert {name: bytes(raw) for name, raw in read_object(b' {"a": [1, {"b": 2}], "c": "\\"c\\""} ').items()} == {
        "a": b'[1, {"b": 2}]',
        "c": b'"\\"c\\""',
    }
    assert read_object(b" \n") == {}
    assert read_object(b'{"a": "\\"a\\"", "b": "a"}').keys() == {"a", "b"}
    for twice in (b'{"a":1,"a":1}', b'{"x":{"a":1,"a":2}}', b'{"x":[{"a":1,"\\u0061":2}]}'):
        with pytest.raises(Invalid, match="a is given more than once"):
            read_object(twice)


def test_whole_numbers_are_integers_and_text_is_left_alone() -> None:
    assert with_whole_numbers(b'{"a":71.0,"b":"7.0 \\" 1.0","c":1.5,"d":-0.0,"e":1e2,"f":[2.0],"g":1e400}') == (
        b'{"a":71,"b":"7.0 \\" 1.0","c":1.5,"d":0,"e":100,"f":[2],"g":1e400}'
    )


async def test_an_answer_whose_status_has_no_body_has_none() -> None:
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any:
        raise AssertionError("nothing is to be read")

    await Call({}, receive, send, {}).answer(b"null", 204, headers=[(b"chimera-position", b"shop/0@1")])
    assert sent == [
        {"type": "http.response.start", "status": 204, "headers": [(b"chimera-position", b"shop/0@1")]},
        {"type": "http.response.body", "body": b""},
    ]
