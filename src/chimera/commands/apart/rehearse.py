"""Rehearsals: a parked message is tried and rolled back, to tell how it would end and what it would write."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from chimera.commands.execute import Executor, RefusedLate, Task
from chimera.commands.parking import Parking, message_of
from chimera.core.tables import Parked
from chimera.errors import Conflict, Rejected, Unavailable
from chimera.journal.checkpoints import again_on_conflict
from chimera.journal.failures import Rehearsed, Write, cause_of
from chimera.ports import WriteSession


class _RolledBack(Exception):  # noqa: N818 - on purpose
    pass


class _Late(Exception):  # noqa: N818 - a refusal
    def __init__(self, number: int, refusal: Rejected) -> None:
        super().__init__(refusal.reason)
        self.number = number
        self.refusal = refusal


async def rehearse(executor: Executor, parking: Parking, key: str) -> list[Rehearsed]:
    """The ends that a retry by hand would come to with the messages of a key, in order, each after those before it.

    They run in one transaction that is rolled back; it holds what a handler's transaction holds, until then. What
    handlers do elsewhere (a call to another system) is done.
    """
    late: dict[int, Rejected] = {}
    while True:
        try:
            return await again_on_conflict(lambda: _rehearse(executor, parking, key, late), executor.context.clock)
        except _Late as refused:  # only a rollback undoes what it wrote: once more, without it
            late[refused.number] = refused.refusal


async def _rehearse(executor: Executor, parking: Parking, key: str, late: Mapping[int, Rejected]) -> list[Rehearsed]:
    found: list[Rehearsed] = []
    with suppress(_RolledBack):
        async with executor.context.store.transaction() as session:
            for row in await parking.messages(session, key):
                if found and found[-1].result in ("failed", "waits"):
                    found.append(Rehearsed(row.id, "waits", "behind an earlier message of its key"))
                elif row.number in late:
                    found.append(_refused(row.id, late[row.number].reason, late[row.number].detail))
                else:
                    found.append(await _one(executor, session, row))
            raise _RolledBack
    return found


async def _one(executor: Executor, session: WriteSession, row: Parked) -> Rehearsed:
    if settled := await executor.settled(session, row.id):
        return Rehearsed(row.id, "duplicate", f"it was {settled.state} before")
    unit = executor.context.unit(session)
    try:
        outcome = await executor.attempt(unit, Task(message_of(row)))
        await unit.flush()
    except (Unavailable, Conflict):
        raise
    except RefusedLate as error:
        raise _Late(row.number, error.refusal) from error
    except Exception as error:  # noqa: BLE001 - whatever the handler raises is what there is to tell
        return Rehearsed(row.id, "failed", cause_of(error))
    if outcome.state == "rejected":
        return _refused(row.id, outcome.reason, outcome.detail)
    return Rehearsed(row.id, "applied", writes=[Write(each.type, each.key, each.data) for each in unit.events])


def _refused(message_id: str, reason: str, detail: str) -> Rehearsed:
    return Rehearsed(message_id, "refused", f"{reason}: {detail}" if detail else reason)
