"""Lists are kept with the documents of their view, in one order everywhere, and read a page at a time."""

from __future__ import annotations

import asyncio
import enum
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cmp_to_key, partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import hypothesis
import hypothesis.strategies as st
import msgspec
import pytest

from chimera import DeclarationError, Service
from chimera.core.context import Context
from chimera.core.names import all_of, generation_name
from chimera.errors import Unavailable, Unfit
from chimera.folds import ListKind
from chimera.messages import MAX_KEY
from chimera.ports import LONGEST_PLACE, Listing
from chimera.testing.broken import WrappedViews
from chimera.testing.contracts.suite import quick
from chimera.testing.engines import memory_engines
from chimera.testing.fuse import Fuse, FusedViews
from chimera.testing.waiting import eventually, running
from chimera.views.fingerprints import fingerprint
from chimera.views.generations import read_generations
from chimera.views.lists.entries import ViewEntries, list_digest
from chimera.views.lists.filling import fill_lists
from chimera.views.lists.order import TEXT_BYTES, Order, encoded
from chimera.views.rebuild import ask_for
from chimera.web.wire import openapi
from tests.adapters.services import ROOT
from tests.support import Engines, positions_of
from tests.views.blog import Answer, Blog, Mood, Reading, blogging, caught_up, head, put
from tests.views.listed import AT, REAL, is_listed, places, places_of, serves, write
from tests.views.real import real_views

# the order of values


class Colour(enum.IntEnum):
    RED = 3
    BLUE = -1


VALUES: dict[ListKind, st.SearchStrategy[Any]] = {
    "text": st.text(max_size=8) | st.sampled_from(["", "\0", "a\0", "a\0\xff", "a", "ab", "\uffff", "\U00010000"]),
    "integer": st.integers() | st.sampled_from([0, -1, 255, 256, -255, -256, -257, 1 << 64]),
    "real": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5e-324, -5e-324]),
    "boolean": st.booleans(),
    "time": st.datetimes(timezones=st.just(UTC)) | st.datetimes(),
}
GREATEST = (1 << 128) - 1


def known(value: Any, kind: ListKind) -> Any:
    """What a value is compared by, in Python."""
    if kind == "text":
        return value.encode()
    if kind == "integer":
        return max(-GREATEST, min(GREATEST, value))
    return value.replace(tzinfo=value.tzinfo or UTC) if kind == "time" else value


@pytest.mark.parametrize("kind", VALUES)
@quick
@hypothesis.given(st.data())
def test_bytes_are_in_the_order_of_values(kind: ListKind, data: st.DataObject) -> None:
    one, two = data.draw(VALUES[kind]), data.draw(VALUES[kind])
    less, greater = encoded(one, kind), encoded(two, kind)
    assert (less < greater) == (known(one, kind) < known(two, kind))
    assert (less == greater) == (known(one, kind) == known(two, kind))
    assert encoded(None, kind) < less


FIELDS = ("name", "count", "score", "is_new", "at")
KINDS: tuple[ListKind, ...] = ("text", "integer", "real", "boolean", "time")


class Thing(msgspec.Struct):
    thing_id: str
    name: str | None = None
    count: int | None = None
    score: float | None = None
    is_new: bool | None = None
    at: datetime | None = None


THINGS = st.builds(
    Thing,
    st.text(min_size=1, max_size=4),
    *(st.none() | VALUES[kind] for kind in KINDS),
)


@quick
@hypothesis.given(
    st.lists(THINGS, max_size=8, unique_by=lambda thing: thing.thing_id),
    st.lists(st.sampled_from(FIELDS), min_size=1, max_size=4, unique=True),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_places_are_in_the_declared_order_and_end_with_the_key(
    things: list[Thing], names: list[str], descends: list[bool]
) -> None:
    view = Service("shop").view(Thing, key="thing_id")
    signs = dict(zip(names, descends, strict=False))
    listed = view.list("some", order=[f"{'-' if signs[name] else ''}{name}" for name in names])
    order = Order(listed.order)

    def compared(one: Thing, two: Thing) -> int:
        for field in listed.order:
            left, right = (getattr(each, field.name) for each in (one, two))
            if left is None or right is None:
                sign = (left is not None) - (right is not None)
            else:
                a, b = known(left, field.kind), known(right, field.kind)
                sign = (a > b) - (a < b)
            if sign:
                return -sign if field.descends else sign
        a, b = one.thing_id.encode(), two.thing_id.encode()
        return (a > b) - (a < b)

    places = {order.place(each, each.thing_id): each.thing_id for each in things}
    ordered = [each.thing_id for each in sorted(things, key=cmp_to_key(compared))]
    assert [places[place] for place in sorted(places)] == ordered
    assert [order.key(place) for place in places] == list(places.values())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_float_that_is_no_number_has_no_place(number: float) -> None:
    with pytest.raises(Unfit, match="a float that is no number"):
        encoded(number, "real")


def test_times_of_one_moment_are_equal_whatever_their_zone() -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert encoded(noon.astimezone(timezone(timedelta(hours=5))), "time") == encoded(noon, "time")
    assert encoded(datetime(2026, 1, 2, 12), "time") == encoded(noon, "time")  # noqa: DTZ001 - a time without a zone
    extremes = [datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), datetime.max.replace(tzinfo=UTC)]
    assert sorted(extremes) == sorted(extremes, key=lambda each: encoded(each, "time"))


def test_the_longest_place_fits_every_engine() -> None:
    view = Service("shop").view(Thing, key="thing_id")
    order = Order(view.list("some", order=("name", "count", "-score", "at")).order)
    thing = Thing("🦁" * MAX_KEY, "\0" * 1000, 1 << 200, 1.0, True, datetime.max.replace(tzinfo=UTC))
    assert len(order.place(thing, thing.thing_id)) <= LONGEST_PLACE
    assert order.key(order.place(thing, thing.thing_id)) == thing.thing_id


def test_texts_are_ordered_by_their_beginning_and_then_by_key() -> None:
    view = Service("shop").view(Thing, key="thing_id")
    order = Order(view.list("some", order="name").order)
    same = "x" * TEXT_BYTES
    places = [order.place(Thing(key, name), key) for key, name in (("a", same + "b"), ("b", same + "a"))]
    assert sorted(places) == places


# the declaration


class Odd(msgspec.Struct):
    odd_id: str
    name: str = ""
    tags: list[str] = []
    others: set[int] = set()
    nested: dict[str, int] = {}
    mixed: int | str = 0
    kind: Literal["a", "b"] = "a"
    unlike: Literal["a", 1] = "a"
    colour: Colour = Colour.RED
    day: date = date(2026, 1, 1)
    ref: UUID | None = None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "By Name"}, "its name is of lower case letters"),
    ({"where": "colours"}, r"Odd has no field 'colours' for where=; it has: odd_id, name"),
    ({"order": "-colours"}, r"Odd has no field 'colours' for order=; it has: odd_id, name"),
    ({"where": "nested"}, r"where='nested' is of a type that can't be filtered by: give the document a field of its"),
    ({"order": "tags"}, r"order='tags' is of a type that can't be ordered by: .*str, int, float, bool"),
    ({"order": "mixed"}, "order='mixed' is of a type that can't be ordered by"),
    ({"order": "unlike"}, "order='unlike' is of a type that can't be ordered by"),
    ({"where": ("tags", "others")}, "of tags, others, which hold several values each, only one may be in where="),
    ({"order": ("name", "-name")}, "order= names a field twice"),
    ({"order": ("name", "kind", "colour", "day", "ref")}, "order= has 5 fields; at most 4 fit"),
    ({"where": "name", "path": "/odd"}, r"its path must hold \{name\}, as where= has it, and nothing else"),
    ({"path": "/odd/{name}"}, "its path must hold no parameter"),
    ({"where": "name", "path": "/{name}/{kind}"}, r"its path must hold \{name\}"),
    ({"where": "name", "path": "odd/{name}"}, r"'odd/\{name\}' is no path; one looks like /\{name\}/articles"),
    ({"path": "/odd?by=name"}, "is no path; one looks like /articles"),
]


@pytest.mark.parametrize(("given", "says"), WRONG, ids=[str(index) for index in range(len(WRONG))])
def test_a_wrong_list_says_where_it_is_and_what_to_do(given: dict[str, Any], says: str) -> None:
    view = Service("shop").view(Odd, key="odd_id")
    name = given.pop("name", "some")
    with pytest.raises(DeclarationError, match=says) as caught:
        view.list(name, **given)
    line = caught.traceback[0].lineno + 1
    assert str(caught.value).startswith(f"{Path(__file__).relative_to(Path.cwd())}:{line}: list {name!r} of view odd: ")


def test_a_document_whose_types_are_not_known_yet_says_so() -> None:
    class Later(msgspec.Struct):
        later_id: str
        other: Unheard = None  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DeclarationError, match=r"some' of view later: name 'Unheard' is not defined; import it where"):
        Service("shop").view(Later, key="later_id").list("some")


def test_two_lists_of_one_name_are_refused() -> None:
    view = Service("shop").view(Odd, key="odd_id")
    view.list("some")
    with pytest.raises(DeclarationError, match=r"the view has one of this name already, at tests/.*\.py:\d+"):
        view.list("some")


def test_every_type_that_can_be_ordered_can_be_declared() -> None:
    view = Service("shop").view(Odd, key="odd_id")
    view.list("some", where=("tags", "colour"), order=("kind", "-day", "ref", "odd_id"), path="/{tags}/{colour}")
    [[within, at], [other, _]] = sorted(places(view, "o", b'{"odd_id":"o","tags":["a","b","a"]}'))
    assert within != other
    assert at.endswith(b"o")


def test_another_list_is_another_view_to_build() -> None:
    without, one, other = Blog(lists=False), Blog(), Blog(order="likes")
    assert len({fingerprint(each.articles) for each in (without, one, other)}) == 3
    assert fingerprint(Blog().articles) == fingerprint(one.articles)
    assert list_digest(one.by_tag) == list_digest(other.by_tag)
    assert list_digest(one.by_author) != list_digest(other.by_author)


# kept with the documents

WRITES = 200
"""Writes that are each looked for in what is read next."""


@pytest.fixture
async def blog() -> Blog:
    return Blog()


@pytest.fixture
async def context(blog: Blog, engines: Engines) -> Context:
    return await blogging(engines, blog)


async def test_a_list_has_what_its_view_has_in_its_order_a_page_at_a_time(context: Context) -> None:
    reading = Reading(context)
    times = [AT + timedelta(microseconds=number // 3) for number in range(25)]
    async with running(head(context).run()):
        await put(context, *(write(f"a{n:02}", published_at=times[n]) for n in range(25)))
        await put(context, write("other", "bob", published_at=AT), write("never"), write("again", published_at=AT))
        await put(context, write("again", "bob", published_at=AT + timedelta(days=1)), write("a03", ""))
        await caught_up(context, reading)
        wanted = sorted((n for n in range(25) if n != 3), key=lambda n: (-(n // 3), n))
        keys = [*(f"a{n:02}" for n in wanted), "never"]
        for limit in (1, 3, 24, 25, 26, 200):
            assert await reading.pages("/authors/ann/articles", limit) == keys
        page = await reading.get("/authors/ann/articles?limit=2")
        assert (page.status, page.json["count"], page.keys) == (200, 25, keys[:2])
        assert page.json["items"][0]["published_at"] == "2026-01-02T03:04:05.000008Z"
        assert (await reading.get("/authors/bob/articles")).keys == ["again", "other"]
        assert (await reading.get("/authors/nobody/articles")).json == {"items": [], "count": 0, "next": None}
        assert (await reading.get("/authors/ann/articles?limit=3&offset=23")).keys == keys[23:]
        assert await is_listed(context)


async def test_a_document_is_in_the_list_of_each_of_its_values(context: Context) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, write("a", tags=["x", "y", "x"], likes=1), write("b", tags=["y"], likes=-7))
        await put(context, write("c", tags=["ü/🦁"], likes=3), write("d"), write("b", tags=["y", "x"], likes=9))
        assert (await caught_up(context, reading)).json["count"] == 4
        assert (await reading.get("/tags/x/articles")).keys == ["b", "a"]
        assert (await reading.get("/tags/y/articles")).keys == ["b", "a"]
        found = await reading.get("/tags/%C3%BC%2F%F0%9F%A6%81/articles")
        assert (found.keys, found.json["count"]) == (["c"], 1)
        await put(context, write("a", tags=["z"]), write("b", ""))
        await caught_up(context, reading)
        assert [(await reading.get(f"/tags/{tag}/articles")).keys for tag in "xyz"] == [[], [], ["a"]]
        assert await is_listed(context)


async def test_pages_go_on_where_they_were_whatever_comes_and_goes_between(context: Context) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, *(write(f"a{n}", published_at=AT) for n in range(6)))
        await caught_up(context, reading)
        first = await reading.get("/authors/ann/articles?limit=3")
        await put(context, write("a0", ""), write("a2", ""), write("a3", ""), write("a00", published_at=AT))
        await put(context, write("a21", published_at=AT))
        await caught_up(context, reading)
        second = await reading.get(f"/authors/ann/articles?limit=3&after={first.json['next']}")
        assert (first.keys, second.keys, second.json["next"]) == (["a0", "a1", "a2"], ["a21", "a4", "a5"], None)


async def test_a_cursor_that_is_none_or_of_something_else_is_a_400_that_says_so(context: Context) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, *(write(f"a{n}", tags=["ann"]) for n in range(3)))
        await caught_up(context, reading)
        cursor = (await reading.get("/authors/ann/articles?limit=1")).json["next"]
        assert (await reading.get(f"/authors/ann/articles?after={cursor}")).keys == ["a1", "a2"]
        for path in ("/authors/bob/articles", "/tags/ann/articles", "/articles"):
            found = await reading.get(f"{path}?after={cursor}")
            assert (found.status, found.json["field"]) == (400, "query.after")
            assert "of another list, order or value; begin without one" in found.json["detail"]
        for damaged in (cursor[:-1], cursor[1:], cursor.swapcase(), "x", "%C3%BC", cursor + "AAAA"):
            found = await reading.get(f"/authors/ann/articles?after={damaged}")
            assert (found.status, found.json["field"]) == (400, "query.after"), damaged
            assert "it is no cursor; take the `next` of a page as it is" in found.json["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "query.limit"),
        ("limit=201", "query.limit"),
        ("limit=x", "query.limit"),
        ("offset=-1", "query.offset"),
        ("offset=10001", "query.offset"),
        ("page=2", "query"),
        ("offset=1&after=x", "query.offset"),
    ],
)
async def test_a_page_that_can_not_be_asked_for_is_a_422(context: Context, query: str, field: str) -> None:
    found = await Reading(context).get(f"/articles?{query}")
    assert found.status == 422
    assert found.json["field"].startswith(field)


async def test_a_query_reads_a_list_as_typed_documents(context: Context) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, *(write(f"a{n}", likes=n) for n in range(5)))
        await caught_up(context, reading)
        first = await reading.get("/top/ann")
        assert (first.keys, first.json["count"]) == (["a0", "a1"], 5)
        assert first.json["items"][1]["likes"] == 1
        assert (await reading.get(f"/top/ann?after={first.json['next']}&limit=9")).keys == ["a2", "a3", "a4"]
        assert (await reading.get("/top/ann?offset=4")).keys == ["a4"]
        assert (await reading.get("/top/ann?after=nonsense")).status == 400


async def test_every_order_that_is_declared_is_served(context: Context) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        moods = [("a", Mood.SAD, 1.0), ("b", Mood.GLAD, -0.0), ("c", Mood.GLAD, 0.0), ("d", Mood.GLAD, 2.5)]
        await put(context, *(write(key, mood=mood, score=score) for key, mood, score in moods))
        await put(context, write("e", mood=Mood.SAD, score=-3.0))
        assert (await caught_up(context, reading)).keys == ["d", "b", "c", "a", "e"]


async def test_who_brings_a_position_waits_for_the_whole_list_or_is_told(context: Context) -> None:
    reading = Reading(context)
    [first] = await put(context, write("a", "bob"))
    late = await reading.get("/authors/ann/articles", after=positions_of(first))
    assert late.json == {"items": [], "count": 0, "next": None}  # no write head has ever been there
    assert late.headers["chimera-behind"] == f"blog/{positions_of(first)[0].partition}@0"
    async with running(head(context).run()):
        await caught_up(context, reading)
        for number in range(WRITES):
            [outcome] = await put(context, write(f"w{number:03}"))
            [position] = positions_of(outcome)
            answer = await reading.get("/authors/ann/articles?limit=200", after=[position])
            assert "chimera-behind" not in answer.headers
            assert len(answer.keys) == answer.json["count"] == number + 1
            covered = {each.partition("@")[0]: int(each.partition("@")[2]) for each in told(answer)}
            assert covered[f"blog/{position.partition}"] >= position.number
    [outcome] = await put(context, write("x"))
    reading = Reading(await blogging(Engines(context.log, context.store, context.views)))
    answer = await reading.get("/top/ann?limit=200", after=positions_of(outcome))
    assert "x" not in answer.keys
    assert answer.headers["chimera-behind"].startswith(f"blog/{positions_of(outcome)[0].partition}@")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", REAL)
async def test_after_each_write_a_list_on_a_real_engine_has_it_or_says_that_it_lags(engine: str) -> None:
    """Two write heads fold; two readers ask at once, one of them for what has just moved from one list to another."""
    lagged = 0
    async with real_views(engine, "article") as views:
        context = await blogging(memory_engines()._replace(views=views))
        readings = [Reading(context), Reading(await blogging(Engines(context.log, context.store, views)))]
        heads = [head(context, name) for name in ("a" if engine == "mongodb" else "ab")]
        async with running(*(each.run() for each in heads)):
            for number in range(WRITES):
                key, author = f"w{number % 20:02}", f"author{number % 3}"
                [outcome] = await put(context, write(key, author, likes=number, tags=[f"t{number}"]))
                paths = (f"/authors/{author}/articles", f"/tags/t{number}/articles")
                for reading, path in zip(readings, paths, strict=True):
                    answer = await reading.get(f"{path}?limit=200", after=positions_of(outcome))
                    shown = [each["likes"] for each in answer.json["items"] if each["article_id"] == key]
                    lags = "chimera-behind" in answer.headers
                    assert lags or shown == [number], (number, path, answer.headers)
                    lagged += lags
    assert lagged < WRITES


def told(answer: Answer) -> list[str]:
    return answer.headers["chimera-position"].split(",")


async def test_a_list_says_what_it_lacks_of_any_document(context: Context) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, write("a"), write("b"))
        await caught_up(context, reading)
        [outcome] = await put(context, write("b", "breaks"))
        [position] = positions_of(outcome)
        await eventually(lambda: lacks(reading, str(position)))
        followed = await reading.get("/authors/ann/articles", after=[position])
        assert followed.keys == ["a", "b"]
        assert followed.headers["chimera-behind"] == f"blog/{position.partition}@{position.number - 1}"


async def lacks(reading: Reading, position: str) -> bool:
    return (await reading.get("/authors/ann/articles")).headers.get("chimera-lacks") == position


async def test_a_write_that_fails_anywhere_leaves_lists_as_documents_are(blog: Blog, engines: Engines) -> None:
    """Each write and read of the views in turn is the last one of its process."""
    for turn in range(1, 14):
        context = await blogging(engines, blog)
        fuse = Fuse(turn, late=turn % 2 == 0)
        fused = await blogging(engines._replace(views=FusedViews(engines.views, fuse)), Blog())
        await put(context, *(write(f"k{n}", tags=[f"t{(n + turn) % 3}"], likes=turn) for n in range(4)))
        async with running(quietly(fused)):
            await eventually(fuse.blown.is_set)
        assert await is_listed(context)


async def quietly(context: Context) -> None:
    """A write head that ends as it ends."""
    await asyncio.gather(head(context).run(), return_exceptions=True)


async def test_a_view_without_lists_writes_and_reads_nothing_more(engines: Engines) -> None:
    views = Watched(engines.views)
    context = await blogging(engines._replace(views=views), Blog(lists=False))
    async with running(head(context).run()):
        await put(context, write("a"), write("b"))
        await eventually(lambda: has(context, "article", 2))
    assert views.listings == []
    assert not [view for view in views.got if view.endswith(".counts")]


async def has(context: Context, view: str, count: int) -> bool:
    return len(await context.views.scan(view, limit=10_000)) == count


class Watched(WrappedViews):
    """Notes what is written of lists and got."""

    def __init__(self, views: Any) -> None:
        super().__init__(views)
        self.listings: list[Listing] = []
        self.got: list[str] = []

    async def get(self, view: str, keys: Sequence[str]) -> Any:
        self.got.append(view)
        return await super().get(view, keys)

    async def write(self, consumer: str, documents: Any, moves: Any, listings: Sequence[Listing] = ()) -> int:
        self.listings += listings
        return await super().write(consumer, documents, moves, listings)


async def test_a_change_that_moves_nothing_in_a_list_writes_nothing_of_it(blog: Blog, engines: Engines) -> None:
    views = Watched(engines.views)
    context = await blogging(engines._replace(views=views), blog)
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, write("a", published_at=AT))
        await caught_up(context, reading)
        views.listings.clear()
        await put(context, write("a", published_at=AT, likes=5))
        await caught_up(context, reading)
    assert views.listings == []


# with the view's generations


async def test_a_list_that_is_new_is_built_beside_the_view_and_says_so_until_it_serves(engines: Engines) -> None:
    old, blog = Blog(lists=False), Blog()
    before = await blogging(engines, old)
    async with running(head(before).run()):
        await put(before, *(write(f"a{n}", tags=["x"]) for n in range(5)))
        await eventually(lambda: has(before, "article", 5))
    context = await blogging(engines, blog)
    reading = Reading(context)
    answer = await reading.get("/authors/ann/articles")
    assert answer.status == 503
    assert "the list by-author of article is being built, and is not served yet" in answer.json["detail"]
    assert (await reading.get("/articles/a1")).status == 200
    async with running(head(context).run()):
        await eventually(partial(serves, context, 2))
        assert (await reading.get("/authors/ann/articles")).keys == [f"a{n}" for n in range(5)]
        assert await is_listed(context, "article~2")


async def test_another_order_is_built_beside_the_old_one_which_leaves_nothing(engines: Engines) -> None:
    context = await blogging(engines)
    async with running(head(context).run()):
        await put(context, *(write(f"a{n}", likes=n, tags=["x"]) for n in range(5)))
        cursor = (await caught_up(context, Reading(context))).json["next"]
        cursor = (await Reading(context).get("/authors/ann/articles?limit=2")).json["next"]
        entries = await places_of(context)
    later = await blogging(engines, Blog(order="-likes"))
    reading = Reading(later)
    async with running(head(later).run()):
        await eventually(partial(serves, later, 2))
        assert (await reading.get("/authors/ann/articles")).keys == [f"a{n}" for n in (4, 3, 2, 1, 0)]
        refused = await reading.get(f"/authors/ann/articles?after={cursor}")
        assert (refused.status, refused.json["field"]) == (400, "query.after")
        for within, _ in entries:
            assert list(await later.views.listed("article", within)) == []
        assert [await later.views.scan(view) for view in all_of("article")] == [[]] * len(all_of("article"))
        assert await is_listed(later, "article~2")


async def adopted(engines: Engines, count: int) -> tuple[Context, Context]:
    """A blog with articles and no lists, and one with lists that can't build its view anew: the events are gone."""
    before = await blogging(engines, Blog(lists=False))
    async with running(head(before).run()):
        await put(before, *(write(f"a{n:03}", tags=[f"t{n % 3}"], likes=n) for n in range(count)))
        await eventually(lambda: has(before, "article", count))
    async with before.store.transaction() as session:
        for partition, number in (await session.heads()).items():
            await session.trim(partition, number)
    return before, await blogging(engines)


async def test_a_list_whose_events_are_gone_is_filled_from_the_documents(engines: Engines) -> None:
    """While articles come, change and go, in places that are filled already and in others."""
    _, context = await adopted(engines, 600)
    reading = Reading(context)
    async with running(head(context).run(), head(context, "b").run()):
        number = 0
        while (answer := await reading.get("/articles?limit=1")).status == 503:
            number += 1
            await put(
                context, write(f"a{number % 600:03}", "bob"), write(f"b{number}"), write(f"a{599 - number:03}", "")
            )
        assert answer.status == 200
        await caught_up(context, reading)
        assert (await read_generations(context.views, ["article"]))["article"].serving.number == 1
        assert await is_listed(context)
        assert (await reading.get("/articles?limit=1")).json["count"] == len(
            await context.views.scan("article", limit=5000)
        )


async def test_filling_a_list_ends_anywhere_and_goes_on(engines: Engines) -> None:
    _, context = await adopted(engines, 40)
    entries = ViewEntries(Blog().articles)
    for turn in range(1, 12):
        fused = await blogging(engines._replace(views=FusedViews(engines.views, Fuse(turn, late=turn % 2 == 0))))
        with suppress(Unavailable):
            await fill_lists(fused, "article", entries, sizes=(7,))
    await fill_lists(context, "article", entries, sizes=(7,))
    assert await is_listed(context)


async def test_a_cursor_goes_on_in_the_next_generation(context: Context, blog: Blog, engines: Engines) -> None:
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, *(write(f"a{n}", published_at=AT) for n in range(5)))
        await caught_up(context, reading)
        cursor = (await reading.get("/authors/ann/articles?limit=2")).json["next"]
        await ask_for(context, "article")
        await eventually(partial(serves, context, 2))
        found = await reading.get(f"/authors/ann/articles?after={cursor}")
        assert (found.keys, found.json["count"]) == (["a2", "a3", "a4"], 5)
        assert await is_listed(context, "article~2")


async def test_a_rebuild_under_load_shows_every_page_whole(context: Context) -> None:
    """While articles come, and generations change, no reader of all pages misses one that was there."""
    reading = Reading(context)
    async with running(head(context).run()):
        await put(context, *(write(f"a{n:02}", published_at=AT) for n in range(30)))
        await caught_up(context, reading)
        for number in (2, 3):
            await ask_for(context, "article")
            while not await serves(context, number):
                await put(context, write(f"b{number}", published_at=AT + timedelta(days=1)))
                found = await reading.pages("/authors/ann/articles", 7)
                assert [key for key in found if key < "b"] == [f"a{n:02}" for n in range(30)]
        await caught_up(context, reading)
        assert await is_listed(context, generation_name("article", 3))


@pytest.mark.parametrize("engine", REAL)
async def test_lists_on_a_real_engine_are_kept_paged_rebuilt_and_dropped_as_in_memory(engine: str) -> None:
    keys = [
        "a",
        "B",
        "é",
        "\U0001f981",
        "\uffff",
        "x" * MAX_KEY,
        "\U0001f981" * MAX_KEY,
        *(f"n{n:02}" for n in range(20)),
    ]
    async with real_views(engine, "article") as views:
        context = await blogging(memory_engines()._replace(views=views))
        # One head on MongoDB: work that is cancelled while its driver connects leaves a socket to the collector.
        heads = [head(context, name) for name in ("a" if engine == "mongodb" else "ab")]
        async with running(*(each.run() for each in heads)):
            reading = Reading(context)
            for turn in range(3):
                at = [None if n % 5 == 0 else AT + timedelta(seconds=(n * turn) % 7) for n in range(len(keys))]
                tags = [[f"t{(n + turn) % 3}", "all"] for n in range(len(keys))]
                await put(context, *(write(key, published_at=at[n], tags=tags[n]) for n, key in enumerate(keys)))
            await put(context, *(write(f"n{n:02}", "") for n in range(0, 20, 4)))
            left = [key for key in keys if key not in {f"n{n:02}" for n in range(0, 20, 4)}]
            assert (await caught_up(context, reading)).json["count"] == len(left)
            assert await is_listed(context)
            moments = dict(zip(keys, at, strict=True))
            wanted = sorted(
                left, key=lambda key: (-(moments[key] or datetime.min.replace(tzinfo=UTC)).timestamp(), key)
            )
            for limit in (3, 200):
                assert await reading.pages("/authors/ann/articles", limit) == wanted
            await ask_for(context, "article")
            await eventually(partial(serves, context, 2))
            assert await reading.pages("/authors/ann/articles", 7) == wanted
            assert await is_listed(context, "article~2")
            assert [await views.scan(view) for view in all_of("article")] == [[]] * len(all_of("article"))
            for within in {within for within, _ in await places_of(context, "article~2")}:
                assert list(await views.listed("article", within)) == []


# described


def test_the_page_about_lists_is_a_service_that_can_be_declared() -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "lists.md").read_text(), re.DOTALL)
    declared: dict[str, Any] = {"__name__": "blog"}
    exec(compile(code, "blog.py", "exec", dont_inherit=True), declared)
    assert set(declared["articles"].lists) == {"newest", "by-author", "by-tag"}


async def test_the_route_of_a_list_is_described(context: Context) -> None:
    described = openapi.document("blog", [*Reading(context).head.routes()])
    operation = described["paths"]["/authors/{author_id}/articles"]["get"]
    names = [(each["name"], each["in"], each["required"]) for each in operation["parameters"]]
    assert names == [
        ("author_id", "path", True),
        ("limit", "query", False),
        ("after", "query", False),
        ("offset", "query", False),
        ("Chimera-After", "header", False),
    ]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    page = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert page["properties"]["items"] == {"type": "array", "items": {"$ref": "#/components/schemas/Article"}}
    assert set(operation["responses"]["200"]["headers"]) == {"Chimera-Behind", "Chimera-Lacks", "Chimera-Position"}
    assert set(described["paths"]["/articles"]) == {"get", "post"}
