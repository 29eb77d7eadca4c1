"""Keys that no engine can index: refused at the door, and never a reason to stop, wherever they come from."""

from __future__ import annotations

import msgspec
import pytest

from chimera import Command, Event, Invalid, Service, Transaction
from chimera.commands.accept import CommandDecoder
from chimera.core.context import Context
from chimera.messages import MAX_KEY
from chimera.views.parked import parked_events_of
from tests.support import (
    PARTITIONS,
    Account,
    Bank,
    Engines,
    Open,
    accept,
    consume,
    journal_of,
    opened,
    parked_of,
    project,
    rows,
)

LONG = "k" * (MAX_KEY + 1)


class Name(Command, key="name_id"):
    name_id: str
    text: str


class Named(Event, source="accounts", key="name_id"):
    name_id: str
    text: str


class Used(msgspec.Struct):
    text: str
    times: int = 0


def test_a_command_with_a_key_that_is_too_long_is_refused_with_the_field_at_fault(context: Context, bank: Bank) -> None:
    handler = next(handler for handler in bank.service.handlers.values() if handler.command is Open)
    decoder = CommandDecoder(context, handler, [])
    with pytest.raises(Invalid, match="at most 255 characters") as refused:
        decoder.decode(msgspec.json.encode({"account_id": LONG}), {}, None, None)
    assert refused.value.field == "$.account_id"
    assert decoder.decode(msgspec.json.encode({"account_id": LONG[1:]}), {}, None, None).message.key == LONG[1:]


async def test_one_that_a_foreign_writer_sent_is_set_aside_and_nobody_waits_for_it(context: Context) -> None:
    await accept(context, Open(LONG), Open(LONG), Open("a"))
    outcomes = await consume(context)
    assert [outcome.state for outcome in outcomes] == ["parked", "behind", "done"]
    first, second = await parked_of(context)
    assert len(first.key) <= MAX_KEY
    assert "at most 255" in first.cause
    assert (first.data, second.state) == (msgspec.json.encode(Open(LONG)), "behind")
    assert set(await rows(context.store, Account)) == {"a"}


async def test_an_event_whose_view_has_a_key_that_is_too_long_is_set_aside(engines: Engines) -> None:
    names = Service("accounts", partitions=PARTITIONS)
    used = names.view(Used, key="text")

    @names.handle()
    async def name(command: Name, tx: Transaction) -> None:
        tx.emit(Named(command.name_id, command.text))

    @used.on(Named)
    def count(document: Used, event: Named) -> None:
        document.times += 1

    context = await opened(names, engines)
    await accept(context, Name("a", LONG), Name("b", "short"))
    await consume(context)
    assert len(await journal_of(context.store)) == 2
    await project(context, used)
    assert (await context.views.get(used.name, ["short"]))["short"].data == b'{"text":"short","times":1}'
    assert [event.message.key async for event in parked_events_of(context.views, used.name, "a")] == ["a"]
