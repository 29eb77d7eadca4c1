"""`chimera trace` prints who did what, and what came of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from chimera import Caller
from chimera.caller import metadata_of
from chimera.cli import operations
from chimera.core.context import Context
from tests.support import Bank, Deposit, Withdraw, accept, at_hand, consume, message_of

SETTINGS: Any = SimpleNamespace(services={"accounts": None})
ANN = metadata_of(Caller("ann", tenant="north", on_behalf_of="bob"), "chain-1")


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    at_hand(monkeypatch, operations, context)


async def send(context: Context, command: Deposit | Withdraw, command_id: str) -> None:
    await accept(context, msgspec.structs.replace(message_of(command, command_id), metadata=ANN))
    await consume(context)


async def test_a_chain_is_printed_with_who_did_it_and_how_it_ended(
    context: Context, bank: Bank, capsys: pytest.CaptureFixture[str]
) -> None:
    bank.failing["broken"] = ValueError("it is broken")
    await send(context, Deposit("k", 5), "command-a")
    await send(context, Withdraw("k", 50), "command-b")
    await send(context, Deposit("broken", 5), "command-c")
    assert await operations.show_trace(SETTINGS, "chain-1", None)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("by 'ann' of north for 'bob'") for line in lines)
    told = [line.strip() for line in lines]
    assert any(line.startswith("command accounts command-a done") for line in told)
    assert any(line.startswith("accounts/") and " accounts.Deposited k " in line for line in told)
    assert any(line.startswith("parked accounts command-c accounts.Deposit broken") for line in told)
    assert await operations.show_trace(SETTINGS, "command-b", None)
    assert "command accounts command-b rejected: overdrawn: 45 is missing" in capsys.readouterr().out


async def test_a_chain_is_printed_as_json(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    await send(context, Deposit("k", 5), "command-a")
    assert await operations.show_trace(SETTINGS, "command-a", None, as_json=True)
    steps = json.loads(capsys.readouterr().out)
    deposited = next(step for step in steps if step["type"] == "accounts.Deposited")
    who = {"actor": "ann", "by": "caller", "on_behalf_of": "bob", "tenant": "north"}
    assert {name: deposited[name] for name in who} == who
    assert (deposited["correlation"], deposited["causation"]) == ("chain-1", "command-a")


async def test_what_nobody_knows_and_what_was_not_looked_at_is_said(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        await send(context, Deposit(f"k{number}", 1), f"command-{number}x")
    assert not await operations.show_trace(SETTINGS, "nothing", 2)
    told = capsys.readouterr().out
    assert "nothing is known of 'nothing': no command, no event, nothing that is parked" in told
    assert "older ones with --all" in told
