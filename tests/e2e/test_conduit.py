"""The example `conduit`, through HTTP as front ends of Conduit speak it, with nothing in between."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from httpx import AsyncClient, Response

from tests.adapters.services import IN_TURN
from tests.e2e.conftest import ROOT, Chimera
from tests.e2e.stacks import stack, take_away

CONDUIT = ROOT / "examples" / "conduit"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    IN_TURN,
    pytest.mark.asyncio(loop_scope="module"),
]


class Site(NamedTuple):
    client: AsyncClient
    tag: str

    async def ask(self, method: str, path: str, body: object = None, token: str = "") -> Response:
        headers = {"authorization": f"Token {token}"} if token else {}
        return await self.client.request(method, f"/api{path}", json=body, headers=headers)

    async def got(self, path: str, token: str = "") -> Any:
        found = await self.ask("GET", path, token=token)
        assert found.status_code == 200, found.text
        return found.json()

    async def sent(self, method: str, path: str, body: object = None, token: str = "") -> Any:
        found = await self.ask(method, path, body, token)
        assert found.status_code < 300, found.text
        return found.json() if found.content else None

    async def register(self, name: str) -> str:
        """The token of a new user, whose name has this site's tag behind it."""
        name = f"{name}{self.tag}"
        body = {"user": {"username": name, "email": f"{name}@example.org", "password": "secret"}}
        registered = await self.ask("POST", "/users", body)
        assert registered.status_code == 201, registered.text
        return str(registered.json()["user"]["token"])

    async def publish(self, token: str, title: str, *tags: str) -> Any:
        article = {"title": f"{title} {self.tag}", "description": "about", "body": "text", "tagList": list(tags)}
        published = await self.ask("POST", "/articles", {"article": article}, token)
        assert published.status_code == 201, published.text
        return published.json()["article"]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["embedded", "rabbitmq-postgresql"])
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    found = stack(request.param, f"t{uuid.uuid4().hex[:10]}")
    path = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}:{CONDUIT}"}
    state: Path = tmp_path_factory.mktemp("conduit")
    chimera = Chimera(state, CONDUIT / "chimera.toml", {**found.environment, **path})
    try:
        chimera.up(*(() if request.param == "embedded" else ("--processes", "--workers", "2")))
        async with AsyncClient(base_url=chimera.base, timeout=60) as client:
            yield Site(client, uuid.uuid4().hex[:8])
    finally:
        chimera.end()
        await take_away(found)


async def test_a_user_registers_logs_in_and_changes(site: Site) -> None:
    token = await site.register("ann")
    name = f"ann{site.tag}"
    again = await site.ask("POST", "/users", {"user": {"username": name, "email": "other@x", "password": "pw"}})
    assert (again.status_code, again.json()) == (409, {"errors": {"username": ["has already been taken"]}})
    blank = await site.ask("POST", "/users", {"user": {"username": "", "email": "", "password": ""}})
    assert blank.status_code == 422
    assert blank.json()["errors"] == {name: ["can't be blank"] for name in ("username", "email", "password")}
    wrong = await site.ask("POST", "/users/login", {"user": {"email": f"{name}@example.org", "password": "no"}})
    assert (wrong.status_code, wrong.json()) == (401, {"errors": {"credentials": ["invalid"]}})
    logged_in = await site.sent(
        "POST", "/users/login", {"user": {"email": f"{name}@example.org", "password": "secret"}}
    )
    assert logged_in["user"]["username"] == name
    assert (await site.got("/user", token))["user"]["email"] == f"{name}@example.org"
    for method, path in (("GET", "/user"), ("PUT", "/user"), ("GET", "/articles/feed")):
        nobody = await site.ask(method, path, {"user": {}} if method == "PUT" else None)
        assert (nobody.status_code, nobody.json()) == (401, {"errors": {"token": ["is missing"]}})
    forged = await site.ask("GET", "/user", token="not.a.token")
    assert forged.status_code == 401
    changed = await site.sent("PUT", "/user", {"user": {"bio": "hello", "image": "", "password": "other"}}, token)
    assert (changed["user"]["bio"], changed["user"]["image"]) == ("hello", None)
    await site.sent("POST", "/users/login", {"user": {"email": f"{name}@example.org", "password": "other"}})


async def test_articles_are_written_changed_listed_and_removed(site: Site) -> None:
    bob, eve = await site.register("bob"), await site.register("eve")
    tag = f"tag-{site.tag}"
    first, second = await site.publish(bob, "First words", tag, "go"), await site.publish(bob, "Second words", tag)
    assert first["slug"] == f"first-words-{site.tag}"
    assert first["author"] == {"username": f"bob{site.tag}", "bio": None, "image": None, "following": False}
    twin = await site.publish(eve, "First words")
    assert twin["slug"].startswith(f"{first['slug']}-")
    page = await site.got(f"/articles?tag={tag}")
    assert ([each["slug"] for each in page["articles"]], page["articlesCount"]) == ([second["slug"], first["slug"]], 2)
    assert "body" not in page["articles"][0]
    paged = await site.got(f"/articles?author=bob{site.tag}&limit=1&offset=1")
    assert ([each["slug"] for each in paged["articles"]], paged["articlesCount"]) == ([first["slug"]], 2)
    assert set(first["tagList"]) <= set((await site.got("/tags"))["tags"])
    body = {"article": {"title": f"Other words {site.tag}", "tagList": []}}
    foreign = await site.ask("PUT", f"/articles/{first['slug']}", body, eve)
    assert (foreign.status_code, foreign.json()) == (403, {"errors": {"article": ["forbidden"]}})
    edited = (await site.sent("PUT", f"/articles/{first['slug']}", body, bob))["article"]
    assert (edited["slug"], edited["tagList"], edited["body"]) == (f"other-words-{site.tag}", [], "text")
    assert (await site.got(f"/articles?tag={tag}"))["articlesCount"] == 1
    assert (await site.ask("GET", f"/articles/{first['slug']}")).status_code == 404
    blank = await site.ask("PUT", f"/articles/{edited['slug']}", {"article": {"body": ""}}, bob)
    assert (blank.status_code, blank.json()) == (422, {"errors": {"body": ["can't be blank"]}})
    assert (await site.ask("DELETE", f"/articles/{second['slug']}", token=eve)).status_code == 403
    gone = await site.ask("DELETE", f"/articles/{second['slug']}", token=bob)
    assert (gone.status_code, gone.content) == (204, b"")
    missing = await site.ask("GET", f"/articles/{second['slug']}")
    assert (missing.status_code, missing.json()) == (404, {"errors": {"article": ["not found"]}})


async def test_people_follow_like_and_comment(site: Site) -> None:
    kim, lee = await site.register("kim"), await site.register("lee")
    article = await site.publish(kim, "On lists")
    slug, name = article["slug"], f"kim{site.tag}"
    assert (await site.got("/articles/feed", lee))["articlesCount"] == 0
    assert (await site.sent("POST", f"/profiles/{name}/follow", token=lee))["profile"]["following"] is True
    assert (await site.got(f"/profiles/{name}", lee))["profile"]["following"] is True
    assert (await site.got(f"/profiles/{name}"))["profile"]["following"] is False
    feed = await site.got("/articles/feed", lee)
    assert [(each["slug"], each["author"]["following"]) for each in feed["articles"]] == [(slug, True)]
    liked = (await site.sent("POST", f"/articles/{slug}/favorite", token=lee))["article"]
    assert (liked["favorited"], liked["favoritesCount"]) == (True, 1)
    again = (await site.sent("POST", f"/articles/{slug}/favorite", token=lee))["article"]
    assert again["favoritesCount"] == 1
    assert (await site.got(f"/articles?favorited=lee{site.tag}"))["articlesCount"] == 1
    assert (await site.got(f"/articles/{slug}", kim))["article"]["favorited"] is False
    assert (await site.sent("DELETE", f"/articles/{slug}/favorite", token=lee))["article"]["favoritesCount"] == 0
    said = await site.ask("POST", f"/articles/{slug}/comments", {"comment": {"body": "well said"}}, lee)
    assert said.status_code == 201
    comment = said.json()["comment"]
    assert [each["id"] for each in (await site.got(f"/articles/{slug}/comments"))["comments"]] == [comment["id"]]
    assert (await site.ask("DELETE", f"/articles/{slug}/comments/{comment['id']}", token=kim)).status_code == 403
    assert (await site.ask("DELETE", f"/articles/{slug}/comments/{comment['id']}", token=lee)).status_code == 204
    assert (await site.got(f"/articles/{slug}/comments"))["comments"] == []
    await site.sent("PUT", "/user", {"user": {"username": f"kimberly{site.tag}"}}, kim)
    assert (await site.got(f"/articles/{slug}"))["article"]["author"]["username"] == f"kimberly{site.tag}"
    assert (await site.sent("DELETE", f"/profiles/kimberly{site.tag}/follow", token=lee))["profile"][
        "following"
    ] is False
    assert (await site.ask("GET", f"/profiles/{name}")).status_code == 404
    for method, path in (("POST", "/articles/none/favorite"), ("POST", "/profiles/none/follow")):
        assert (await site.ask(method, path, token=lee)).status_code == 404


NOBODY, AUTHOR, OTHER = "nobody", "author", "other"
MAY: dict[tuple[str, str], dict[str, int]] = {
    ("POST", "/users"): {NOBODY: 422, AUTHOR: 422, OTHER: 422},
    ("POST", "/users/login"): {NOBODY: 422, AUTHOR: 422, OTHER: 422},
    ("GET", "/user"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("PUT", "/user"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("GET", "/profiles/{username}"): {NOBODY: 200, AUTHOR: 200, OTHER: 200},
    ("POST", "/profiles/{username}/follow"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("DELETE", "/profiles/{username}/follow"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("GET", "/articles"): {NOBODY: 200, AUTHOR: 200, OTHER: 200},
    ("POST", "/articles"): {NOBODY: 401, AUTHOR: 422, OTHER: 422},
    ("GET", "/articles/feed"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("GET", "/articles/{slug}"): {NOBODY: 200, AUTHOR: 200, OTHER: 200},
    ("PUT", "/articles/{slug}"): {NOBODY: 401, OTHER: 403, AUTHOR: 200},
    ("POST", "/articles/{slug}/favorite"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("DELETE", "/articles/{slug}/favorite"): {NOBODY: 401, AUTHOR: 200, OTHER: 200},
    ("GET", "/articles/{slug}/comments"): {NOBODY: 200, AUTHOR: 200, OTHER: 200},
    ("POST", "/articles/{slug}/comments"): {NOBODY: 401, AUTHOR: 201, OTHER: 201},
    ("DELETE", "/articles/{slug}/comments/{comment_id}"): {NOBODY: 401, OTHER: 403, AUTHOR: 204},
    ("GET", "/tags"): {NOBODY: 200, AUTHOR: 200, OTHER: 200},
    ("DELETE", "/articles/{slug}"): {NOBODY: 401, OTHER: 403, AUTHOR: 204},
}
"""By route, what is answered to whom; 422 is for an empty body, which has got past the rule."""
BODIES: dict[tuple[str, str], object] = {
    ("PUT", "/user"): {"user": {}},
    ("PUT", "/articles/{slug}"): {"article": {}},
    ("POST", "/articles/{slug}/comments"): {"comment": {"body": "so"}},
}


async def test_who_may_do_what_and_every_route_is_in_the_table(site: Site) -> None:
    author = await site.register("may")
    callers = {NOBODY: "", AUTHOR: author, OTHER: await site.register("other")}
    slug = (await site.publish(author, "Who may"))["slug"]
    said = await site.sent("POST", f"/articles/{slug}/comments", {"comment": {"body": "mine"}}, author)
    for (method, path), expected in MAY.items():
        filled = path.format(username=f"may{site.tag}", slug=slug, comment_id=said["comment"]["id"])
        for caller, status in expected.items():
            empty: object = {} if method in ("POST", "PUT") and "{" not in path else None
            answer = await site.ask(method, filled, BODIES.get((method, path), empty), callers[caller])
            assert (method, path, caller, answer.status_code) == (method, path, caller, status), answer.text
    described = (await site.client.get("/openapi.json")).json()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert {(method, f"/api{path}") for method, path in MAY} == {each for each in routes if each[1].startswith("/api")}
