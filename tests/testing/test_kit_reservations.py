"""Values that are reserved for a while and confirmed by another service's events, tested with the kit as authors do."""

from __future__ import annotations

from datetime import timedelta

import pytest

import chimera.testing
from chimera import Command, Event, Expired, Service, Taken, Transaction
from chimera.entities import RESERVED
from chimera.unique import digest_under


class SignUp(Command, key="person_id"):
    person_id: str
    email: str


class Wanted(Event, source="kit-accounts", key="person_id"):
    person_id: str
    email: str


class Opened(Event, source="kit-accounts", key="person_id"):
    person_id: str


class GivenUp(Event, source="kit-accounts", key="person_id"):
    person_id: str
    why: str


class Answer(Command, key="person_id"):
    person_id: str
    email: str
    yes: bool = True


class Answered(Event, source="kit-letters", key="person_id"):
    person_id: str
    email: str
    yes: bool


def make_accounts() -> Service:
    """A person has an e-mail for an hour, and for good once she has answered the letter of another service."""
    service = Service("kit-accounts", partitions=2)

    @service.handle("POST /people", direct=True)
    async def sign_up(command: SignUp, tx: Transaction) -> None:
        await tx.reserve("email", command.email, until=timedelta(hours=1))
        tx.emit(Wanted(command.person_id, command.email))

    @service.on(Answered, start="beginning")
    async def opened(event: Answered, tx: Transaction) -> None:
        if not event.yes:
            await tx.release("email", event.email)
            return
        try:
            await tx.confirm("email", event.email)
            tx.emit(Opened(event.person_id))
        except (Expired, Taken) as error:
            tx.emit(GivenUp(event.person_id, error.reason))

    return service


def make_letters() -> Service:
    """A service of others: it tells who has answered."""
    service = Service("kit-letters", partitions=2)

    @service.handle("POST /answers", direct=True)
    async def answer(command: Answer, tx: Transaction) -> None:
        tx.emit(Answered(command.person_id, command.email, command.yes))

    return service


async def test_what_is_confirmed_by_another_service_in_time_is_kept() -> None:
    async with chimera.testing.running(make_accounts(), make_letters()) as s:
        ann, ben = {"person_id": "ann", "email": "a@x"}, {"person_id": "ben", "email": "a@x"}
        assert (await s.post("/people", ann)).status_code == 201
        assert (await s.post("/people", ann)).status_code == 201  # sent twice
        refused = await s.post("/people", ben)
        assert (refused.status_code, refused.json()["reason"], refused.json()["field"]) == (409, "taken", "email")
        s.clock.advance(minutes=50)
        await s.post("/answers", ann)
        await s.settled()
        s.clock.advance(hours=100)
        assert (await s.post("/people", ben)).json()["reason"] == "taken"
        await s.balanced()


async def test_a_reservation_that_no_event_tells_of_is_no_balance() -> None:
    async with chimera.testing.running(make_accounts(), make_letters()) as s:
        await s.post("/people", {"person_id": "ann", "email": "a@x"})
        store = s.contexts["kit-accounts"].store
        async with store.transaction() as session:
            await session.delete(RESERVED, [(digest_under("email", "a@x"),)])
        with pytest.raises(AssertionError, match="what kit-accounts has reserved is not as its journal says"):
            await s.balanced()


async def test_what_is_confirmed_too_late_is_the_next_ones() -> None:
    async with chimera.testing.running(make_accounts(), make_letters()) as s:
        ann, ben = {"person_id": "ann", "email": "a@x"}, {"person_id": "ben", "email": "a@x"}
        await s.post("/people", ann)
        s.clock.advance(hours=1)
        assert (await s.post("/people", ben)).status_code == 201
        await s.post("/answers", ann)
        await s.settled()
        assert (await s.post("/people", ann)).json()["reason"] == "taken"
        await s.post("/answers", ben)
        await s.settled()
        s.clock.advance(hours=100)
        assert (await s.post("/people", ann)).json()["reason"] == "taken"


async def test_what_is_given_back_is_free_at_once() -> None:
    async with chimera.testing.running(make_accounts(), make_letters()) as s:
        await s.post("/people", {"person_id": "ann", "email": "a@x"})
        await s.post("/answers", {"person_id": "ann", "email": "a@x", "yes": False})
        await s.settled()
        assert (await s.post("/people", {"person_id": "ben", "email": "a@x"})).status_code == 201


async def test_events_of_a_handler_are_told_without_those_of_what_it_reserves() -> None:
    trying = chimera.testing.given(make_accounts()).when(SignUp("ann", "a@x"))
    await trying.then(Wanted("ann", "a@x"))
    late = chimera.testing.given(make_accounts()).when(Answered("ann", "a@x", True))
    await late.then(GivenUp("ann", "expired"))
