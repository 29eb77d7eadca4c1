"""A small blog whose view has lists, and the helpers that drive it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from chimera import DELETED, Caller, Command, Event, ListPage, Reader, Service, Transaction, View, ViewList
from chimera.commands.inbox import Outcome
from chimera.core.context import Context
from chimera.run.write_head import WriteHead
from chimera.testing.waiting import eventually
from chimera.web.permission.asking import CALLER
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.support import QUICK, Engines, direct, message_of, opened

TIMING = msgspec.structs.replace(
    QUICK,
    restart_first_s=0.002,
    restart_longest_s=0.002,
    lease_s=0.3,
    audit_s=0.0,
    switch_look_s=0.02,
    switch_valid_s=0.03,
    switch_settle_s=0.06,
    switch_grace_s=0.1,
    keep_s=0.005,
    meet_s=0.05,
    alone_s=0.1,
    watch_s=0.005,
)


class Mood(Enum):
    GLAD = "glad"
    SAD = "sad"


class Article(msgspec.Struct):
    article_id: str
    author_id: str = ""
    tags: list[str] = []
    published_at: datetime | None = None
    likes: int = 0
    score: float = 0.0
    mood: Mood = Mood.GLAD


class Write(Command, key="article_id"):
    """Put an article; without an author it is deleted."""

    article_id: str
    author_id: str = ""
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it
    published_at: datetime | None = None
    likes: int = 0
    score: float = 0.0
    mood: Mood = Mood.GLAD


class Written(Event, source="blog", key="article_id"):
    article_id: str
    author_id: str = ""
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it
    published_at: datetime | None = None
    likes: int = 0
    score: float = 0.0
    mood: Mood = Mood.GLAD


class Blog:
    """The service with its view and lists; with `order` the list by author has another one, without lists none."""

    def __init__(self, *, order: str = "-published_at", lists: bool = True) -> None:
        self.service = Service("blog", partitions=4)
        self.articles: View[Article] = self.service.view(Article, key="article_id", path="/articles/{article_id}")
        _declare(self)
        if not lists:
            return
        listed = self.articles.list
        self.by_author = listed("by-author", where="author_id", order=order, path="/authors/{author_id}/articles")
        self.by_tag: ViewList[Article] = listed("by-tag", where="tags", order=("-likes",), path="/tags/{tags}/articles")
        self.all: ViewList[Article] = listed("all", order=("mood", "-score"), path="/articles")
        _ask(self)


def _declare(blog: Blog) -> None:
    @blog.articles.on(Written)
    def written(article: Article, event: Written) -> object:
        if not event.author_id:
            return DELETED
        if event.author_id == "breaks":
            raise ValueError("this author breaks the view")
        return msgspec.convert(msgspec.structs.asdict(event), Article)

    @blog.service.handle("POST /articles", direct=True)
    async def write(command: Write, tx: Transaction) -> None:
        tx.emit(Written(**msgspec.structs.asdict(command)))


def _ask(blog: Blog) -> None:
    @blog.service.get("/top/{author_id}")
    async def top(author_id: str, read: Reader, limit: int = 2, after: str = "", offset: int = 0) -> ListPage[Article]:
        return await read.list(blog.by_author, author_id, limit=limit, after=after, offset=offset)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    json: Any

    @property
    def keys(self) -> list[str]:
        """The keys of a page's articles."""
        return [each["article_id"] for each in self.json["items"]]


class Reading:
    """A read head, asked without a socket. `caller`: who asks, whatever an authenticator would say."""

    def __init__(self, context: Context, caller: Caller | None = None) -> None:
        self.head = ReadHead(context)
        self._said = {} if caller is None else {CALLER: caller}
        self._site = Site([self.head])

    async def get(self, path: str, after: Sequence[object] = ()) -> Answer:
        return await self.ask("GET", path, after=after)

    async def ask(self, method: str, path: str, body: Any = None, after: Sequence[object] = ()) -> Answer:
        path, _, query = path.partition("?")
        sent: list[dict[str, Any]] = []
        headers = [(b"chimera-after", ",".join(map(str, after)).encode())] if after else []
        scope: dict[str, Any] = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode()}
        scope |= {"query_string": query.encode(), "headers": headers, **self._said}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": msgspec.json.encode(body) if body else b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._site(scope, receive, send)  # type: ignore[arg-type]
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], told, json.loads(b"".join(part.get("body", b"") for part in sent) or b"null"))

    async def pages(self, path: str, limit: int) -> list[str]:
        """The keys of all pages, one after another."""
        found: list[str] = []
        after = ""
        while True:
            answer = await self.get(f"{path}?limit={limit}{after}")
            assert answer.status == 200, answer
            found += answer.keys
            if answer.json["next"] is None:
                return found
            after = f"&after={answer.json['next']}"


def head(context: Context, holder: str = "a") -> WriteHead:
    return WriteHead(context, holder)


async def blogging(engines: Engines, blog: Blog | None = None, **others: Any) -> Context:
    """A process of the blog on these engines."""
    return await opened((blog or Blog()).service, engines, timing=TIMING, **others)


async def put(context: Context, *articles: Write) -> list[Outcome]:
    """Put articles, as one call of the write head does."""
    messages = [message_of(each, partitions=context.service.partitions) for each in articles]
    return await direct(
        context, *(msgspec.structs.replace(each, source="blog", type="blog.Write") for each in messages)
    )


async def caught_up(context: Context, reading: Reading) -> Answer:
    """A page of all articles that has everything the journal has."""
    at = [f"blog/{partition}@{number}" for partition, number in (await context.store.heads()).items() if number]
    found: list[Answer] = []

    async def has_all() -> bool:
        found[:] = [await reading.get("/articles?limit=200", after=at)]
        return found[0].status == 200 and "chimera-behind" not in found[0].headers

    await eventually(has_all)
    return found[0]
