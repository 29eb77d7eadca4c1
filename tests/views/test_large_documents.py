"""One event that a view store can't keep, or that makes a document too large, is set aside; its view goes on."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import pytest

from chimera import Event, Service, Unavailable
from chimera.core.context import Context
from chimera.errors import CutShort
from chimera.journal.feed import Batch
from chimera.messages import Message
from chimera.ports import Checkpoint, Document, Listing, Move, ViewStore
from chimera.testing.broken import NarrowViews, WrappedViews
from chimera.views.parked import ParkedEvent, parked_events_of, spans_of
from chimera.views.projections import ViewProjection
from chimera.views.projector import Projector
from tests.support import TIME, Engines, opened, stored

POISON = "poison"


class Said(Event, source="shop", key="room"):
    room: str
    text: str


class Room(msgspec.Struct):
    room: str
    texts: list[str] = []


shop = Service("shop", partitions=2)
rooms = shop.view(Room, key="room")


@rooms.on(Said)
def said(room: Room, event: Said) -> None:
    room.texts.append(event.text)


def batch_of(*texts: tuple[str, str], after: int = 0) -> Batch:
    """Events of partition 0 by room and text, with the move over them."""
    messages = [
        Message(f"shop/0@{number}", "shop", "shop.Said", room, TIME, msgspec.json.encode(Said(room, text)), 0, number)
        for number, (room, text) in enumerate(texts, after + 1)
    ]
    return Batch(messages, [Move("shop", 0, after, Checkpoint(after + len(texts), 7))])


@pytest.fixture
async def shopping(engines: Engines) -> Context:
    return await opened(shop, engines)


def projector_of(context: Context, views: ViewStore | None = None) -> Projector:
    return Projector(replace(context, views=views or context.views), ViewProjection(rooms))


async def texts_of(context: Context) -> dict[str, list[str]]:
    return {key: document["texts"] for key, document in (await stored(context.views, rooms.name)).items()}


async def aside(context: Context) -> dict[str, list[ParkedEvent]]:
    keys = [key async for key, _ in spans_of(context.views, rooms.name)]
    return {key: [each async for each in parked_events_of(context.views, rooms.name, key)] for key in keys}


async def number_of(context: Context) -> int:
    return (await context.views.checkpoints(rooms.name))["shop", 0].number


def smaller(views: ViewStore, most: int) -> WrappedViews:
    """The view store, that says that it takes documents of so many bytes only."""
    wrapped = WrappedViews(views)
    wrapped.features = msgspec.structs.replace(views.features, largest=most)
    return wrapped


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_the_event_that_makes_a_document_too_large_is_set_aside_for_its_key(shopping: Context, size: int) -> None:
    projector = projector_of(shopping, smaller(shopping.views, 1000))
    texts = [("big", f"{number}" * 300) for number in range(5)] + [(f"r{number}", "hello") for number in range(5)]
    for start in range(0, len(texts), size):
        assert await projector.apply(batch_of(*texts[start : start + size], after=start))
    found = await texts_of(shopping)
    assert {key: len(value) for key, value in found.items()} == {"big": 3} | {f"r{number}": 1 for number in range(5)}
    parked = await aside(shopping)
    assert set(parked) == {"big"}
    assert [each.message.number for each in parked["big"]] == [4, 5]
    assert parked["big"][0].cause.startswith("Unfit: the document of key 'big' in room would have 1,")
    assert "1,000 fit" in parked["big"][0].cause


async def test_what_was_too_large_is_folded_once_more_fits(shopping: Context) -> None:
    narrow = projector_of(shopping, smaller(shopping.views, 6000))
    assert await narrow.apply(batch_of(*(("big", f"{number}" * 1700) for number in range(5))))
    assert [done for _, done in await narrow.redrive("big")] == [False]
    assert [done for _, done in await projector_of(shopping).redrive("big")] == [True, True]
    assert [text[0] for text in (await texts_of(shopping))["big"]] == ["0", "1", "2", "3", "4"]
    assert await aside(shopping) == {}


class DriverError(Exception):
    """What no port knows."""


@pytest.mark.parametrize("error", [DriverError, lambda: CutShort("the connection was lost"), lambda: ValueError("no")])
@pytest.mark.parametrize("place", [0, 7, 15])
async def test_what_an_engine_refuses_because_of_one_event_holds_up_no_other(
    shopping: Context, error: Callable[[], Exception], place: int
) -> None:
    views = NarrowViews(shopping.views, error, text=POISON.encode())
    texts = [(f"r{number % 8}", f"t{number}") for number in range(16)]
    texts[place] = ("ill", POISON)
    assert await projector_of(shopping, views).apply(batch_of(*texts))
    assert await number_of(shopping) == 16
    assert sum(map(len, (await texts_of(shopping)).values())) == 15
    [parked] = (await aside(shopping))["ill"]
    assert (parked.message.number, parked.tries) == (place + 1, 5)
    assert type(error()).__name__ in parked.cause
    assert "in write" in parked.traceback


async def test_an_engine_that_is_away_is_not_blamed_on_an_event(shopping: Context) -> None:
    """Nor is it when it goes away while an event is tried alone."""
    views = NarrowViews(shopping.views, lambda: CutShort("it ended"), text=POISON.encode())
    projector = projector_of(shopping, views)
    views.away = True
    with pytest.raises(Unavailable, match="nobody answers"):
        await projector.apply(batch_of(("a", "1"), ("b", "2")))
    views.away = False

    class Leaving(WrappedViews):
        async def write(
            self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
        ) -> int:
            views.away = views.refused == 3
            return await views.write(consumer, documents, moves, listings)

    with pytest.raises(Unavailable, match="nobody answers"):
        await projector_of(shopping, Leaving(shopping.views)).apply(batch_of(("a", POISON)))
    assert await aside(shopping) == {}
    assert await texts_of(shopping) == {}


async def test_an_engine_that_answers_again_has_lost_nothing(shopping: Context) -> None:
    """An event that fails alone twice, and then goes through, is written."""
    views = NarrowViews(shopping.views, lambda: CutShort("it ended"), text=POISON.encode())

    class Recovering(WrappedViews):
        async def write(
            self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
        ) -> int:
            return await (views if views.refused < 3 else shopping.views).write(consumer, documents, moves, listings)

    assert await projector_of(shopping, Recovering(shopping.views)).apply(batch_of(("a", POISON), ("b", "2")))
    assert await texts_of(shopping) == {"a": [POISON], "b": ["2"]}
    assert await aside(shopping) == {}


@pytest.mark.parametrize("declared", [True, False])
async def test_an_event_that_is_too_large_to_be_set_aside_stays_in_the_journal(
    shopping: Context, declared: bool
) -> None:
    """The view store keeps where it is; what is shown and tried again comes from the journal."""
    large = "x" * 3000
    message = batch_of(("a", large)).messages[0]
    async with shopping.store.transaction() as session:
        await session.hold([0])
        await session.append([message])
    views = (
        smaller(shopping.views, 2500)
        if declared
        else NarrowViews(shopping.views, lambda: DriverError("too large"), most=2500)
    )
    assert await projector_of(shopping, views).apply(batch_of(("a", large), ("b", "small")))
    [parked] = (await aside(shopping))["a"]
    assert (parked.left, parked.message.data) == (True, b"")
    assert set(await texts_of(shopping)) == {"b"}
    projector = projector_of(shopping)
    [rehearsed] = await projector.rehearse("a")
    assert rehearsed.result == "applied"
    assert [done for _, done in await projector.redrive("a")] == [True]
    assert (await texts_of(shopping))["a"] == [large]


async def test_a_retry_that_the_engine_refuses_again_settles_what_is_before_it(shopping: Context) -> None:
    views = NarrowViews(shopping.views, lambda: DriverError("too odd"), text=POISON.encode())
    texts = [("a", POISON), ("a", "2"), ("a", "worse"), ("a", "4"), ("a", "5")]
    assert await projector_of(shopping, views).apply(batch_of(*texts))
    worse = projector_of(shopping, NarrowViews(shopping.views, lambda: DriverError("too bad"), text=b'"worse"'))
    assert [done for _, done in await worse.redrive("a")] == [True, True, False]
    assert await texts_of(shopping) == {"a": [POISON, "2"]}
    first, *behind = (await aside(shopping))["a"]
    assert (first.message.number, first.cause, len(behind)) == (3, "DriverError: too bad", 2)
    assert [done for _, done in await worse.redrive("a", drop=["shop/0@3"])] == [True, True, True]
    assert await texts_of(shopping) == {"a": [POISON, "2", "4", "5"]}


async def test_no_event_is_blamed_for_a_write_that_holds_none(shopping: Context) -> None:
    """What nobody folds can't be set aside: the failure is told."""

    class Failing(WrappedViews):
        async def write(
            self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
        ) -> int:
            if moves:
                raise DriverError("no")
            return await super().write(consumer, documents, moves, listings)

    [message] = batch_of(("a", "1")).messages
    unknown = msgspec.structs.replace(message, type="shop.Other")
    batch = Batch([unknown], [Move("shop", 0, 0, Checkpoint(1))])
    with pytest.raises(DriverError):
        await projector_of(shopping, Failing(shopping.views)).apply(batch)
