"""Every reader gives the same object for an event of an earlier version."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera.core.context import Context
from chimera.forms import decoder_of, readers_of
from chimera.testing import folded, running
from chimera.testing import given as given_of
from chimera.upkeep.parked import ParkedKey, Wanted, parked_keys, rehearse_key, retry_key
from tests.evolution.shop import Look, Readers, Written, today_of

ORDERS = st.sampled_from([f"o{number}" for number in range(6)])
AMOUNTS = st.integers(0, 10**6)
FIRST = st.fixed_dictionaries({"order_id": ORDERS, "euros": AMOUNTS})
SECOND = st.fixed_dictionaries({"order_id": ORDERS, "cents": AMOUNTS}, optional={"buyer": st.text(max_size=4)})
THIRD = st.fixed_dictionaries(
    {"order_id": ORDERS, "lines": st.lists(AMOUNTS, max_size=3), "customer": st.text(max_size=4)}
)
EVENTS = st.lists(
    st.builds(Written, st.just(1), FIRST)
    | st.builds(Written, st.just(2), SECOND)
    | st.builds(Written, st.just(3), THIRD),
    min_size=1,
    max_size=8,
)
READERS = {"view", "entity", "reaction", "project", "borrowed view", "borrowed reaction"}


@settings(max_examples=8, deadline=None)
@given(EVENTS)
def test_every_reader_gives_the_same_object(written: list[Written]) -> None:
    asyncio.run(_read_by_all(written))


async def _read_by_all(written: list[Written]) -> None:
    readers = Readers()
    async with running(readers.shop, readers.desk) as services:
        await readers.append(services, written)
        await services.settled()
        for order in {each.data["order_id"] for each in written}:
            told = (await services.post("/vlooks", {"order_id": order})).json()
            expected = [list(map(_json, today_of(each))) for each in written if each.data["order_id"] == order]
            assert told == expected
        seen = {name: Counter(each) for name, each in readers.seen.items()}
        await services.balanced()
    wanted = Counter(map(today_of, written))
    assert seen == dict.fromkeys(READERS, wanted)


def _json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


async def _retried(failing: set[str], order: str) -> Readers:
    """One event of each version, read by readers that fail at first, and tried again."""
    readers = Readers()
    written = [
        Written(1, {"order_id": order, "euros": 3}),
        Written(2, {"order_id": order, "cents": 5, "buyer": "b"}),
        Written(3, {"order_id": order, "lines": [7, 9], "customer": "c"}),
    ]
    async with running(readers.shop, readers.desk) as services:
        readers.failing = set(failing)
        await readers.append(services, written)
        contexts = services.contexts.values()
        parked = await _until_parked(list(contexts), len(failing))
        readers.failing = set()
        for context, key in parked:
            for told in await rehearse_key(context, key):
                assert told.result == "applied", told
            await retry_key(context, key)
        await services.balanced()
        assert not [each for context in contexts for each in await parked_keys(context, Wanted())]
    assert readers.seen.keys() >= failing
    return readers


async def _until_parked(contexts: list[Context], count: int) -> list[tuple[Context, ParkedKey]]:
    while True:
        found = [(context, each) for context in contexts for each in await parked_keys(context, Wanted())]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.005)


async def test_what_was_parked_is_read_as_ever_when_it_is_tried_again() -> None:
    failing = {"view", "reaction", "borrowed view", "borrowed reaction"}
    readers = await _retried(failing, "o1")
    wanted = [("o1", (300,), "nobody"), ("o1", (5,), "b"), ("o1", (7, 9), "c")]
    for reader in failing:
        assert list(dict.fromkeys(readers.seen[reader])) == wanted


async def test_the_kit_reads_what_is_emitted_and_folds_it_in_todays_version() -> None:
    readers = Readers()
    event = readers.placed("o1", [1, 2], "c")
    assert msgspec.to_builtins(folded(readers.shop.views["sale"], event)["o1"])["lines"] == [1, 2]
    tried = await given_of(readers.shop, event).when(Look("o1")).tried()
    assert tried.answer == [["o1", [1, 2], "c"]]


def test_every_version_has_a_reader_and_the_newest_is_read_by_nothing_but_its_decoder() -> None:
    readers = Readers()
    found = readers_of(readers.placed, "vshop")
    assert list(found) == ["vshop.Placed@3", "vshop.Placed@2", "vshop.Placed"]
    assert found["vshop.Placed@3"] is decoder_of(readers.placed)
