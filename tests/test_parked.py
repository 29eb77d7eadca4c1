"""What is set aside can be listed, shown, tried, retried and dropped, by key, cause and time."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chimera import SettingsError, parked
from chimera.body import Body
from chimera.execution import Task
from chimera.parked import Wanted, moment, wanted_of
from chimera.records import Handled, Parked
from chimera.status import parked_counts
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
    recomputed,
    stored,
)

SETTINGS: Any = SimpleNamespace(services={"accounts": None})


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, body: Body) -> None:
    at_hand(monkeypatch, parked, body)


async def set_aside(body: Body, bank: Bank) -> None:
    """Two commands, two events of a view, and one of a reaction."""
    bank.failing["a"] = bank.failing_reactions["v"] = ValueError("as told")
    bank.failing_views.add("v")
    await accept(body, Deposit("a", 1), Deposit("a", 2), Deposit("b", 1))
    await consume(body)
    await direct(body, Deposit("v", 1), Deposit("v", 2))
    await project(body, bank.balance)
    executor, _ = body.reaction(bank.service.reactions["thank"], "accounts")
    event = next(e for e in await journal_of(body.store) if e.type == "accounts.Deposited" and e.key == "v")
    await executor.run([Task(event, event.number)])


async def everything(body: Body) -> list[parked.Aside]:
    return [aside for line in await parked.lines(body, Wanted()) for aside in await parked.messages_of(body, line)]


def no(question: str) -> bool:
    raise AssertionError(f"nobody is to be asked: {question}")


async def printed(capsys: pytest.CaptureFixture[str], work: Any) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    await work
    return json.loads(capsys.readouterr().out)


async def test_everything_that_is_set_aside_is_counted_and_listed_with_its_cause(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    assert await parked_counts(body) == {"commands": 2, "balance": 2, "thank:accounts": 1}
    await parked.list_parked(SETTINGS, Wanted())
    listed = capsys.readouterr().out
    for text in ("ValueError: as told", "ValueError: v breaks the view", "thank:accounts", "accounts.Deposit"):
        assert text in listed
    found = await printed(capsys, parked.list_parked(SETTINGS, Wanted("accounts", "commands"), as_json=True))
    assert [(each["consumer"], each["key"], each["waiting"], each["tries"]) for each in found] == [
        ("commands", "a", 2, 1)
    ]


async def test_counting_reads_nothing_of_what_is_parked_but_where_it_is(
    body: Body, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.failing["a"] = ValueError("as told")
    await accept(body, Deposit("a", 1), Deposit("a", 2))
    await consume(body)
    bank.failing_views.update("vw")
    await direct(body, Deposit("v", 1), Deposit("w", 1), Deposit("v", 2))
    await project(body, bank.balance)
    read: list[str] = []
    snapshot = body.store.snapshot

    @asynccontextmanager
    async def watched() -> AsyncIterator[Any]:
        async with snapshot() as session:
            find = session.find

            async def finding(table: Any, where: Any) -> Any:
                read.extend(column.name for column in table.columns)
                return await find(table, where)

            session.find = finding  # type: ignore[method-assign]
            yield session

    scan, scanned = body.views.scan, set()

    async def scanning(view: str, *arguments: Any) -> Any:
        scanned.add(view)
        return await scan(view, *arguments)

    monkeypatch.setattr(body.store, "snapshot", watched)
    monkeypatch.setattr(body.views, "scan", scanning)
    assert await parked_counts(body) == {"commands": 2, "balance": 3}
    assert set(read) == {"consumer", "key", "partition", "number", "state", "due"}
    assert "balance.parked" not in scanned
    assert "balance" not in scanned


async def test_nothing_parked_is_said_so(body: Body, capsys: pytest.CaptureFixture[str]) -> None:
    await parked.list_parked(SETTINGS, Wanted("accounts"))
    assert "nothing is parked" in capsys.readouterr().out
    for command in (parked.show_parked, parked.try_parked, parked.retry_parked):
        await command(SETTINGS, Wanted("accounts", "commands", "a"))
        assert "nothing of that is parked" in capsys.readouterr().out
    await parked.drop_parked(SETTINGS, Wanted("accounts"), confirm=no)
    assert "nothing of that is parked" in capsys.readouterr().out


async def test_a_message_is_shown_as_it_came_whatever_brackets_it_holds(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[/tmp] is [bold]not[/bold] a tag [true]"
    bank.failing["a"] = bank.failing[text] = ValueError(text)
    await accept(body, Deposit("a", 1), Deposit(text, 7))
    await consume(body)
    for key in ("a", text):
        await parked.show_parked(SETTINGS, Wanted(key=key))
        assert text in capsys.readouterr().out
    for command in (parked.list_parked, parked.try_parked, parked.retry_parked):
        await command(SETTINGS, Wanted())
        assert capsys.readouterr().out.count(text) >= 3


@pytest.mark.parametrize("data", [b'{"account_id": "a", "amount": 1}\n', b"\xff\x00\xfe", b""])
@pytest.mark.parametrize("key", ["a", "k" * 300])
async def test_a_parked_message_is_shown_and_tried_again_as_it_came(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str], data: bytes, key: str
) -> None:
    """Its bytes, in base64 where they are no text, its key whatever its length, and its trace."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bank.failing["a"] = ValueError("as told")
    came = msgspec.structs.replace(message_of(Deposit("a", 1)), data=data, traceparent=trace, key=key, type="odd")
    await accept(body, came)
    await consume(body)
    event = msgspec.structs.replace(came, type="accounts.Deposited", source="accounts", number=1, partition=0)
    executor, _ = body.reaction(bank.service.reactions["thank"], "accounts")
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
    [line, _] = await parked.lines(body, Wanted())
    assert msgspec.structs.replace(line.first.message, number=0) == came


async def test_keys_are_chosen_by_consumer_key_cause_and_time(body: Body, bank: Bank) -> None:
    await set_aside(body, bank)
    bank.failing["c"] = KeyError("another")
    await accept(body, Deposit("c", 1))
    before = datetime.now(UTC)
    await consume(body)

    async def chosen(**which: Any) -> set[tuple[str, str]]:
        return {(line.first.consumer, line.first.message.key) for line in await parked.lines(body, Wanted(**which))}

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
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    bank.failing_reactions.clear()
    await parked.retry_parked(SETTINGS, Wanted(key="a"))
    assert (await balances(body))["a"] == 3
    assert await parked_counts(body) == {"balance": 2, "thank:accounts": 1}
    await parked.retry_parked(SETTINGS, Wanted())
    await project(body, bank.balance)
    assert await parked_counts(body) == {}
    assert await stored(body.views, "balance") == recomputed(bank.balance, await journal_of(body.store))
    assert "settled" in capsys.readouterr().out


async def kept(body: Body) -> tuple[Any, ...]:
    """All that a handler or a projection may change."""
    tables = [await all_of(body.store, entity) for entity in (*body.service.entities, Parked, Handled)]
    documents = [await body.views.scan(view) for view in ("balance", "balance.parked", "total")]
    return tables, documents, await body.store.heads(), await journal_of(body.store)


async def tried(capsys: pytest.CaptureFixture[str], **which: Any) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = await printed(capsys, parked.try_parked(SETTINGS, Wanted(**which), as_json=True))
    return found


async def test_a_try_says_what_a_retry_would_do_and_keeps_nothing(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each message is tried after those before it: the second withdrawal has what the deposit left."""
    bank.failing["a"] = ValueError("as told")
    messages = await accept(
        body, Deposit("a", 5), Withdraw("a", 3), Withdraw("a", 3), Deposit("a", 1), Withdraw("a", 3)
    )
    await consume(body)
    await direct(body, Deposit("b", 1))
    before = await kept(body)
    assert [each["result"] for each in await tried(capsys)] == ["failed", "waits", "waits", "waits", "waits"]
    assert (await tried(capsys))[0]["detail"] == "ValueError: as told"
    bank.failing.clear()
    found = await tried(capsys)
    assert [each["message"] for each in found] == [message.id for message in messages]
    assert [each["result"] for each in found] == ["applied", "applied", "refused", "applied", "applied"]
    assert found[2]["detail"] == "overdrawn: 1 is missing"
    written = [(each["type"], each["key"], each["data"]) for each in found[1]["writes"]]
    assert ("accounts.Withdrawn", "a", '{"account_id":"a","amount":3}') in written
    assert await kept(body) == before
    outcomes = await body.parking.redrive(body.commands, "a")
    assert [outcome.state for outcome in outcomes] == ["done", "done", "rejected", "done", "done"]


async def test_a_try_of_a_view_and_of_a_reaction_keeps_nothing(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    before = await kept(body)
    results = [each["result"] for each in await tried(capsys, key="v")]
    assert results == ["failed", "failed", "waits"]
    bank.failing_views.clear()
    bank.failing_reactions.clear()
    found = await tried(capsys, key="v")
    assert [each["result"] for each in found] == ["applied"] * 3
    assert [json.loads(each["writes"][0]["data"])["balance"] for each in found[1:]] == [1, 3]
    assert await kept(body) == before


async def test_a_try_knows_what_was_done_otherwise(
    body: Body, bank: Bank, engines: Engines, capsys: pytest.CaptureFixture[str]
) -> None:
    bank.failing["a"] = ValueError("as told")
    [message] = await accept(body, Deposit("a", 5))
    await consume(body)
    bank.failing.clear()
    async with body.store.transaction() as session:
        await session.delete(_table(Handled), [(message.id,)])
    await direct(body, message)
    [found] = await tried(capsys)
    assert (found["result"], found["detail"]) == ("duplicate", "it was done before")


def _table(entity: Any) -> Any:
    from chimera.entities import table_of

    return table_of(entity)


async def test_dropping_says_what_gives_up_the_first_and_tries_the_rest(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    asked: list[str] = []

    def say_no(question: str) -> bool:
        asked.append(capsys.readouterr().out + question)
        return False

    await parked.drop_parked(SETTINGS, Wanted(key="a"), confirm=say_no)
    [first, _] = [row for row in await parked_of(body) if row.key == "a"]
    for text in (first.id, "ValueError: as told", "1 behind it will be tried", "1 is given up for good"):
        assert text in asked[0].replace("1 of what is parked", "1")
    await parked.drop_parked(SETTINGS, Wanted(key="a"), confirm=lambda question: True)
    assert (await balances(body))["a"] == 2
    await parked.drop_parked(SETTINGS, Wanted(consumer="balance"), confirm=lambda question: True)
    assert (await stored(body.views, "balance"))["v"]["balance"] == 2
    assert [row.key for row in await parked_of(body)] == ["v"]


async def test_all_messages_of_a_key_are_dropped_only_when_that_is_said(body: Body, bank: Bank) -> None:
    await set_aside(body, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    await parked.drop_parked(SETTINGS, Wanted(), confirm=lambda question: True, all_of_key=True)
    assert await parked_counts(body) == {}
    assert "a" not in await balances(body)
    assert "v" not in await stored(body.views, "balance")


async def test_a_message_that_became_the_first_meanwhile_is_not_dropped(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    lines = {line.first.consumer: line for line in await parked.lines(body, Wanted())}
    bank.failing.clear()
    bank.failing_views.clear()
    await body.parking._try_first(body.commands, *await body.parking._waiting(body.commands, "a"))
    balance = await parked._projector_of(body, "balance")
    bank.failing_views.add("v")
    await balance.redrive("v", drop=[lines["balance"].first.message.id])
    bank.failing["a"] = ValueError("as told")
    for consumer in ("commands", "balance"):
        line = lines[consumer]
        [[_, state]] = await parked._drop(body, line, [line.first.message.id])
        assert "not the first any more" in state
    assert await parked_counts(body) == {"commands": 1, "balance": 1, "thank:accounts": 1}


async def test_a_consumer_that_does_not_exist_is_told_with_those_that_do(body: Body) -> None:
    with pytest.raises(
        SettingsError, match=r"no consumer 'nobody'; there are: commands, thank:accounts, enter:accounts"
    ):
        await parked.retry_parked(SETTINGS, Wanted("accounts", "nobody", "a"))


async def test_more_keys_than_fit_a_page_are_all_counted_listed_and_retried(body: Body, bank: Bank) -> None:
    keys = [f"k{n:04}" for n in range(501)]
    bank.failing_views.update(keys)
    await direct(body, *(Deposit(key, 1) for key in keys))
    await project(body, bank.balance)
    assert (await parked_counts(body))["balance"] == 501
    assert len(await everything(body)) == 501
    bank.failing_views.clear()
    await parked.retry_parked(SETTINGS, Wanted(consumer="balance"))
    assert await parked_counts(body) == {}
