"""What is parked can be listed, shown, tried, retried and dropped, by key, cause and time."""

import base64
import json
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from chimera import Entity, SettingsError
from chimera.cli import parked
from chimera.cli.parked import moment, wanted_of
from chimera.commands.execute import Task
from chimera.commands.handlers import commands_executor, parking_of
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Handled, Parked
from chimera.entities import Row, Table, table_of
from chimera.ports import Document, Session, Store, ViewStore
from chimera.testing.broken import WrappedSession, WrappedStore, WrappedViews
from chimera.testing.kit.balance import recomputed
from chimera.upkeep.parked import ParkedMessage, Wanted, drop_key, parked_keys, parked_messages
from chimera.upkeep.status import parked_counts
from tests.support import (
    Bank,
    Deposit,
    Engines,
    Withdraw,
    accept,
    all_of,
    at_hand,
    balances,
    consume,
    direct,
    journal_of,
    message_of,
    parked_of,
    project,
    projector_of,
    reaction_of,
    stored,
)

SETTINGS: Any = SimpleNamespace(services={"accounts": None})


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    at_hand(monkeypatch, parked, context)


async def set_aside(context: Context, bank: Bank) -> None:
    """Two commands, two events of a view, and one of a reaction."""
    bank.failing["a"] = bank.failing_reactions["v"] = ValueError("as told")
    bank.failing_views.add("v")
    await accept(context, Deposit("a", 1), Deposit("a", 2), Deposit("b", 1))
    await consume(context)
    await direct(context, Deposit("v", 1), Deposit("v", 2))
    await project(context, bank.balance)
    executor, _ = reaction_of(context, "thank")
    event = next(e for e in await journal_of(context.store) if e.type == "accounts.Deposited" and e.key == "v")
    await executor.run([Task(event, event.number)])


async def everything(context: Context) -> list[ParkedMessage]:
    return [each for key in await parked_keys(context, Wanted()) for each in await parked_messages(context, key)]


def no(question: str) -> bool:
    raise AssertionError(f"nobody is to be asked: {question}")


async def printed(capsys: pytest.CaptureFixture[str], work: Coroutine[Any, Any, None]) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    await work
    return json.loads(capsys.readouterr().out)


async def test_everything_that_is_set_aside_is_counted_and_listed_with_its_cause(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(context, bank)
    assert await parked_counts(context) == {"commands": 2, "balance": 2, "thank:accounts": 1}
    await parked.list_parked(SETTINGS, Wanted())
    listed = capsys.readouterr().out
    for text in ("ValueError: as told", "ValueError: v breaks the view", "thank:accounts", "accounts.Deposit"):
        assert text in listed
    found = await printed(capsys, parked.list_parked(SETTINGS, Wanted("accounts", "commands"), as_json=True))
    assert [(each["consumer"], each["key"], each["waiting"], each["tries"]) for each in found] == [
        ("commands", "a", 2, 1)
    ]


async def test_on_a_narrow_terminal_each_key_has_lines_of_its_own_and_nothing_is_cut(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "Console", partial(Console, width=80))
    await set_aside(context, bank)
    await parked.list_parked(SETTINGS, Wanted("accounts", "commands"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "accounts/commands a: accounts.Deposit, 2 waiting, tries 1"
    assert lines[1].startswith("  first 20")
    assert lines[-1] == "  ValueError: as told"
    assert max(map(len, lines)) <= 80


class NotingStore(WrappedStore):
    """Notes which columns are read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.columns: set[str] = set()

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        async with super().snapshot(once=once) as session:
            yield NotingSession(session, self.columns)


class NotingSession(WrappedSession):
    def __init__(self, session: Any, columns: set[str]) -> None:
        super().__init__(session)
        self._columns = columns

    async def find(self, table: Table, where: Mapping[str, Sequence[Any]]) -> Sequence[Row]:
        self._columns.update(column.name for column in table.columns)
        return await super().find(table, where)


class NotingViews(WrappedViews):
    """Notes which views are scanned."""

    def __init__(self, views: ViewStore) -> None:
        super().__init__(views)
        self.scanned: set[str] = set()

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        self.scanned.add(view)
        return await super().scan(view, after, limit)


async def test_counting_reads_nothing_of_what_is_parked_but_where_it_is(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(context, Deposit("a", 1), Deposit("a", 2))
    await consume(context)
    bank.failing_views.update("vw")
    await direct(context, Deposit("v", 1), Deposit("w", 1), Deposit("v", 2))
    await project(context, bank.balance)
    store, views = NotingStore(context.store), NotingViews(context.views)
    assert await parked_counts(replace(context, store=store, views=views)) == {"commands": 2, "balance": 3}
    assert store.columns == {"consumer", "key", "partition", "number", "state", "due", "tried_by", "ends", "unread_by"}
    assert views.scanned
    assert not views.scanned & {"balance.parked", "balance"}


async def test_nothing_parked_is_said_so(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    await parked.list_parked(SETTINGS, Wanted("accounts"))
    assert "nothing is parked" in capsys.readouterr().out
    for command in (parked.show_parked, parked.try_parked, parked.retry_parked):
        await command(SETTINGS, Wanted("accounts", "commands", "a"))
        assert "nothing of that is parked" in capsys.readouterr().out
    await parked.drop_parked(SETTINGS, Wanted("accounts"), confirm=no)
    assert "nothing of that is parked" in capsys.readouterr().out


async def test_a_message_is_shown_as_it_came_whatever_brackets_it_holds(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[/tmp] is [bold]not[/bold] a tag [true]"
    bank.failing["a"] = bank.failing[text] = ValueError(text)
    await accept(context, Deposit("a", 1), Deposit(text, 7))
    await consume(context)
    for key in ("a", text):
        await parked.show_parked(SETTINGS, Wanted(key=key))
        assert text in capsys.readouterr().out
    for command in (parked.list_parked, parked.try_parked, parked.retry_parked):
        await command(SETTINGS, Wanted())
        assert capsys.readouterr().out.count(text) >= 3


async def test_what_is_parked_shows_where_it_failed_the_last_time(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(context, bank)
    for consumer, line in (("commands", "in trouble"), ("balance", "in moved"), ("thank:accounts", "in thank")):
        [first, *behind] = await printed(capsys, parked.show_parked(SETTINGS, Wanted(consumer=consumer), as_json=True))
        assert line in first["traceback"]
        assert "ValueError" in first["traceback"]
        assert not any(each["traceback"] for each in behind)
        await parked.show_parked(SETTINGS, Wanted(consumer=consumer))
        assert line in capsys.readouterr().out
    bank.failing["a"] = bank.failing_reactions["v"] = KeyError("another")
    await parked.retry_parked(SETTINGS, Wanted())
    for key in await parked_keys(context, Wanted()):
        assert key.first.tries == 2
        assert ("KeyError" in key.first.traceback) == (key.first.consumer != "balance")


@pytest.mark.parametrize("data", [b'{"account_id": "a", "amount": 1}\n', b"\xff\x00\xfe", b""])
@pytest.mark.parametrize("key", ["a", "k" * 300])
async def test_a_parked_message_is_shown_and_tried_again_as_it_came(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str], data: bytes, key: str
) -> None:
    """Its bytes, in base64 where they are no text, its key whatever its length, and its trace."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bank.failing["a"] = ValueError("as told")
    came = msgspec.structs.replace(message_of(Deposit("a", 1)), data=data, traceparent=trace, key=key, type="odd")
    await accept(context, came)
    await consume(context)
    event = msgspec.structs.replace(came, type="accounts.Deposited", source="accounts", number=1, partition=0)
    executor, _ = reaction_of(context, "thank")
    bank.failing_reactions["a"] = ValueError("as told")
    await executor.run([Task(event, 1)])
    [command, reaction] = await printed(capsys, parked.show_parked(SETTINGS, Wanted(), as_json=True))
    for found, message in ((command, came), (reaction, event)):
        kept = base64.b64decode(found["data_base64"]) if "data_base64" in found else found["data"].encode()
        assert kept == data
        assert all(found[name] == getattr(message, name) for name in ("id", "key", "type", "time", "source"))
        assert found["traceparent"] == trace
    await parked.show_parked(SETTINGS, Wanted())
    assert trace in capsys.readouterr().out
    [first, _] = await parked_keys(context, Wanted())
    assert msgspec.structs.replace(first.first.message, number=0) == came


async def test_keys_are_chosen_by_consumer_key_cause_and_time(context: Context, bank: Bank) -> None:
    await set_aside(context, bank)
    bank.failing["c"] = KeyError("another")
    await accept(context, Deposit("c", 1))
    before = datetime.now(UTC)
    await consume(context)

    async def chosen(**which: Any) -> set[tuple[str, str]]:
        found = await parked_keys(context, Wanted(**which))
        return {(key.first.consumer, key.first.message.key) for key in found}

    everything = {("commands", "a"), ("commands", "c"), ("balance", "v"), ("thank:accounts", "v")}
    assert await chosen() == everything
    assert await chosen(consumer="commands") == {("commands", "a"), ("commands", "c")}
    assert await chosen(key="v") == {("balance", "v"), ("thank:accounts", "v")}
    assert await chosen(cause="as told") == {("commands", "a"), ("thank:accounts", "v")}
    assert await chosen(since=before) == {("commands", "c")}
    assert await chosen(until=before) == everything - {("commands", "c")}
    assert await chosen(consumer="commands", cause="waits behind") == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T08:00", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00:00+02:00", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("30m ago", datetime(2026, 1, 31, 11, 30, tzinfo=UTC)),
        ("2h", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("1d", datetime(2026, 1, 30, 12, tzinfo=UTC)),
    ],
)
def test_times_are_written_in_iso_8601_or_as_how_long_ago(text: str, expected: datetime) -> None:
    assert moment(text, datetime(2026, 1, 31, 12, tzinfo=UTC)) == expected


@pytest.mark.parametrize("text", ["yesterday", "", "2x", "2026-13-01", "9" * 9 + "d"])
def test_what_is_no_time_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(SettingsError, match="write 2026-01-31T08:00, or how long ago"):
        wanted_of(since=text)


def test_what_changes_parked_work_has_to_be_told_which() -> None:
    wanted_of(service="accounts", consumer="commands")
    with pytest.raises(SettingsError, match="--key, --cause, --since or --until; or --all"):
        wanted_of(service="accounts", consumer="commands", everything=False)
    assert wanted_of(everything=True) == Wanted()
    assert wanted_of(cause="as told", everything=False) == Wanted(cause="as told")


async def test_a_retry_of_some_or_of_all_runs_what_is_set_aside(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(context, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    bank.failing_reactions.clear()
    await parked.retry_parked(SETTINGS, Wanted(key="a"))
    assert (await balances(context))["a"] == 3
    assert await parked_counts(context) == {"balance": 2, "thank:accounts": 1}
    await parked.retry_parked(SETTINGS, Wanted())
    await project(context, bank.balance)
    assert await parked_counts(context) == {}
    assert await stored(context.views, "balance") == recomputed(bank.balance, await journal_of(context.store))
    assert "settled" in capsys.readouterr().out


async def kept(context: Context) -> tuple[Any, ...]:
    """All that a handler or a projection may change."""
    entities: list[type[Entity]] = [*context.service.entities, Parked, Handled]
    tables = [await all_of(context.store, entity) for entity in entities]
    documents = [await context.views.scan(view) for view in ("balance", "balance.parked", "total")]
    return tables, documents, await context.store.heads(), await journal_of(context.store)


async def tried(capsys: pytest.CaptureFixture[str], **which: Any) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = await printed(capsys, parked.try_parked(SETTINGS, Wanted(**which), as_json=True))
    return found


async def test_a_try_says_what_a_retry_would_do_and_keeps_nothing(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each message is tried after those before it: the second withdrawal has what the deposit left."""
    bank.failing["a"] = ValueError("as told")
    messages = await accept(
        context, Deposit("a", 5), Withdraw("a", 3), Withdraw("a", 3), Deposit("a", 1), Withdraw("a", 3)
    )
    await consume(context)
    await direct(context, Deposit("b", 1))
    before = await kept(context)
    assert [each["result"] for each in await tried(capsys)] == ["failed", "waits", "waits", "waits", "waits"]
    assert (await tried(capsys))[0]["detail"] == "ValueError: as told"
    bank.failing.clear()
    found = await tried(capsys)
    assert [each["message"] for each in found] == [message.id for message in messages]
    assert [each["result"] for each in found] == ["applied", "applied", "refused", "applied", "applied"]
    assert found[2]["detail"] == "overdrawn: 1 is missing"
    written = [(each["type"], each["key"], each["data"]) for each in found[1]["writes"]]
    assert ("accounts.Withdrawn", "a", '{"account_id":"a","amount":3}') in written
    assert await kept(context) == before
    outcomes = await parking_of(context, COMMANDS).redrive(commands_executor(context), "a")
    assert [outcome.state for outcome in outcomes] == ["done", "done", "rejected", "done", "done"]


async def test_a_try_of_a_view_and_of_a_reaction_keeps_nothing(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(context, bank)
    before = await kept(context)
    results = [each["result"] for each in await tried(capsys, key="v")]
    assert results == ["failed", "failed", "waits"]
    bank.failing_views.clear()
    bank.failing_reactions.clear()
    found = await tried(capsys, key="v")
    assert [each["result"] for each in found] == ["applied"] * 3
    assert [json.loads(each["writes"][0]["data"])["balance"] for each in found[1:]] == [1, 3]
    assert await kept(context) == before


async def test_a_try_knows_what_was_done_otherwise(
    context: Context, bank: Bank, engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(context, Deposit("a", 5))
    await consume(context)
    bank.failing.clear()
    async with context.store.transaction() as session:
        await session.delete(table_of(Handled), [(message.id,)])
    await direct(context, message)
    [found] = await tried(capsys)
    assert (found["result"], found["detail"]) == ("duplicate", "it was done before")


async def test_dropping_says_what_gives_up_the_first_and_tries_the_rest(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(context, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    asked: list[str] = []

    def say_no(question: str) -> bool:
        asked.append(capsys.readouterr().out + question)
        return False

    await parked.drop_parked(SETTINGS, Wanted(key="a"), confirm=say_no)
    [first, _] = [row for row in await parked_of(context) if row.key == "a"]
    for text in (first.id, "ValueError: as told", "1 behind it will be tried", "1 is given up for good"):
        assert text in asked[0].replace("1 of what is parked", "1")
    await parked.drop_parked(SETTINGS, Wanted(key="a"), confirm=lambda question: True)
    assert (await balances(context))["a"] == 2
    await parked.drop_parked(SETTINGS, Wanted(consumer="balance"), confirm=lambda question: True)
    assert (await stored(context.views, "balance"))["v"]["balance"] == 2
    assert [row.key for row in await parked_of(context)] == ["v"]


async def test_all_messages_of_a_key_are_dropped_only_when_that_is_said(context: Context, bank: Bank) -> None:
    await set_aside(context, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    await parked.drop_parked(SETTINGS, Wanted(), confirm=lambda question: True, all_of_key=True)
    assert await parked_counts(context) == {}
    assert "a" not in await balances(context)
    assert "v" not in await stored(context.views, "balance")


async def test_a_message_that_became_the_first_meanwhile_is_not_dropped(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(context, bank)
    keys = {key.first.consumer: key for key in await parked_keys(context, Wanted())}
    bank.failing.clear()
    bank.failing_views.clear()
    executor, parking = commands_executor(context), parking_of(context, COMMANDS)
    await parking._try_first(executor, *await parking._waiting(executor, "a"))
    bank.failing_views.add("v")
    await projector_of(context, bank.balance).redrive("v", drop=[keys["balance"].first.message.id])
    bank.failing["a"] = ValueError("as told")
    for consumer in ("commands", "balance"):
        key = keys[consumer]
        [[_, state]] = await drop_key(context, key, [key.first.message.id])
        assert "not the first any more" in state
    assert await parked_counts(context) == {"commands": 1, "balance": 1, "thank:accounts": 1}


async def test_a_consumer_that_does_not_exist_is_told_with_those_that_do(context: Context) -> None:
    with pytest.raises(
        SettingsError, match=r"no consumer 'nobody'; there are: commands, thank:accounts, enter:accounts"
    ):
        await parked.retry_parked(SETTINGS, Wanted("accounts", "nobody", "a"))


async def test_more_keys_than_fit_a_page_are_all_counted_listed_and_retried(context: Context, bank: Bank) -> None:
    keys = [f"k{n:04}" for n in range(501)]
    bank.failing_views.update(keys)
    await direct(context, *(Deposit(key, 1) for key in keys))
    await project(context, bank.balance)
    assert (await parked_counts(context))["balance"] == 501
    assert len(await everything(context)) == 501
    bank.failing_views.clear()
    await parked.retry_parked(SETTINGS, Wanted(consumer="balance"))
    assert await parked_counts(context) == {}
