"""Articles, their comments, tags and favourites; authors are borrowed."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from common import Follows, Named, Profile, not_blank, refused, set_up
from msgspec import UNSET, UnsetType, field, structs

from chimera import (
    Caller,
    Command,
    Entity,
    Event,
    Lagging,
    NewId,
    Reader,
    Reads,
    Reply,
    Service,
    Transaction,
    anyone,
    somebody,
)

blog = Service("blog")
set_up(blog)


@blog.entity
class Article(Entity, key="article_id", table="articles", unique=[("slug",)]):
    article_id: str
    slug: str
    author_id: str
    title: str
    description: str
    body: str
    tags: list[str]
    created_at: datetime
    updated_at: datetime
    favorites: int = 0


@blog.entity
class Tagged(Entity, key=("tag", "article_id"), table="tagged"):
    tag: str
    article_id: str
    created_at: datetime


@blog.entity
class Favorite(Entity, key=("user_id", "article_id"), table="favorites"):
    user_id: str
    article_id: str
    created_at: datetime


@blog.entity
class Comment(Entity, key="comment_id", table="comments"):
    __indexes__ = ("article_id",)

    comment_id: int
    article_id: str
    author_id: str
    body: str
    created_at: datetime


class ArticleChanged(Event, source="blog", key="article_id"):
    article_id: str


profiles = blog.borrow("profiles", Profile, owner="accounts", mode="sync", budget=1.0)
follows = blog.borrow("follows", Follows, owner="accounts", mode="sync", budget=1.0)
names = blog.borrow("names", Named, owner="accounts", mode="sync", budget=1.0)


class Publish(Command, key="article_id"):
    article_id: Annotated[str, NewId]
    title: str
    description: str
    body: str
    tags: list[str] = field(name="tagList", default_factory=list)


class Edit(Command, key="slug"):
    slug: str
    title: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    body: str | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = field(name="tagList", default=UNSET)


class Remove(Command, key="slug"):
    slug: str


class Like(Command, key="slug"):
    slug: str


class Unlike(Command, key="slug"):
    slug: str


class Say(Command, key="slug"):
    slug: str
    body: str


class Unsay(Command, key="slug"):
    slug: str
    comment_id: int


@blog.handle("POST /api/articles", direct=True, body="article", allow=somebody)
async def publish(command: Publish, tx: Transaction, caller: Caller, late: Lagging) -> Reply[Any]:
    not_blank(title=command.title, description=command.description, body=command.body)
    tags = list(dict.fromkeys(command.tags))
    slug = await free_slug(tx, command.title, command.article_id)
    texts = (command.title, command.description, command.body)
    article = Article(command.article_id, slug, caller.subject, *texts, tags, tx.now, tx.now)
    tx.save(article)
    for tag in tags:
        tx.save(Tagged(tag, article.article_id, tx.now))
    tx.emit(ArticleChanged(article.article_id))
    return Reply(await one(tx, late, article, caller), 201)


@blog.handle("PUT /api/articles/{slug}", direct=True, body="article", allow=somebody)
async def edit(command: Edit, tx: Transaction, caller: Caller, late: Lagging) -> dict[str, Any]:
    before = await own(tx, command.slug, caller)
    given = {name: value for name, value in structs.asdict(command).items() if value is not UNSET and name != "slug"}
    tags = given.pop("tags", before.tags)
    not_blank(**given)
    if tags is None:
        raise refused(422, "tagList", "can't be blank")
    if given.get("title", before.title) != before.title:
        given["slug"] = await free_slug(tx, given["title"], before.article_id)
    tags = list(dict.fromkeys(tags))
    tx.save(article := structs.replace(before, **given, tags=tags, updated_at=tx.now))
    for tag in set(before.tags) ^ set(tags):
        tagged = Tagged(tag, article.article_id, article.created_at)
        tx.save(tagged) if tag in tags else tx.delete(tagged)
    tx.emit(ArticleChanged(article.article_id))
    return await one(tx, late, article, caller)


@blog.handle("DELETE /api/articles/{slug}", direct=True, allow=somebody)
async def remove(command: Remove, tx: Transaction, caller: Caller) -> Reply[None]:
    article = await own(tx, command.slug, caller)
    about = [await tx.find(each, article_id=article.article_id) for each in (Tagged, Favorite, Comment)]
    for gone in (article, *(row for rows in about for row in rows)):
        tx.delete(gone)
    tx.emit(ArticleChanged(article.article_id))
    return Reply(None, 204)


@blog.handle("POST /api/articles/{slug}/favorite", direct=True, allow=somebody)
async def like(command: Like, tx: Transaction, caller: Caller, late: Lagging) -> Reply[Any]:
    article = await by_slug(tx, command.slug)
    if await tx.load(Favorite, caller.subject, article.article_id) is None:
        tx.save(Favorite(caller.subject, article.article_id, article.created_at))
        tx.save(article := structs.replace(article, favorites=article.favorites + 1))
    return Reply(await one(tx, late, article, caller))


@blog.handle("DELETE /api/articles/{slug}/favorite", direct=True, allow=somebody)
async def unlike(command: Unlike, tx: Transaction, caller: Caller, late: Lagging) -> dict[str, Any]:
    article = await by_slug(tx, command.slug)
    if (favorite := await tx.load(Favorite, caller.subject, article.article_id)) is not None:
        tx.delete(favorite)
        tx.save(article := structs.replace(article, favorites=article.favorites - 1))
    return await one(tx, late, article, caller)


@blog.handle("POST /api/articles/{slug}/comments", direct=True, body="comment", allow=somebody)
async def say(command: Say, tx: Transaction, caller: Caller, late: Lagging) -> Reply[Any]:
    article = await by_slug(tx, command.slug)
    not_blank(body=command.body)
    number = int(tx.new_id().replace("-", "")[:13], 16)
    comment = Comment(number, article.article_id, caller.subject, command.body, tx.now)
    tx.save(comment)
    return Reply({"comment": (await comments_shown(late, [comment], caller))[0]}, 201)


@blog.handle("DELETE /api/articles/{slug}/comments/{comment_id}", direct=True, allow=somebody)
async def unsay(command: Unsay, tx: Transaction, caller: Caller) -> Reply[None]:
    article = await by_slug(tx, command.slug)
    comment = await tx.load(Comment, command.comment_id)
    if comment is None or comment.article_id != article.article_id:
        raise refused(404, "comment", "not found")
    if comment.author_id != caller.subject:
        raise refused(403, "comment", "forbidden")
    tx.delete(comment)
    return Reply(None, 204)


@blog.get("/api/articles", allow=anyone)
async def articles(
    read: Reader,
    caller: Caller | None,
    tag: str = "",
    author: str = "",
    favorited: str = "",
    limit: int = 20,
    offset: int = 0,
) -> dict[str, Any]:
    newest: dict[str, Any] = {"order": "-created_at", "limit": offset + limit}
    if tag:
        found, count = await read.find(Tagged, tag=tag, **newest), await read.count(Tagged, tag=tag)
        return await a_page(read, await by_ids(read, found[offset:]), count, caller)
    if favorited:
        user_id = await id_of(read, favorited)
        liked, count = await read.find(Favorite, user_id=user_id, **newest), await read.count(Favorite, user_id=user_id)
        return await a_page(read, await by_ids(read, liked[offset:]), count, caller)
    where = {"author_id": await id_of(read, author)} if author else {}
    rows = await read.find(Article, **where, **newest)
    return await a_page(read, rows[offset:], await read.count(Article, **where), caller)


@blog.get("/api/articles/feed", allow=somebody)
async def feed(read: Reader, caller: Caller, limit: int = 20, offset: int = 0) -> dict[str, Any]:
    followed = (await read.borrowed(follows, caller.subject)).value
    where = {"author_id": followed.user_ids if followed else []}
    rows = await read.find(Article, **where, order="-created_at", limit=offset + limit)
    return await a_page(read, rows[offset:], await read.count(Article, **where), caller)


@blog.get("/api/articles/{slug}", allow=anyone)
async def article(slug: str, read: Reader, caller: Caller | None) -> dict[str, Any]:
    return await one(read, read, await by_slug(read, slug), caller)


@blog.get("/api/articles/{slug}/comments", allow=anyone)
async def comments(slug: str, read: Reader, caller: Caller | None) -> dict[str, Any]:
    found = await read.find(Comment, article_id=(await by_slug(read, slug)).article_id, order="-created_at")
    return {"comments": await comments_shown(read, found, caller)}


@blog.get("/api/tags", allow=anyone)
async def tags(read: Reader) -> dict[str, Any]:
    return {"tags": list(dict.fromkeys(row.tag for row in await read.find(Tagged)))}


async def by_slug(read: Reads, slug: str) -> Article:
    found = await read.load_by(Article, slug=slug)
    if found is None:
        raise refused(404, "article", "not found")
    return found


async def own(read: Reads, slug: str, caller: Caller) -> Article:
    found = await by_slug(read, slug)
    if found.author_id != caller.subject:
        raise refused(403, "article", "forbidden")
    return found


async def by_ids(read: Reads, rows: list[Any]) -> list[Article]:
    found = {each.article_id: each for each in await read.find(Article, article_id=[row.article_id for row in rows])}
    return [found[row.article_id] for row in rows]


async def free_slug(read: Reads, title: str, article_id: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "article"
    taken = await read.load_by(Article, slug=slug)
    return slug if taken is None or taken.article_id == article_id else f"{slug}-{article_id[:8]}"


async def id_of(read: Reader, username: str) -> str:
    found = (await read.borrowed(names, username)).value
    return found.user_id if found else ""


async def authors(late: Reader | Lagging, user_ids: list[str], caller: Caller | None) -> dict[str, Any]:
    """The profiles of users, as the caller sees them."""
    found = await late.borrowed_many(profiles, user_ids)
    followed = (await late.borrowed(follows, caller.subject)).value if caller else None
    return {
        user_id: structs.asdict(each.value or Profile("?"))
        | {"following": user_id in (followed or Follows([])).user_ids}
        for user_id, each in found.items()
    }


async def a_page(read: Reader, rows: list[Article], count: int, caller: Caller | None) -> dict[str, Any]:
    by = await authors(read, [row.author_id for row in rows], caller)
    ids = [row.article_id for row in rows]
    liked = await read.find(Favorite, user_id=caller.subject, article_id=ids) if caller and ids else []
    favorites = {each.article_id for each in liked}
    shown = [about(row, by[row.author_id], favorited=row.article_id in favorites) for row in rows]
    return {"articles": shown, "articlesCount": count}


async def one(read: Reads, late: Reader | Lagging, row: Article, caller: Caller | None) -> dict[str, Any]:
    by = await authors(late, [row.author_id], caller)
    favorited = caller is not None and await read.load(Favorite, caller.subject, row.article_id) is not None
    return {"article": about(row, by[row.author_id], favorited=favorited) | {"body": row.body}}


async def comments_shown(late: Reader | Lagging, rows: list[Comment], caller: Caller | None) -> list[Any]:
    by = await authors(late, [row.author_id for row in rows], caller)
    at = [{"createdAt": moment(row.created_at), "updatedAt": moment(row.created_at)} for row in rows]
    whole = zip(rows, at, strict=True)
    return [{"id": row.comment_id, "body": row.body, "author": by[row.author_id], **times} for row, times in whole]


def about(row: Article, author: Any, *, favorited: bool) -> dict[str, Any]:
    return {
        "slug": row.slug,
        "title": row.title,
        "description": row.description,
        "tagList": row.tags,
        "createdAt": moment(row.created_at),
        "updatedAt": moment(row.updated_at),
        "favorited": favorited,
        "favoritesCount": row.favorites,
        "author": author,
    }


def moment(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
