"""What a function reads of a message is told from its source; where it can't be told, it is all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from msgspec import field

from chimera import Event, ModelEvent, Service
from chimera_contracts.deriving import contracts_of
from chimera_contracts.reading import Read, read_by


class Sent(Event, source="post", key="letter_id"):
    letter_id: str
    to: str
    cents: int
    stamps: list[str] = field(name="stampList", default_factory=list)

    @property
    def is_free(self) -> bool:
        return self.cents == 0

    def weight(self) -> int:
        return len(self.stamps)


async def one(event: Sent, tx: Any) -> None:
    print(event.to)


async def several(event: Sent, tx: Any) -> None:
    if event.cents > 1 and isinstance(event, Sent):
        print(f"{event.to!r} {event.stamps[0]}", getattr(event, "letter_id"))  # noqa: B009 - it is what is looked at


def helper(tx: Any, letter: Sent) -> str:
    return deeper(letter)


def deeper(letter: Sent) -> str:
    return letter.to


async def through_others(event: Sent, tx: Any) -> None:
    helper(tx, event)


async def by_its_own(event: Sent, tx: Any) -> None:
    print(event.is_free, event.weight(), event.key, event.wire_type())


async def kept(event: Sent, tx: Any) -> None:
    tx.append(event)


async def given_away(event: Sent, tx: Any) -> None:
    print(msgspec.structs.asdict(event))


async def called_otherwise(event: Sent, tx: Any) -> None:
    other = event
    print(other.to)


async def shadowed(event: Sent, tx: Any) -> None:
    print(dict.fromkeys(tx, 1), (lambda event: event.cents)(tx))


async def around(event: Sent, tx: Any) -> None:
    print(locals(), event.to)


async def recursive(event: Sent, tx: Any) -> None:
    await recursive(event, tx)


async def strange(event: Any, tx: Any) -> None:
    print(event.colour)


async def batch(events: Sequence[Sent], tx: Any) -> None:
    print(len(events), {event.to for event in events})
    for each in events:
        print(each.cents)


async def batch_kept(events: Sequence[Sent], tx: Any) -> None:
    print(dict.fromkeys(events, 1), events[0].to)


EXPECTED: list[tuple[Callable[..., Any], Collection[str] | None]] = [
    (one, {"to"}),
    (several, {"cents", "to", "stampList", "letter_id"}),
    (through_others, {"to"}),
    (by_its_own, {"cents", "stampList", "letter_id"}),
    (kept, None),
    (given_away, None),
    (called_otherwise, None),
    (shadowed, None),
    (around, None),
    (recursive, None),
    (print, None),
    (strange, set()),
]


@pytest.mark.parametrize(("function", "fields"), EXPECTED)
def test_what_is_read_of_one(function: Callable[..., Any], fields: Collection[str] | None) -> None:
    assert read_by(function, 0, Sent).fields == fields


def test_what_is_read_of_each_of_a_batch() -> None:
    assert read_by(batch, 0, Sent, many=True) == Read(frozenset({"to", "cents"}))
    assert read_by(batch_kept, 0, Sent, many=True).fields is None


def test_what_a_lambda_reads() -> None:
    assert read_by(lambda event: event.to, 0, Sent) == Read(frozenset({"to"}))
    assert [read_by(each, 0, Sent).fields for each in (lambda event: event.to, lambda event: event.cents)] == [None] * 2


async def strange_of_several(event: Any, tx: Any) -> None:
    print(event.to if isinstance(event, Sent) else event.colour)


def test_a_field_that_the_class_has_not_is_named() -> None:
    assert read_by(strange, 0, Sent).strange == {"colour"}


def test_a_field_that_the_class_has_not_may_be_anothers_where_it_is_asked_which_it_is() -> None:
    assert read_by(strange_of_several, 0, Sent) == Read(frozenset({"to"}), frozenset(), frozenset({"colour"}))


class Mails(msgspec.Struct):
    to: str
    count: int = 0
    last: str = ""


@dataclass
class Received(ModelEvent, source="post", key="letter_id"):
    letter_id: str
    at: str
    note: str = ""


def test_a_fold_reads_what_its_function_and_its_key_read() -> None:
    mail = Service("mail")
    view = mail.view(Mails, key="to")

    @view.on(Sent)
    def sent(mails: Mails, event: Sent) -> None:
        mails.count += event.cents

    @view.on(Received, key=lambda event: event.at)
    def received(mails: Mails, event: Received) -> None:
        mails.last = event.note

    uses = contracts_of([mail])["mail"].uses.events
    assert uses["post.Sent"]["view mails"].fields == ["cents", "to"]
    assert uses["post.Received"]["view mails"].fields == ["at", "note"]
    assert uses["post.Received"]["view mails"].own is not None
