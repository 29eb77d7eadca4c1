"""What answers tell a browser of their own accord: no guessing of types, no strangers' scripts, no frames."""

from __future__ import annotations

from typing import Any

import pytest

from chimera import Reply, Service
from chimera.testing import running

POLICY = "content-security-policy"
OWN = "default-src 'none'"


def told(found: Any) -> str:
    return f"<!doctype html><title>{found}</title>"


@pytest.fixture
def shelf() -> Service:
    shelf = Service("shelf")

    @shelf.get("/books/{book}", page=told)
    async def one(book: str) -> Any:
        return {"book": book}

    @shelf.get("/own/{book}", page=told)
    async def own(book: str) -> Any:
        return Reply({"book": book}, 200, {"Content-Security-Policy": OWN})

    return shelf


async def test_a_page_takes_scripts_from_nowhere_else_and_is_framed_by_nobody(shelf: Service) -> None:
    async with running(shelf) as s:
        answer = await s.get("/books/dune", accept="text/html")
        assert answer.headers["content-type"].startswith("text/html")
        policy = answer.headers[POLICY]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_answer_for_programs_says_only_that_its_type_is_no_guess(shelf: Service) -> None:
    async with running(shelf) as s:
        answer = await s.get("/books/dune")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert POLICY not in answer.headers
        missing = await s.get("/nothing")
        assert missing.headers["x-content-type-options"] == "nosniff"


async def test_a_reply_may_have_a_policy_of_its_own(shelf: Service) -> None:
    async with running(shelf) as s:
        answer = await s.get("/own/dune", accept="text/html")
        assert answer.headers[POLICY] == OWN
