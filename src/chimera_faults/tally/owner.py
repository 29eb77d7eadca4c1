"""Tally: accounts that are added to. Every place where an effect shows keeps the labels in the order of the effects."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from pathlib import Path

import msgspec

from chimera import Entity, Reads, Rejected, Reply, Service, Transaction
from chimera_faults.points import FOLDER
from chimera_faults.tally.messages import Add, Added, AddNow, Noted, Standing, Weighed

tally = Service("tally", partitions=4)
tally.forgotten(events=["Old"])  # of the long history that the rig gives it

AGEING = "younger than "
"""A poison of so many seconds: the command fails until it is that old."""
HANGING = "hangs until "
"""A poison of so many seconds: the command's handler never returns until it is that old."""
SLOW = "takes "
"""A poison of so many seconds: the command's handler waits for so long, for something that is not the store."""
NO_NUMBER = "no number"
"""A poison: the handler emits a float that is no number, and a direct command's answers with one."""
ANTIDOTE = "antidote"
"""The file in the rig's folder that ends every poison."""


@tally.entity
class Account(Entity, key="account_id", table="accounts"):
    """An account: the source of truth of its count, total and labels."""

    account_id: str
    count: int = 0
    total: int = 0
    labels: list[str] = []  # noqa: RUF012 - msgspec copies it


@tally.entity
class Note(Entity, key="account_id", table="notes"):
    """The labels that the reaction has seen of an account."""

    account_id: str
    labels: list[str] = []  # noqa: RUF012 - msgspec copies it


class Tally(msgspec.Struct):
    """A view with a document per account."""

    account_id: str
    total: int = 0
    labels: list[str] = []


class Sum(msgspec.Struct):
    """A view with one document that every partition feeds."""

    name: str
    count: int = 0
    total: int = 0


class Told(msgspec.Struct):
    """A view that keeps every text: a document may become larger than its engine holds."""

    account_id: str
    labels: list[str] = []
    texts: list[str] = []


class Noticed(msgspec.Struct):
    """A view of what the reaction emits."""

    account_id: str
    labels: list[str] = []


tallies = tally.view(Tally, key="account_id", path="/tallies/{account_id}")
sums = tally.view(Sum, key="name", path="/sums/{name}")
noticed = tally.view(Noticed, key="account_id")
told = tally.view(Told, key="account_id")


@tally.handle("POST /additions")
async def add(command: Add, tx: Transaction) -> None:
    """Add an amount, some time after 201."""
    await _add(command, tx)


@tally.handle("POST /additions/now", direct=True)
async def add_now(command: AddNow, tx: Transaction) -> Reply[dict[str, float]] | None:
    """Add an amount before the answer."""
    if command.poison == NO_NUMBER:
        return Reply({"weight": math.nan})
    await _add(command, tx)
    return None


async def _add(command: Add | AddNow, tx: Transaction) -> None:
    account = await tx.load(Account, command.account_id) or Account(command.account_id)
    if command.amount < 0:
        raise Rejected("negative", "an amount is not negative")
    if command.poison == NO_NUMBER:
        tx.emit(Weighed(command.account_id, command.label, math.nan))
    elif command.poison:
        await _take(command.poison, tx.now.timestamp())
    account.count += 1
    account.total += command.amount
    account.labels.append(command.label)
    tx.save(account)
    tx.emit(Added(command.account_id, command.label, command.amount, command.text))


async def _take(poison: str, accepted_at: float) -> None:
    if poison.startswith(SLOW):
        await asyncio.sleep(float(poison.removeprefix(SLOW)))
        return
    if poison.startswith(HANGING):
        if time.time() < accepted_at + float(poison.removeprefix(HANGING)):
            await asyncio.Event().wait()
        return
    if poison.startswith(AGEING):
        if time.time() < accepted_at + float(poison.removeprefix(AGEING)):
            raise RuntimeError(f"poisoned: {poison}")
        return
    if (Path(os.environ[FOLDER]) / ANTIDOTE).exists():
        return
    if poison == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError(f"poisoned: {poison}")


@tally.on(Added)
async def note(event: Added, tx: Transaction) -> None:
    """Write the label down, and emit Noted: a reaction with an effect of its own."""
    taken = await tx.load(Note, event.account_id) or Note(event.account_id)
    taken.labels.append(event.label)
    tx.save(taken)
    tx.emit(Noted(event.account_id, event.label))


@tallies.on(Added)
def added(document: Tally, event: Added) -> None:
    """Add the amount to the account's document."""
    document.total += event.amount
    document.labels.append(event.label)


@sums.on(Added, key=lambda event: "all")
def summed(document: Sum, event: Added) -> None:
    """Add the amount to the one document of all accounts."""
    document.count += 1
    document.total += event.amount


@told.on(Added)
def kept(document: Told, event: Added) -> None:
    """Keep the text."""
    document.labels.append(event.label)
    if event.text:
        document.texts.append(event.text)


@noticed.on(Noted)
def noted(document: Noticed, event: Noted) -> None:
    """Add the label that the reaction has seen."""
    document.labels.append(event.label)


@tally.share("standings", key="account_id", changed_by=[Added])
async def standings(account_ids: list[str], tx: Reads) -> dict[str, Standing]:
    """The share: the accounts as they are, by key."""
    found = await tx.find(Account, account_id=account_ids)
    return {each.account_id: Standing(each.account_id, each.count, each.total, each.labels[-1]) for each in found}
