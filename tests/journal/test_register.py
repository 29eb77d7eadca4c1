"""Small documents that many change: no change is lost, and nothing is written in vain."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from chimera import Unavailable
from chimera.core.context import Context
from chimera.journal.register import TRIES, Register
from chimera.ports import Document, Listing, Move, ViewStore
from chimera.testing.broken import WrappedViews


class Setting(msgspec.Struct, frozen=True):
    mode: str = "sync"
    changes: int = 0


NONE = Setting()


def to(mode: str) -> Setting:
    return Setting(mode, 1)


def changed(setting: Setting) -> Setting:
    return msgspec.structs.replace(setting, changes=setting.changes + 1)


class Contested(WrappedViews):
    """Views in which somebody else changes the setting `a` before each of the first so many writes."""

    def __init__(self, views: ViewStore, times: int) -> None:
        super().__init__(views)
        self.times = times
        self.writes: list[str] = []

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        self.writes.append(consumer)
        if self.times:
            self.times -= 1
            await register_of(self._views).change("a", NONE, changed)
        return await super().write(consumer, documents, moves, listings)


def register_of(views: ViewStore) -> Register[Setting]:
    return Register(views, "settings", Setting)


async def test_what_was_never_set_is_not_there_and_what_is_put_is_found(context: Context) -> None:
    register = register_of(context.views)
    assert await register.get(["a", "b"]) == {}
    await register.put({"a": to("async"), "b": to("hybrid")})
    assert await register.get(["a", "b", "c"]) == {"a": to("async"), "b": to("hybrid")}
    await register.put({"a": to("sync")})
    assert await register.get(["a"]) == {"a": to("sync")}


async def test_values_are_kept_as_json_in_the_documents_of_the_view(context: Context) -> None:
    """As earlier releases read and wrote them."""
    await register_of(context.views).put({"a": Setting("async", 2)})
    [document] = (await context.views.get("settings", ["a"])).values()
    assert document.data == b'{"mode":"async","changes":2}'


async def test_a_change_begins_with_the_default_and_then_with_what_is_there(context: Context) -> None:
    register = register_of(context.views)
    assert await register.change("a", Setting("hybrid", 7), changed) == Setting("hybrid", 8)
    assert await register.change("a", Setting("hybrid", 7), changed) == Setting("hybrid", 9)
    assert await register.get(["a"]) == {"a": Setting("hybrid", 9)}


async def test_a_step_that_changes_nothing_writes_nothing(context: Context) -> None:
    views = Contested(context.views, 0)
    register = register_of(views)
    assert await register.change("a", NONE, lambda setting: setting) is NONE
    assert await register.get(["a"]) == {}
    await register.put({"a": to("async")})
    views.writes.clear()
    assert await register.change("a", NONE, lambda setting: to("async")) == to("async")
    assert views.writes == []


async def test_a_default_is_written_where_a_step_returns_another_that_is_equal(context: Context) -> None:
    register = register_of(context.views)
    assert await register.change("a", NONE, lambda setting: Setting()) == NONE
    assert await register.get(["a"]) == {"a": NONE}


async def test_whoever_was_slower_takes_the_step_again_from_what_is_there(context: Context) -> None:
    views = Contested(context.views, 3)
    assert await register_of(views).change("a", NONE, changed) == Setting("sync", 4)
    assert await register_of(context.views).get(["a"]) == {"a": Setting("sync", 4)}
    assert len(views.writes) == 4


async def test_no_change_of_many_at_once_is_lost(context: Context) -> None:
    registers = [register_of(context.views) for _ in range(20)]
    await asyncio.gather(*(register.change("a", NONE, changed) for register in registers))
    assert await registers[0].get(["a"]) == {"a": Setting("sync", 20)}


async def test_what_is_put_beside_a_change_is_written_with_it_or_not_at_all(context: Context) -> None:
    register = register_of(context.views)
    await register.change("a", NONE, changed, beside={"a~report": b'{"mode":"one"}'})
    await register.change("a", NONE, lambda setting: setting, beside={"a~report": b'{"mode":"two"}'})
    assert await register.get(["a", "a~report"]) == {"a": Setting("sync", 1), "a~report": Setting("one")}
    await register.change("a", NONE, changed, beside={"a~report": b'{"mode":"three"}'})
    assert await register.get(["a", "a~report"]) == {"a": Setting("sync", 2), "a~report": Setting("three")}


async def test_what_is_put_stands_whatever_is_there_but_not_against_others_again_and_again(context: Context) -> None:
    await register_of(Contested(context.views, TRIES - 1)).put({"a": to("async")})
    assert await register_of(context.views).get(["a"]) == {"a": to("async")}
    with pytest.raises(Unavailable, match="others write settings again and again"):
        await register_of(Contested(context.views, TRIES)).put({"a": to("hybrid")})
    assert (await register_of(context.views).get(["a"]))["a"].mode == "async"


async def test_it_is_written_as_the_consumer_that_is_given_or_as_its_view(context: Context) -> None:
    views = Contested(context.views, 0)
    await Register(views, "sales.starts", Setting, consumer="sales").put({"a": NONE})
    await register_of(views).put({"a": NONE})
    assert views.writes == ["sales", "settings"]
