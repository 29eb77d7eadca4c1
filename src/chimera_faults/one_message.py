"""One message that can't be handled as others are: it hangs, emits what is no number, or makes a document too large."""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
import msgspec

from chimera.commands.inbox import read_outcomes
from chimera.core.tables import Parked
from chimera.testing.kit.balance import every_row, journal_of
from chimera.views.parked import all_parked
from chimera_faults.ledger import LedgerEntry
from chimera_faults.points import Armed
from chimera_faults.rig import Run
from chimera_faults.scenario import Strike
from chimera_faults.tally.messages import Weighed
from chimera_faults.tally.owner import NO_NUMBER
from chimera_faults.workload import Delivery

OWNER = "tally"
TOO_LONG = "and was stopped"
FEW = 5
TEXT = "x" * 900_000
"""Of an event that every broker takes."""


async def wait_for_hanging(run: Run) -> None:
    """While a command's handler never returns, others are done; after its limit it counts as failed."""
    hanging = await run.until(partial(_poisoned, run), "a poisoned command was accepted")
    since = len(run.rig.ledger.entries)
    await run.must(partial(_are_done, run, since), "others are done while a handler hangs", 8.0)
    if await _state(run, hanging) == "done":
        run.wrong.append("the handler that was to hang is done")
    run.struck("a handler hangs, and others are done")
    await run.must(partial(_counts_as_failed, run, hanging), "the handler that hangs counts as failed after its limit")
    status, _ = await run.ask(f"/_chimera/{OWNER}/health/live")
    if status != 200:
        run.wrong.append(f"liveness answers {status} while a handler hangs")


def _poisoned(run: Run) -> LedgerEntry | None:
    label = f"{run.tag}-0#1"
    entry = run.rig.ledger.entries.get(label)
    return entry if entry and entry.accepted else None


async def _are_done(run: Run, since: int) -> bool:
    """True once some commands that were sent since then are done."""
    later = list(run.rig.ledger.entries.values())[since:]
    ids = [entry.command_id for entry in later if entry.accepted and not entry.direct]
    async with run.rig.contexts() as contexts, contexts[OWNER].store.snapshot() as session:
        found = await read_outcomes(session, ids) if ids else {}
    return sum(outcome.state == "done" for outcome in found.values()) >= FEW


async def _state(run: Run, entry: LedgerEntry) -> str:
    async with run.rig.contexts() as contexts, contexts[OWNER].store.snapshot() as session:
        found = await read_outcomes(session, [entry.command_id])
    return found[entry.command_id].state if found else ""


async def _counts_as_failed(run: Run, entry: LedgerEntry) -> bool:
    async with run.rig.contexts() as contexts:
        rows = await every_row(contexts[OWNER], Parked)
    return any(row.id == entry.command_id and TOO_LONG in row.cause for row in rows)


async def emit_no_number(run: Run) -> None:
    """Wait until what emits a float that is no number is set aside, and have a direct command answer with one."""
    poisoned = await run.until(partial(_poisoned, run), "a poisoned command was accepted")
    run.struck("a handler emits a float that is no number")
    await run.must(partial(_is_refused, run, poisoned), "the command is set aside with a cause that names the field")
    key = f"{run.tag}-1"
    body = {"account_id": key, "label": f"{key}#answered", "amount": 1, "poison": NO_NUMBER}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{run.rig.fleet.base}/additions/now", json=body) as response,
    ):
        if response.status != 500:
            run.wrong.append(f"a reply with a float that is no number is answered {response.status}")
    run.wrong.extend(await _unreadable(run))


async def _is_refused(run: Run, entry: LedgerEntry) -> bool:
    async with run.rig.contexts() as contexts:
        rows = await every_row(contexts[OWNER], Parked)
    return any(row.id == entry.command_id and "weight is nan" in row.cause for row in rows)


async def _unreadable(run: Run) -> list[str]:
    """The events in the journal that their own type can't read."""
    found = []
    async with run.rig.contexts() as contexts:
        for message in await journal_of(contexts[OWNER]):
            if message.type == Weighed.wire_type():
                try:
                    msgspec.json.decode(message.data, type=Weighed)
                except msgspec.DecodeError as error:
                    found.append(f"{message.id} in the journal can't be read: {error}")
    return found


def grow_document(times: int) -> Strike:
    """Send so many commands with a long text, of one account: its document in the view that keeps texts grows.

    The views are away meanwhile, so that they fold many at once.
    """

    async def strike(run: Run) -> None:
        key = f"{run.tag}-large"
        run.arm(Armed(f"{run.tag}-views", "views.call", "raise", times=0))
        async with aiohttp.ClientSession() as session:
            for number in range(times):
                body = {"account_id": key, "label": f"{key}#{number}", "amount": 1, "text": TEXT}
                await run.driver.deliver(session, Delivery(f"{key}#{number}", key, "/additions", body))
        run.arm()
        run.struck(f"{times} events with {len(TEXT):,} characters each were emitted of one key")
        aside = partial(_is_aside, run, key)
        await run.must(aside, "the event that makes it too large is set aside for its key", 240.0, 2.0)
        since = len(run.rig.ledger.entries)
        await run.must(partial(_are_shown, run, since), "others are shown by the view", 60.0, 2.0)

    return strike


async def _is_aside(run: Run, key: str) -> bool:
    if not run.logged("view told set aside", f"'{key}'"):
        return False
    async with run.rig.contexts() as contexts:
        failed = await all_parked(contexts[OWNER].views, "told")
    if others := {failure.message.key for failure in failed} - {key}:
        run.wrong.append(f"also set aside by the view: {', '.join(sorted(others))}")
    return True


async def _are_shown(run: Run, since: int) -> bool:
    labels = {entry.label for entry in list(run.rig.ledger.entries.values())[since:] if entry.accepted}
    shown: set[Any] = set()
    async with run.rig.contexts() as contexts:
        found = await contexts[OWNER].views.get("told", list({label.partition("#")[0] for label in labels}))
    for document in found.values():
        shown |= set(msgspec.json.decode(document.data or b"{}").get("labels", ()))
    return len(labels & shown) >= FEW
