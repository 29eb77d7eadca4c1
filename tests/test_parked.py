"""What is set aside can be listed, shown, retried and dropped."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from chimera import SettingsError, parked
from chimera.body import Body
from chimera.execution import Task
from chimera.status import parked_counts
from tests.support import (
    Bank,
    Deposit,
    accept,
    balances,
    consume,
    direct,
    journal_of,
    parked_of,
    project,
    recomputed,
    stored,
)

SETTINGS: Any = SimpleNamespace(services={"accounts": None})


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, body: Body) -> None:
    @asynccontextmanager
    async def bodies(settings: Any, names: Any) -> AsyncIterator[list[Body]]:
        yield [body]

    monkeypatch.setattr(parked, "bodies_of", bodies)
    monkeypatch.setattr(parked, "Console", _wide(parked.Console))


def _wide(console: Any) -> Any:
    return lambda: console(width=400)


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


async def test_everything_that_is_set_aside_is_counted_and_listed_with_its_cause(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    assert await parked_counts(body) == {"commands": 2, "balance": 2, "thank:accounts": 1}
    await parked.list_parked(SETTINGS, None)
    printed = capsys.readouterr().out
    for text in ("ValueError: as told", "ValueError: v breaks the view", "thank:accounts", "accounts.Deposit"):
        assert text in printed


async def test_nothing_parked_is_said_so(body: Body, capsys: pytest.CaptureFixture[str]) -> None:
    await parked.list_parked(SETTINGS, "accounts")
    assert "nothing is parked" in capsys.readouterr().out
    await parked.show_parked(SETTINGS, "accounts", "commands", "a")
    assert "has nothing parked under 'a'" in capsys.readouterr().out
    await parked.retry_parked(SETTINGS, "accounts", "commands", None)
    assert "has nothing parked" in capsys.readouterr().out


async def test_a_message_is_shown_as_it_came_whatever_brackets_it_holds(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[/tmp] is [bold]not[/bold] a tag [true]"
    bank.failing["a"] = bank.failing[text] = ValueError(text)
    await accept(body, Deposit("a", 1), Deposit(text, 7))
    await consume(body)
    for key in ("a", text):
        await parked.show_parked(SETTINGS, "accounts", "commands", key)
        assert text in capsys.readouterr().out
    await parked.list_parked(SETTINGS, None)
    assert capsys.readouterr().out.count(text) >= 3
    await parked.retry_parked(SETTINGS, "accounts", "commands", None)
    assert capsys.readouterr().out.count(text) >= 3


async def test_a_retry_by_key_or_of_all_runs_what_is_set_aside(
    body: Body, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    await set_aside(body, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    bank.failing_reactions.clear()
    await parked.retry_parked(SETTINGS, "accounts", "commands", "a")
    assert (await balances(body))["a"] == 3
    await parked.retry_parked(SETTINGS, "accounts", "balance", None)
    await parked.retry_parked(SETTINGS, "accounts", "thank:accounts", None)
    await project(body, bank.balance)
    assert await parked_counts(body) == {}
    assert await stored(body.views, "balance") == recomputed(bank.balance, await journal_of(body.store))
    assert "settled" in capsys.readouterr().out


async def test_dropping_gives_up_the_first_and_tries_the_rest(body: Body, bank: Bank) -> None:
    await set_aside(body, bank)
    bank.failing.clear()
    bank.failing_views.clear()
    await parked.drop_parked(SETTINGS, "accounts", "commands", "a")
    assert (await balances(body))["a"] == 2
    await parked.drop_parked(SETTINGS, "accounts", "balance", "v")
    assert (await stored(body.views, "balance"))["v"]["balance"] == 2
    assert [row.key for row in await parked_of(body)] == ["v"]


async def test_a_consumer_that_does_not_exist_is_told_with_those_that_do(body: Body) -> None:
    with pytest.raises(
        SettingsError, match=r"no consumer 'nobody'; there are: commands, thank:accounts, enter:accounts"
    ):
        await parked.retry_parked(SETTINGS, "accounts", "nobody", "a")


async def test_more_keys_than_fit_a_page_are_all_counted_listed_and_retried(body: Body, bank: Bank) -> None:
    keys = [f"k{n:04}" for n in range(501)]
    bank.failing_views.update(keys)
    await direct(body, *(Deposit(key, 1) for key in keys))
    await project(body, bank.balance)
    assert (await parked_counts(body))["balance"] == 501
    assert len(await parked.everything_aside(body)) == 501
    bank.failing_views.clear()
    await parked.retry_parked(SETTINGS, "accounts", "balance", None)
    assert await parked_counts(body) == {}
