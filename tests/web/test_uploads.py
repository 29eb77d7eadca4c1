"""Bodies that come a chunk at a time, and answers that are sent as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from chimera import (
    Caller,
    Command,
    Entity,
    Reader,
    Rejected,
    Request,
    ServerEvent,
    ServerEvents,
    Service,
    Transaction,
    Upload,
)
from chimera.errors import DeclarationError
from chimera.run.engines import check_functions
from chimera.testing import running
from chimera.web.home import Home
from chimera.web.read_head import ReadHead
from chimera.web.site import Site

LIMIT = 100_000


class Image(Entity, key="gig_id"):
    gig_id: str
    digest: str
    by: str


class SetImage(Command, key="gig_id"):
    gig_id: str
    digest: str
    name: str = ""


class Bucket:
    """Stands for where files are kept."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    async def put(self, chunks: AsyncIterator[bytes]) -> str:
        data = b"".join([chunk async for chunk in chunks])
        self.files[name := sha256(data).hexdigest()] = data
        return name


def a_shop() -> Service:
    shop = a_gallery()

    @shop.upload("PUT /gigs/{gig_id}/image", limit=LIMIT)
    async def image(upload: Upload, gig_id: str, bucket: Bucket, caller: Caller, name: str = "") -> SetImage:
        """Put an image."""
        if not upload.content_type.startswith("image/"):
            raise Rejected("no_image", status=415)
        return SetImage(gig_id, await bucket.put(aiter(upload)), name)

    @shop.upload("POST /gigs/{gig_id}/form")
    async def form(upload: Upload, gig_id: str, bucket: Bucket) -> SetImage:
        digest, fields = "", []
        async for part in upload.parts():
            if part.filename:
                digest = await bucket.put(aiter(part))
            elif part.name != "skipped":
                fields.append(f"{part.name}={(await part.read()).decode()}")
        return SetImage(gig_id, digest, "&".join(fields))

    return shop


def a_gallery() -> Service:
    shop = Service("shop")
    shop.entity(Image)
    shop.provide(Bucket, Bucket)

    @shop.authenticate
    async def who(request: Request) -> Caller | None:
        return Caller(request.headers["x-user"]) if "x-user" in request.headers else None

    @shop.handle(direct=True)
    async def set_image(command: SetImage, tx: Transaction, caller: Caller) -> dict[str, str]:
        if command.gig_id == "sold":
            raise Rejected("sold")
        tx.save(Image(command.gig_id, command.digest, caller.subject))
        return {"digest": command.digest, "name": command.name}

    @shop.get("/gigs/{gig_id}/image")
    async def shown(gig_id: str, read: Reader) -> Image | None:
        return await read.load(Image, gig_id)

    return shop


IMAGE = {"content-type": "image/png", "x-user": "ann"}


async def test_what_is_uploaded_is_put_and_told_by_a_command() -> None:
    data = bytes(range(256)) * 300
    async with running(a_shop()) as s:
        answer = await s.client.request("PUT", "/gigs/g/image?name=front", content=data, headers=IMAGE)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"digest": sha256(data).hexdigest(), "name": "front"}
        assert answer.headers["chimera-command"]
        assert (await s.get("/gigs/g/image")).json()["by"] == "ann"


async def chunks_of(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 1000):
        yield b"x" * 1000


@pytest.mark.parametrize(
    ("path", "options", "status", "said"),
    [
        pytest.param("g", {"content": b"x" * (LIMIT + 1), "headers": IMAGE}, 413, "larger than", id="too large"),
        pytest.param("g", {"content": chunks_of(LIMIT + 2000), "headers": IMAGE}, 413, "larger than", id="as it comes"),
        pytest.param("g", {"content": b"x", "headers": {"x-user": "ann"}}, 415, "no_image", id="refused"),
        pytest.param("sold", {"content": b"x", "headers": IMAGE}, 409, "sold", id="refused by the handler"),
        pytest.param("g", {"content": b"x", "headers": {"content-type": "image/png"}}, 401, "", id="nobody"),
    ],
)
async def test_an_upload_is_refused_as_a_command_is(path: str, options: dict[str, Any], status: int, said: str) -> None:
    async with running(a_shop()) as s:
        answer = await s.client.request("PUT", f"/gigs/{path}/image", **options)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert said in answer.text
        assert (await s.get(f"/gigs/{path}/image")).status_code == 404


async def test_the_parts_of_a_form_come_one_after_the_other() -> None:
    files = {"file": ("a.png", b"pixels" * 50_000, "image/png")}
    async with running(a_shop()) as s:
        answer = await s.client.request(
            "POST",
            "/gigs/g/form",
            files=files,
            data={"title": "Front", "skipped": "x" * 5000, "more": "1"},
            headers={"x-user": "ann"},
        )
        assert answer.json() == {"digest": sha256(b"pixels" * 50_000).hexdigest(), "name": "title=Front&more=1"}
        no_form = await s.client.request("POST", "/gigs/g/form", content=b"{}", headers={"x-user": "ann"})
        assert (no_form.status_code, no_form.json()["field"]) == (415, "header.Content-Type")
        cut = await s.client.request(
            "POST",
            "/gigs/g/form",
            content=b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx',
            headers={"content-type": "multipart/form-data; boundary=b", "x-user": "ann"},
        )
        assert (cut.status_code, "can't be read" in cut.text) == (400, True)


def test_an_upload_of_a_command_that_nobody_handles_is_said() -> None:
    shop = Service("shop")

    @shop.upload("PUT /image")
    async def image(upload: Upload) -> SetImage:
        raise NotImplementedError

    with pytest.raises(DeclarationError, match=r"test_uploads\.py:\d+: image: shop handles no SetImage; add: @shop"):
        check_functions(shop)


def a_feed(ended: list[str]) -> Service:
    feed = Service("feed")

    async def ticks() -> AsyncIterator[Any]:
        try:
            yield {"n": 1}
            yield ServerEvent("two\nlines", "tick", "7", 500)
            await asyncio.sleep(0.2)
            yield "late"
        finally:
            ended.append("ticks")

    @feed.get("/ticks")
    async def told() -> ServerEvents:
        return ServerEvents(ticks(), alive_s=0.05)

    @feed.get("/plain")
    async def plain(read: Reader) -> PlainTextResponse:
        return PlainTextResponse("hello", 203, {"x-own": "1"})

    return feed


async def test_server_sent_events_come_as_they_are_made_with_signs_of_life() -> None:
    ended: list[str] = []
    async with running(a_feed(ended)) as s:
        answer = await s.get("/ticks")
    assert answer.headers["content-type"] == "text/event-stream"
    told = answer.text.split("\n\n")
    assert told[:3] == [": here", 'data: {"n":1}', "event: tick\nid: 7\nretry: 500\ndata: two\ndata: lines"]
    assert ": alive" in told
    assert told[-2] == "data: late"
    assert ended == ["ticks"]


async def test_a_response_of_a_framework_answers_with_what_chimera_says_besides() -> None:
    async with running(a_feed([])) as s:
        answer = await s.ask("GET", "/plain", chimera_after="feed/0@0")
    assert isinstance(answer, httpx.Response)
    assert (answer.status_code, answer.text, answer.headers["x-own"]) == (203, "hello", "1")


async def test_the_front_page_and_the_description_tell_of_uploads() -> None:
    async with running(a_shop()) as s:
        [context] = s.contexts.values()
        site = Site([Home("Shops", [ReadHead(context)])])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://test") as client:
            described = (await client.get("/openapi.json")).json()
            bodies = [each.get("requestBody", {}) for path in described["paths"].values() for each in path.values()]
            assert any("multipart/form-data" in body.get("content", {}) for body in bodies)
            page = await client.get("/")
            assert page.status_code == 200
            assert "--data-binary @FILE" in page.text
