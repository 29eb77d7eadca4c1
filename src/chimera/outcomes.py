"""What became of messages, and how the inbox keeps it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from chimera.digests import digest_of
from chimera.entities import table_of
from chimera.errors import Rejected
from chimera.messages import Message
from chimera.ports import Session
from chimera.records import Handled

logger = logging.getLogger("chimera")

FINAL = ("done", "rejected")


class Outcome(NamedTuple):
    """What became of a message: done, rejected, retrying, parked or behind; `duplicate` if that was so before.

    Or it was `reused`: its id is that of another one, with another `fingerprint`, which stands.
    """

    state: str
    reason: str = ""
    detail: str = ""
    positions: str = ""
    status: int = 200
    body: bytes = b""
    duplicate: bool = False
    fingerprint: str | None = None


async def read_outcomes(session: Session, message_ids: Sequence[str]) -> dict[str, Outcome]:
    """What the inbox knows of these messages."""
    table = table_of(Handled)
    rows = map(table.from_row, await session.load(table, [(message_id,) for message_id in message_ids]))
    return {
        row.command_id: Outcome(
            row.state, row.reason, row.detail, row.positions, row.status, row.body, fingerprint=row.fingerprint
        )
        for row in rows
    }


def kept_outcome(message: Message, outcome: Outcome, at: datetime) -> Handled:
    """What became of a message `at` that time, as the inbox keeps it; what is set aside must not be forgotten."""
    state = "parked" if outcome.state == "behind" else outcome.state
    return Handled(
        message.id,
        state,
        outcome.reason,
        outcome.detail,
        outcome.positions,
        outcome.status,
        outcome.body,
        at if state in FINAL else None,
        fingerprint_of(message),
    )


def repeated(known: Outcome, message: Message) -> Outcome:
    """What becomes of a message whose id is known: the same again, or nothing at all if it is another one's."""
    if known.fingerprint in (None, fingerprint_of(message)):
        return known._replace(duplicate=True, fingerprint=None)
    logger.warning(
        "%s %s of key %r came again with another payload: an Idempotency-Key was reused; the first one stands",
        message.type,
        message.id,
        message.key,
    )
    return Outcome("reused")


def fingerprint_of(message: Message) -> str | None:
    """What tells a command's payload from another, whatever the order of its fields and the spaces between them.

    None where the id was not made from an Idempotency-Key: then it is of this message only.
    """
    if message.id[14:15] != "5":  # the version of a UUID that is made from a name
        return None
    try:
        data = msgspec.json.encode(msgspec.json.decode(message.data), order="sorted")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        data = message.data
    return digest_of(data)


def refused(refusal: Rejected) -> Outcome:
    """The outcome of a business refusal."""
    return Outcome("rejected", storable(refusal.reason), storable(refusal.detail), status=refusal.status)


def text_of(error: Exception) -> str:
    """What an error says, as every database takes it."""
    try:
        return storable(str(error))
    except Exception:  # noqa: BLE001 - an error that can't be printed must not keep its message from being set aside
        return "it has no text that can be printed"


def storable(text: str) -> str:
    """Text without what some database refuses: lone surrogates, NUL, more than 2000 characters."""
    return text[:2000].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
