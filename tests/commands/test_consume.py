"""A log of commands that is put back, or made anew, is noticed: nothing new in it is skipped, and a person is told."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from chimera.commands.consume import CommandConsumer
from chimera.commands.states import CommandStates
from chimera.core.clock import Clock, stamp_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Progress
from chimera.core.timing import Retention
from chimera.entities import table_of
from chimera.errors import Rejected
from chimera.messages import Message
from chimera.testing.memory import MemoryLog
from chimera.testing.waiting import eventually, running
from chimera.upkeep.standing import standing_works
from chimera.upkeep.status import service_status
from chimera.web.admin import Admin
from chimera.web.permission.groups import Groups
from chimera.web.wire.http import Call
from tests.support import QUICK, Bank, Deposit, Engines, accept, balances, message_of, opened

SOON = msgspec.structs.replace(QUICK, heads_quiet_s=0.02, quiet_s=0.05)
EVERY = frozenset(range(4))
WORDS = "was put back or made anew"


@pytest.fixture
async def context(bank: Bank, engines: Engines) -> Context:
    return await opened(bank.service, engines, timing=SOON)


def deposits(*names: str) -> list[Message]:
    """A command for each name, all in one partition, accepted just now."""
    return [replaced(message_of(Deposit("a", 1)), id=name, time=Clock().stamp()) for name in names]


def replaced(message: Message, **fields: object) -> Message:
    return msgspec.structs.replace(message, **fields)


async def with_log(context: Context, messages: Sequence[Message]) -> Context:
    """The same service, its log of commands holding these."""
    log = MemoryLog()
    for topic in (context.commands_topic, "accounts.events"):
        await log.create(topic, context.service.partitions)
    await log.append(context.commands_topic, messages)
    return replace(context, log=log)


@asynccontextmanager
async def consuming(context: Context) -> AsyncIterator[None]:
    async with running(CommandConsumer(context).run(EVERY)):
        yield


async def done(context: Context, messages: Sequence[Message]) -> bool:
    states = await CommandStates(context).get_many([message.id for message in messages])
    return all(each.state == "done" for each in states)


async def consumed(context: Context, messages: Sequence[Message]) -> None:
    """Returns once these are done."""
    async with consuming(context):
        await eventually(lambda: done(context, messages))


async def told(context: Context) -> list[str]:
    return [each.cause for each in await standing_works(context)]


async def test_new_commands_at_offsets_that_were_read_are_done_and_those_that_were_done_are_not_done_again(
    context: Context, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    """The log is put back to its first command, and has grown past what was read of it by when somebody looks."""
    old, new = deposits("old-1", "old-2", "old-3"), deposits(*(f"new-{n}" for n in range(5)))
    await consumed(await with_log(context, old), old)
    put_back = await with_log(context, [old[0], *new])
    with caplog.at_level(logging.ERROR):
        await consumed(put_back, new)
    assert await balances(context) == {"a": 8}
    assert [bank.handled.count(message.id) for message in old] == [1, 1, 1]
    assert WORDS in caplog.text
    [found] = await told(put_back)
    assert "at offset 3 it has another command than was read there" in found
    assert [each.cause for each in put_back.troubles.standing(put_back.clock, 10.0)] == [found]


async def test_a_log_that_ends_before_what_was_read_is_read_from_its_beginning(context: Context) -> None:
    old, new = deposits("old-1", "old-2", "old-3"), deposits("new-1")
    await consumed(await with_log(context, old), old)
    put_back = await with_log(context, new)
    await consumed(put_back, new)
    assert await balances(context) == {"a": 4}
    [found] = await told(put_back)
    assert "it ends at offset 1, and was read up to 3" in found


async def test_a_log_that_is_put_back_while_it_is_read_is_noticed(context: Context) -> None:
    old, new = deposits("old-1", "old-2", "old-3"), deposits("new-1")
    running_ = await with_log(context, old)
    async with consuming(running_):
        await eventually(lambda: done(running_, old))
        assert isinstance(running_.log, MemoryLog)
        running_.log.remake(running_.commands_topic)
        await accept(running_, *new)
        await eventually(lambda: done(running_, new))
    assert await balances(context) == {"a": 4}


async def test_a_log_that_is_as_it_was_is_told_of_nobody(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    """Also where its last command comes again, alone or with others, and where it was trimmed."""
    old = deposits("old-1", "old-2", "old-3")
    log = await with_log(context, old)
    await consumed(log, old)
    await consumed(log, old)
    more = await accept(log, *deposits("more-1"))
    await log.log.trim(log.commands_topic, {more[0].partition: 3})
    with caplog.at_level(logging.ERROR):
        await consumed(log, more)
    assert not caplog.records
    assert await told(log) == []
    assert await balances(context) == {"a": 4}


async def test_a_checkpoint_of_an_earlier_release_says_nothing_about_the_log(context: Context) -> None:
    old, new = deposits("old-1"), deposits("new-1", "new-2")
    await consumed(await with_log(context, old), old)
    table = table_of(Progress)
    async with context.store.transaction() as session:
        [row] = [each for each in await session.find(table, {}) if table.from_row(each).consumer == COMMANDS]
        await session.save(table, [table.to_row(msgspec.structs.replace(table.from_row(row), chain=None))])
    other = await with_log(context, new)
    await consumed(other, new[1:])
    assert await told(other) == []


async def test_what_is_older_than_the_inbox_remembers_is_not_done_again_and_named(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    """A log may keep commands for longer than the inbox: then nobody else knows that they were done."""
    days = replace(context, retention=Retention(inbox_days=1.0))
    ago = stamp_of(context.clock.now() - timedelta(days=2))
    forgotten = replaced(message_of(Deposit("a", 100)), id="forgotten", time=ago)
    old, new = deposits("old-1", "old-2"), deposits("new-1", "new-2")
    await consumed(await with_log(days, old), old)
    put_back = await with_log(days, [forgotten, *new])
    with caplog.at_level(logging.ERROR):
        await consumed(put_back, new)
    assert "1 commands at offsets 1 to 1, which are read again, are older than the inbox remembers" in caplog.text
    assert "forgotten" in caplog.text
    assert await balances(context) == {"a": 4}


async def test_old_commands_that_were_never_read_are_done(context: Context) -> None:
    """All write heads may have been away for longer than the inbox remembers."""
    days = replace(context, retention=Retention(inbox_days=1.0))
    ago = stamp_of(context.clock.now() - timedelta(days=2))
    old = [replaced(each, time=ago) for each in deposits("old-1", "old-2")]
    await consumed(await with_log(days, old), old)
    assert await balances(context) == {"a": 2}


async def test_a_log_that_skips_offsets_is_told_with_how_many_commands_are_lost(context: Context) -> None:
    old, more = deposits("old-1"), deposits(*(f"more-{n}" for n in range(4)))
    log = await with_log(context, old)
    await consumed(log, old)
    await accept(log, *more)
    await log.log.trim(log.commands_topic, {more[0].partition: 4})
    await consumed(log, more[-1:])
    [found] = await told(log)
    assert "goes on at offset 5 after 1" in found
    assert "3 commands are lost" in found


async def test_before_a_write_head_runs_the_status_tells_and_new_commands_are_pending(
    context: Context,
) -> None:
    old, new = deposits("old-1", "old-2", "old-3"), deposits("new-1")
    await consumed(await with_log(context, old), old)
    put_back = await with_log(context, new)
    rows = [row for row in (await service_status(put_back))["consumers"] if row["consumer"] == COMMANDS]
    assert [row["diverged"] for row in rows if row["diverged"]] == [
        f"stands at accounts.commands/{new[0].partition}@3, but accounts.commands ends at 1"
    ]
    assert (await CommandStates(put_back).get("new-1")).state == "pending"


async def test_who_asks_for_a_command_that_is_lost_with_its_log_is_told_since_when(context: Context) -> None:
    old, new = deposits("old-1", "old-2"), deposits("new-1")
    await consumed(await with_log(context, old), old)
    put_back = await with_log(context, new)
    await consumed(put_back, new)
    admin = Admin(put_back, CommandStates(put_back), {}, Groups(put_back))
    with pytest.raises(Rejected, match=r"knows no command 'lost'; if it was sent before .* was put back or made anew"):
        await admin.command(asked_for("lost"))
    [told_] = (await service_status(put_back))["standing"]
    assert (told_["work"], told_["tries"]) == ("accounts commands", 0)


async def test_who_asks_for_an_unknown_command_of_a_log_that_is_as_it_was_is_told_that_alone(context: Context) -> None:
    with pytest.raises(Rejected, match=r"knows no command 'lost'$"):
        await Admin(context, CommandStates(context), {}, Groups(context)).command(asked_for("lost"))


def asked_for(command_id: str) -> Call:
    async def nothing(*_: object) -> Any: ...

    return Call({"query_string": b"", "headers": []}, nothing, nothing, {"command_id": command_id})
