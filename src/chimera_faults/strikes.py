"""Faults from outside: signals, wiped views, a transaction left open, junk in the log, a proxy that misbehaves."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from chimera.core.context import Context
from chimera.core.names import COMMANDS, all_of, commands_topic, events_topic
from chimera.core.tables import Handled, Parked
from chimera.entities import table_of
from chimera.errors import ChimeraError, SettingsError
from chimera.journal.checkpoints import again_on_conflict
from chimera.journal.consumers import document_consumers
from chimera.messages import Message, partition_of
from chimera.testing.kit.balance import every_row
from chimera_faults.driver import median
from chimera_faults.fleet import held_bytes, send_signal
from chimera_faults.points import Action, Armed
from chimera_faults.proxy import Proxy, Trouble
from chimera_faults.rig import Run
from chimera_faults.scenario import Strike

SOON_S = 0.3
COMMIT_S = 60.0
SERVICES = Path("services/run.py")
OWNER, BORROWER = "tally", "board"
TEXTS = ("", "\0", "x" * 5_000, "\u202e'; DROP TABLE journal; --", "é" * 300)
"""What no field holds that Chimera writes."""
FIELDS = ("id", "source", "type", "key", "time", "traceparent", "chain")
JUNK = ((f"{OWNER}.NoSuchCommand", b"{}"), (f"{OWNER}.Add", b"{broken"), (f"{OWNER}.Add", b'{"amount": "many"}'))


def hold(seconds: float) -> Strike:
    """Let what is armed go on for so long once it has struck, then end it."""

    async def strike(run: Run) -> None:
        await run.until(run.fired, "the fault struck")
        await asyncio.sleep(seconds)
        run.arm()

    return strike


def signal_heads(words: Sequence[str], number: signal.Signals, *, pause_s: float = 0.0) -> Strike:
    """Send a signal to one head of each kind named, one after the other; a stopped one goes on after `pause_s`."""

    async def strike(run: Run) -> None:
        for each in words:
            await asyncio.sleep(SOON_S)
            pid = (await run.until(partial(run.rig.fleet.heads, each), f"there is a head: {each}"))[0]
            await send_signal([pid], number)
            run.struck(f"{number.name} to {each}")
            if number is signal.SIGSTOP:
                await asyncio.sleep(pause_s)
                await send_signal([pid], signal.SIGCONT)

    return strike


async def roll(run: Run) -> None:
    """Stop every head in turn, as a deployment does; the next one once another is there in its place."""
    for pid in run.rig.fleet.heads():
        count = len(run.rig.fleet.heads())
        await send_signal([pid], signal.SIGTERM)
        run.struck(f"SIGTERM to {pid}")
        await run.until(partial(_are_there, run, count), "another head took its place")


def _are_there(run: Run, count: int) -> bool:
    return len(run.rig.fleet.heads()) >= count


async def crash(run: Run) -> None:
    """Kill every process at once, and start the fleet again."""
    await asyncio.sleep(SOON_S)
    await run.rig.fleet.kill()
    run.struck("every process was killed")
    await run.rig.fleet.start()


def leave_open(seconds: float) -> Strike:
    """Hold a transaction open that has every partition's head, for a while, and roll it back."""

    async def strike(run: Run) -> None:
        await asyncio.sleep(SOON_S)
        async with run.rig.contexts() as contexts:
            context = contexts[OWNER]
            try:
                async with context.store.transaction() as session:
                    await session.hold(range(context.service.partitions))
                    run.struck("every partition's head was held by somebody else")
                    await asyncio.sleep(seconds)
                    raise _Undone
            except _Undone:
                return

    return strike


class _Undone(Exception):  # noqa: N818 - what happened
    pass


async def wipe_views(run: Run) -> None:
    """Delete every document and checkpoint of every view and copy."""
    await asyncio.sleep(SOON_S)
    async with run.rig.contexts() as contexts:
        for context in contexts.values():
            for consumer in document_consumers(context.service):
                await context.views.drop(consumer, all_of(consumer))
    run.struck("the view stores were wiped")


async def add_junk(run: Run) -> None:
    """Put into the logs what no Chimera ever writes: unknown types, broken JSON, the wrong schema, strange numbers."""
    await asyncio.sleep(SOON_S)
    async with run.rig.contexts() as contexts:
        context = contexts[OWNER]
        commands = [
            Message(f"{run.tag}-junk-{index}", "somebody", kind, key, context.clock.stamp(), data, _partition(key))
            for index, (kind, data) in enumerate(JUNK)
            for key in [f"{run.tag}-junk-{index}"]
        ]
        name, stamp = f"{run.tag}-junk-of-fields", context.clock.stamp()
        commands += [
            Message(f"{name}-1" + "x" * 300, "somebody", f"{OWNER}.None", f"{name}-1", stamp, b"\xff\xfe", 0),
            Message(f"{name}-2", "somebody", "", f"{name}-2", stamp, b"", 0),
            Message(f"{name}-3", "somebody", f"{OWNER}.None", f"{name}-3", "no time" * 50, b"[" * 10_000, 0),
        ]
        broken = f'{{"{run.tag} junk'.encode()
        whole = Message(f"{name}-4", OWNER, f"{OWNER}.Add", f"{name}-4", stamp, broken, 0)
        commands += [
            msgspec.structs.replace(whole, **{"id": f"{name}-{field}-{index}", field: text})
            for field in FIELDS
            for index, text in enumerate(TEXTS)
        ]
        await context.log.append(commands_topic(OWNER), commands)

        async def begun() -> bool:
            return all((await context.log.ends(events_topic(OWNER))).values())

        await run.until(begun, "every partition has an event in the log")
        heads = await context.store.heads()
        events = [
            Message(
                f"{OWNER}/{p}@{number}", OWNER, f"{OWNER}.Added", "junk", context.clock.stamp(), b"{broken", p, number
            )
            for p, head in heads.items()
            # One that everybody has passed long ago, where there is one, and one that is far ahead.
            for number in (*((1,) if head else ()), head + 1_000_000)
        ]
        events += [
            Message("other", "other", "other.Happened", "k", stamp, b"{}", 0, 1),
            Message("", "", "", "", "", b"\xff\xfe", 1),
        ]
        beyond = heads[0] + 500_000
        forged = Message(f"{OWNER}/0@{beyond}", OWNER, f"{OWNER}.Added", "junk", stamp, broken, 0, beyond)
        events += [msgspec.structs.replace(forged, **{field: text}) for field in FIELDS for text in TEXTS]
        events += [msgspec.structs.replace(forged, number=number) for number in (-5, 0, 2**62)]
        await context.log.append(events_topic(OWNER), events)
        run.struck("junk was put into both logs")

        async def parked() -> bool:
            rows = [row for row in await every_row(context, Parked) if row.consumer == COMMANDS]
            junk = [row for row in rows if row.key.startswith(f"{run.tag}-junk") or row.data == broken]
            return len(junk) == len(commands)

        await run.until(parked, "the junk was set aside")
        await run.must(partial(run.logged, "is no event of", "is passed over"), "what was passed over is told")


def _partition(key: str) -> int:
    return partition_of(key, 4)


def poisoned(*, redriven: bool, forgotten: bool = False, within_s: float = 60.0) -> Strike:
    """Wait until the poisoned commands are set aside; then, if asked, cure them and have them tried again, twice.

    With `forgotten` the inbox knows them no more by then.
    """

    async def strike(run: Run) -> None:
        async with run.rig.contexts() as contexts:

            async def parked() -> bool:
                rows = await every_row(contexts[OWNER], Parked)
                return any(row.state == "parked" and row.key.startswith(f"{run.tag}-") for row in rows)

            await run.until(parked, "a poisoned command was set aside", within_s)
            run.struck("poison is set aside")
            if forgotten:
                await _forget_parked(contexts[OWNER])
                run.struck("the inbox has forgotten it")
        if redriven:
            (run.rig.folder.path / "antidote").touch()
            retry = ("parked", "retry", OWNER, "--consumer", "commands", "--all")
            await asyncio.gather(run.rig.fleet.run(*retry), run.rig.fleet.run(*retry))
            run.struck("redriven twice at once")

    return strike


async def _forget_parked(context: Context) -> None:
    ids = [(row.id,) for row in await every_row(context, Parked)]

    async def forget() -> None:
        async with context.store.transaction() as session:
            await session.delete(table_of(Handled), ids)

    await again_on_conflict(forget, context.clock)


def trouble_clients(*troubles: Trouble) -> Strike:
    """Have the proxy before the gateway misbehave, in each of these ways."""

    async def strike(run: Run) -> None:
        client = run.rig.client
        for trouble in troubles:
            before = client.struck
            client.make(trouble)
            await run.until(partial(_has_struck, client, before + 3), f"answers met {trouble}")
            client.make("none")
            run.struck(f"{client.struck - before} answers met {trouble}")
            await asyncio.sleep(SOON_S)

    return strike


def _has_struck(proxy: Proxy, times: int) -> bool:
    return proxy.struck >= times


def cut_database(trouble: Trouble, seconds: float) -> Strike:
    """Have the proxy before the database misbehave for a while."""

    async def strike(run: Run) -> None:
        await asyncio.sleep(SOON_S)
        database = run.rig.database
        if database is None:
            raise SettingsError("an embedded database has no connection to cut")
        database.make(trouble)
        await run.until(partial(_has_struck, database, 1), f"the database met {trouble}")
        run.struck(f"connections to the database met {trouble}")
        await asyncio.sleep(seconds)
        database.make("none")

    return strike


def restart(kinds: Mapping[str, str]) -> Strike:
    """Restart a server that `make services` has started: by stack, its name."""

    async def strike(run: Run) -> None:
        name = _own_server(kinds, run)
        await asyncio.sleep(SOON_S)
        await _serve("restart", name)
        run.struck(f"{name} was restarted")

    return strike


def kill_in_commit(kinds: Mapping[str, str]) -> Strike:
    """Kill a database while it does not answer a COMMIT, and start it again: by stack, its name."""

    async def strike(run: Run) -> None:
        name, database = _own_server(kinds, run), run.rig.database
        assert database is not None
        await asyncio.sleep(SOON_S)
        async with asyncio.timeout(COMMIT_S):
            await database.hold_after(b"COMMIT")
        await _serve("kill", name)
        run.struck(f"{name} was killed, and a COMMIT is not answered")
        database.make("cut")
        await _serve("start", name)
        database.make("none")

    return strike


def _own_server(kinds: Mapping[str, str], run: Run) -> str:
    name = kinds[run.rig.stack.name]
    if not SERVICES.exists() or f"CHIMERA_TEST_{name.upper()}" in os.environ:
        raise SettingsError(f"{name} was not started by {SERVICES}, which has to restart it here")
    return name


async def _serve(verb: str, name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SERVICES), verb, name, stdout=DEVNULL, stderr=DEVNULL
    )
    if await process.wait():
        raise ChimeraError(f"{SERVICES} {verb} {name} failed")


def trimmed(within_s: float) -> Strike:
    """Wait until retention has dropped all events that were there before; note how long that took."""

    async def strike(run: Run) -> None:
        began, before = time.monotonic(), run.rig.rows
        async with run.rig.contexts() as contexts:
            context = contexts[OWNER]
            each = before // context.service.partitions

            async def gone() -> bool:
                return all(oldest > each for oldest in (await context.store.oldest()).values())

            await run.until(gone, "all old events were dropped", within_s)
        run.struck("all old events were dropped")
        workers = max(map(held_bytes, run.rig.fleet.heads(" run ")))
        run.notes.append(
            f"{before} old events were dropped within {time.monotonic() - began:.0f} s; the median answer took "
            f"{median(run.driver.seconds) * 1000:.0f} ms meanwhile, no process held more than {workers / 1e6:.0f} MB"
        )

    return strike


def slow_down(seconds: float, for_s: float) -> Strike:
    """Make the borrower's views slow; its memory has to stay bounded, and its owner's answers as quick as before."""

    async def strike(run: Run) -> None:
        await asyncio.sleep(for_s)
        quick = median(run.driver.seconds)
        workers = run.rig.fleet.heads(f"run {BORROWER} --write")
        before = max(map(held_bytes, workers))
        run.driver.seconds.clear()
        run.arm(Armed(f"{run.tag}-slow", "view.write.before", "delay", times=0, seconds=seconds, where=BORROWER))
        await asyncio.sleep(for_s)
        grown = max(map(held_bytes, workers)) - before
        run.struck(f"the views of {BORROWER} were slow for {for_s} s")
        run.notes.append(
            f"the median answer took {quick * 1000:.0f} ms before and {median(run.driver.seconds) * 1000:.0f} ms "
            f"meanwhile; the slow consumer grew by {grown / 1e6:.1f} MB"
        )
        if grown > 100_000_000:
            raise ChimeraError(f"the slow consumer grew by {grown} bytes")

    return strike


async def jump(run: Run) -> None:
    """Set one worker's clock ten minutes forward, kill it while it is, and set another's forward and back."""
    forward: Action = "clock"
    where = f"run {OWNER} --write"
    run.arm(Armed(f"{run.tag}-clock-1", "leases.commit.before", forward, seconds=600.0, where=where))
    await run.until(run.fired, "a clock jumped")
    await asyncio.sleep(2.5)
    await send_signal([run.fired()[0].pid], signal.SIGKILL)
    run.struck("the worker whose clock was ahead was killed")
    await asyncio.sleep(1.0)
    run.arm(Armed(f"{run.tag}-clock-2", "leases.commit.before", forward, times=0, seconds=600.0))
    await asyncio.sleep(3.0)
    run.arm()
    run.struck("every clock was ten minutes ahead, and is right again")


async def fill_disk(run: Run) -> None:
    """Leave no room on the disk that the fleet keeps everything on, and make room again."""
    await asyncio.sleep(SOON_S)
    filler = run.rig.fleet.state / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    run.struck("the disk is full")
    try:
        await run.until(partial(_is_refused, run), "a command was answered 503 while the disk was full")
        await asyncio.sleep(1.0)
    finally:
        filler.unlink()


def _is_refused(run: Run) -> bool:
    return any(503 in entry.statuses for entry in run.rig.ledger.entries.values())
