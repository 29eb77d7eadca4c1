"""The inbox: which commands were handled, and how they ended."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple, cast

import msgspec

from chimera.core.tables import Handled
from chimera.entities import table_of
from chimera.errors import FieldError, Rejected
from chimera.forms import json_of
from chimera.journal.failures import storable
from chimera.messages import Message
from chimera.ports import Session
from chimera.replies import Reply
from chimera.share.digests import digest_of

logger = logging.getLogger("chimera")

NAMESPACE = uuid.UUID("9a3f7c1e-6b52-5d0a-8f4e-2c7d1b90e6a4")

State = Literal["done", "rejected", "retrying", "parked", "behind", "failed", "reused", "apart"]
"""The end of a message, or its state until then. `retrying`: it failed and is tried again; `parked`: it waits for a
person; `behind`: it waits for an earlier one of its key; `failed`: it failed, and whoever waits for it is told;
`reused`: its id is that of another message, which stands; `apart`: its handler runs alone, nothing is known yet."""

FINAL = ("done", "rejected")
"""The states in which nothing more becomes of a message."""


APART = "apart"
"""The reason of an outcome that is not known yet, because the handler runs alone."""


class More(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only some answers have: headers of their own, the field at fault, and what is wrong with each of several."""

    headers: tuple[tuple[str, str], ...] = ()
    field: str = ""
    errors: tuple[FieldError, ...] = ()


_decode_more = msgspec.json.Decoder(More).decode


class Outcome(NamedTuple):
    """The end of a message, or its state until then; `duplicate` if that was so before.

    `reason` is a word for programs, `detail` a sentence, `positions` are comma-separated. `body` and `status` are a
    direct command's answer, `more` what only some have. `fingerprint` tells its payload from another, where its id
    is made from an Idempotency-Key.
    """

    state: State
    reason: str = ""
    detail: str = ""
    positions: str = ""
    status: int = 200
    body: bytes = b""
    duplicate: bool = False
    fingerprint: str | None = None
    more: More | None = None


async def read_outcomes(session: Session, message_ids: Sequence[str]) -> dict[str, Outcome]:
    """The outcomes that the inbox has of these messages, by their ids."""
    table = table_of(Handled)
    rows = map(table.from_row, await session.load(table, [(message_id,) for message_id in message_ids]))
    return {
        row.command_id: Outcome(
            cast("State", row.state),
            row.reason,
            row.detail,
            row.positions,
            row.status,
            row.body,
            fingerprint=row.fingerprint,
            more=_decode_more(row.more) if row.more else None,
        )
        for row in rows
    }


def kept_outcome(message: Message, outcome: Outcome, at: datetime) -> Handled:
    """The inbox's row for how a message ended `at` that time; one that is parked must not be forgotten: no time."""
    state: State = "parked" if outcome.state == "behind" else outcome.state
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
        msgspec.json.encode(outcome.more).decode() if outcome.more else None,
    )


def repeated(known: Outcome, message: Message) -> Outcome:
    """The outcome of a message whose id is known: the same again, or `reused` if it is another one's."""
    if known.fingerprint in (None, fingerprint_of(message)):
        return known._replace(duplicate=True, fingerprint=None)
    logger.warning(
        "%s %s of key %r came again with another payload: an Idempotency-Key was reused; the first one stands",
        message.type,
        message.id,
        message.key,
    )
    return Outcome("reused")


def command_id(type_: str, idempotency_key: str, subject: str = "") -> str:
    """The id of a command of a type with an Idempotency-Key: the same for the same key of the same caller."""
    whose = f"{len(subject)} {subject} " if subject else ""
    return str(uuid.uuid5(NAMESPACE, f"{type_}/{whose}{idempotency_key}"))


def has_idempotency_key(message_id: str) -> bool:
    """True for an id that was made by `command_id`: it is a UUID of version 5, made from a name."""
    return message_id[14:15] == "5"


def fingerprint_of(message: Message) -> str | None:
    """The digest that tells a command's payload from another, whatever the order of its fields and its spaces.

    None where the id was not made from an Idempotency-Key: then it is of this message only.
    """
    if not has_idempotency_key(message.id):
        return None
    try:
        data = msgspec.json.encode(msgspec.json.decode(message.data), order="sorted")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        data = message.data
    return digest_of(data)


DONE = Outcome("done", status=0)
"""That of a handler that returned nothing."""


def refused(refusal: Rejected) -> Outcome:
    """The outcome of a business refusal."""
    faults = tuple(FieldError(storable(each.field), storable(each.detail)) for each in refusal.errors)
    more = More(field=storable(refusal.field), errors=faults) if refusal.field or faults else None
    return Outcome("rejected", storable(refusal.reason), storable(refusal.detail), status=refusal.status, more=more)


def done(result: object) -> Outcome:
    """The outcome of a handler that returned this. Raises Unfit for what can't be sent."""
    if result is None:
        return DONE
    reply = result if isinstance(result, Reply) else Reply(result, 0)
    headers = tuple(reply.written()) if reply.headers or reply.cookies else ()
    body = b"" if reply.body is None else json_of(reply.body, "the reply")
    return Outcome("done", status=reply.status, body=body, more=More(headers) if headers else None)
