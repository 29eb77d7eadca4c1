"""Personal values through a whole service: concealed wherever they are kept, revealed where they are asked for."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import pytest
from httpx import ASGITransport, AsyncClient
from msgspec import Struct

from chimera import Command, Entity, Event, Forgotten, Personal, Reader, Rejected, Service, Subject, Transaction
from chimera.core.context import Reach
from chimera.core.keys.ciphers import Masters
from chimera.entities import SUBJECT_KEYS, table_of
from chimera.testing.kit.personal import MASTERS
from chimera.testing.kit.running import RunningServices, running
from chimera.upkeep.forgetting.export import export_of
from chimera.upkeep.forgetting.forget import ask, go_on, rewrap, status_of
from chimera.web.permission.tokens import bearing
from chimera.web.read_head import ReadHead
from chimera.web.site import Site

CANARY = "canary@example.org"
PHONE = "+49 30 canary"


class Register(Command, key="user_id"):
    user_id: str
    email: Personal[Annotated[str, msgspec.Meta(max_length=40)]]
    phones: tuple[Personal[str], ...] = ()


class Invite(Command, key="user_id"):
    user_id: str
    friend_id: str
    friend: Annotated[Personal[str], Subject("friend_id")]


class Registered(Event, source="users", key="user_id"):
    user_id: str
    email: Personal[str]
    phones: tuple[Personal[str], ...] = ()


class User(Entity, key="user_id", table="users_of_personal"):
    user_id: str
    email: Personal[str]
    domain: str = ""


class Profile(Struct):
    user_id: str
    email: Personal[str] | None = None
    phones: list[Personal[str]] = []


def users_service() -> Service:
    users = Service("users")
    users.entity(User)

    @users.handle("POST /users")
    async def register(command: Register, tx: Transaction) -> None:
        tx.save(User(command.user_id, command.email))
        tx.emit(Registered(command.user_id, command.email, command.phones))

    @users.handle("POST /invitations", direct=True)
    async def invite(command: Invite, tx: Transaction) -> Invite:
        if await tx.reveal(command.friend) == "nobody":
            raise Rejected("nobody")
        return command

    profiles = users.view(Profile, key="user_id", path="/users/{user_id}")

    @profiles.on(Registered)
    def registered(profile: Profile, event: Registered) -> None:
        profile.email, profile.phones = event.email, list(event.phones)

    profiles.list("everyone", path="/users")

    @users.get("/users/{user_id}/domain")
    async def domain(user_id: str, reader: Reader) -> dict[str, str] | None:
        user = await reader.load(User, user_id)
        if user is None:
            return None
        email = await reader.reveal(user.email)
        return {"domain": "" if isinstance(email, Forgotten) else email.partition("@")[2]}

    @users.get("/users/{user_id}/row")
    async def row(user_id: str, reader: Reader) -> User | None:
        return await reader.load(User, user_id)

    return users


async def everything_in(services: RunningServices) -> str:
    """All that is kept and sent, as text."""
    found: list[Any] = []
    for context in services.contexts.values():
        for part in (context.log, context.store, context.views):
            found.append({name: repr(value) for name, value in vars(part).items()})
        for each in range(context.service.partitions):
            found += await context.store.journal(each, 0, 1000)
    return repr(found)


async def test_a_personal_value_is_shown_to_who_asks_and_is_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(users_service()) as services:
        sent = await services.post("/users", {"user_id": "u-1", "email": CANARY, "phones": [PHONE]})
        assert sent.status_code == 201, sent.text
        await services.balanced()
        shown = {"user_id": "u-1", "email": CANARY, "phones": [PHONE]}
        assert (await services.get("/users/u-1")).json() == shown
        assert (await services.get("/users")).json()["items"] == [shown]
        assert (await services.get("/users/u-1/domain")).json() == {"domain": "example.org"}
        assert (await services.get("/users/u-1/row")).json()["email"] == CANARY
        assert "~p1.users." in (kept := await everything_in(services))
        assert "canary" not in kept
        status = await services.get(f"/_chimera/users/commands/{sent.json()['command_id']}")
        assert "canary" not in status.text
        journal = [await services.get(f"/_chimera/users/journal?partition={each}") for each in range(8)]
        assert "~p1.users." in "".join(each.text for each in journal)
        assert "canary" not in "".join(each.text for each in journal)
    assert "canary" not in caplog.text


async def test_it_is_about_whom_its_field_says_and_else_about_the_key() -> None:
    async with running(users_service()) as services:
        answer = await services.post("/invitations", {"user_id": "u-1", "friend_id": "u-2", "friend": CANARY})
        assert answer.json() == {"user_id": "u-1", "friend_id": "u-2", "friend": CANARY}
        keys = await services.contexts["users"].personal.of(["u-1", "u-2"])
        assert [bool(keys[each].key) for each in ("u-1", "u-2")] == [False, True]


async def test_what_breaks_its_type_is_told_without_the_value() -> None:
    async with running(users_service()) as services:
        answer = await services.post("/users", {"user_id": "u-1", "email": CANARY * 10})
        assert answer.status_code == 422
        assert "canary" not in answer.text
        assert answer.json()["field"] == "$.email"
        answer = await services.post("/users", {"user_id": "u-1", "email": None, "more": CANARY})
        assert answer.status_code == 422
        assert "canary" not in answer.text


async def test_what_somebody_has_stolen_is_not_opened_by_sending_it() -> None:
    async with running(users_service()) as services:
        await services.post("/users", {"user_id": "u-1", "email": CANARY})
        await services.balanced()
        async with services.contexts["users"].store.snapshot() as session:
            [row] = await session.scan(table_of(User), (), 10)
        stolen = row[1]
        await services.post("/users", {"user_id": "u-2", "email": stolen[:40]})
        await services.balanced()
        assert (await services.get("/users/u-2")).json()["email"] == stolen[:40]


async def test_the_same_idempotency_key_with_the_same_value_is_the_same_command() -> None:
    async with running(users_service()) as services:
        body = {"user_id": "u-1", "email": CANARY}
        first = await services.post("/users", body, idempotency_key="k")
        again = await services.post("/users", body, idempotency_key="k")
        assert first.json() == again.json()
        other = await services.post("/users", {**body, "email": "other@example.org"}, idempotency_key="k")
        assert other.status_code == 409
        await services.balanced()
        assert (await services.get("/users/u-1")).json()["email"] == CANARY


async def test_who_is_forgotten_is_null_everywhere_and_others_stay_and_each_step_is_kept() -> None:
    async with running(users_service()) as services:
        context = services.contexts["users"]
        for user, email in (("u-1", CANARY), ("u-2", "other@example.org")):
            assert (await services.post("/users", {"user_id": user, "email": email})).status_code == 201
        await services.settled()
        assert (await status_of(context, "u-1")).stage == "unknown"
        await ask(context, "u-1", by="a test")
        assert (await status_of(context, "u-1")).stage == "asked"
        assert (await services.get("/users/u-1")).json()["email"] == CANARY
        found = await go_on(context, "u-1")
        assert found.stage == "destroyed"
        assert any("may know the key until" in each for each in found.waiting)
        await services.settled()
        services.clock.advance(seconds=60)
        found = await go_on(context, "u-1")
        assert (found.stage, list(found.waiting)) == ("done", [])
        assert found.proof is not None
        assert found.proof.concealed == {"table users_of_personal": 1, "journal": 1, "view profile": 1}
        assert found.proof.opens == 0
        assert await go_on(context, "u-1") == found
        assert (await services.get("/users/u-1")).json() == {"user_id": "u-1", "email": None, "phones": []}
        assert (await services.get("/users/u-1/domain")).json() == {"domain": ""}
        assert [each["email"] for each in (await services.get("/users")).json()["items"]] == [None, "other@example.org"]
        assert (await services.post("/users", {"user_id": "u-1", "email": CANARY})).status_code == 410
        await services.balanced()


async def test_a_person_is_given_what_is_kept_of_her_and_nothing_of_others() -> None:
    users = users_service()

    async with running(users) as services:
        context = services.contexts["users"]
        await services.post("/users", {"user_id": "u-1", "email": CANARY, "phones": [PHONE]})
        await services.post("/users", {"user_id": "u-2", "email": "other@example.org"})
        await services.settled()
        text = msgspec.json.encode(await export_of(context, "u-1")).decode()
        exported = msgspec.json.decode(text)
        assert "other@" not in text
        assert set(exported["kept"]) == {"table users_of_personal", "journal", "view profile"}
        assert text.count(CANARY) == 3


async def test_keys_are_wrapped_anew_and_the_old_master_key_is_needed_no_more() -> None:
    async with running(users_service()) as services:
        context = services.contexts["users"]
        await services.post("/users", {"user_id": "u-1", "email": CANARY})
        await services.settled()
        before = context.personal.masters
        newer = Masters(("the master key of the next month, a new one", *MASTERS))
        context.personal.masters = newer
        assert await rewrap(context) == 1
        assert await rewrap(context) == 0
        async with context.store.snapshot() as session:
            [row] = await session.scan(SUBJECT_KEYS, (), 10)
        assert row[3] == newer.first != before.first
        context.personal.masters = Masters(("the master key of the next month, a new one",))
        context.personal.forget("u-1")
        assert (await services.get("/users/u-1")).json()["email"] == CANARY


def pages_service() -> Service:
    pages = Service("pages")
    cards = pages.view(Profile, key="user_id", path="/cards/{user_id}", name="cards")

    @cards.on(Registered)
    def registered(card: Profile, event: Registered) -> None:
        card.email = event.email

    @pages.get("/mails/{user_id}")
    async def mails(user_id: str, reader: Reader) -> dict[str, str]:
        card = await reader.view(cards, user_id)
        email = await reader.reveal(card.email) if card and card.email else ""
        return {"mail": "forgotten" if isinstance(email, Forgotten) else email}

    return pages


async def test_another_service_shows_it_with_its_owners_keys_and_withholds_it_when_it_can_not_ask() -> None:
    async with running(pages_service(), owners=[users_service()]) as services:
        await services.post("/users", {"user_id": "u-1", "email": CANARY})
        await services.settled()
        kept = await everything_in(services)
        assert "canary" not in kept
        with services.owner_down("users"):
            answer = await services.get("/cards/u-1")
            assert answer.json()["email"] is None
            assert answer.headers["chimera-withheld"] == "users"
            assert (await services.get("/mails/u-1")).status_code == 503
        assert (await services.get("/cards/u-1")).json()["email"] == CANARY
        assert (await services.get("/mails/u-1")).json() == {"mail": CANARY}
        for context in services.contexts.values():
            await ask(context, "u-1", by="a test")
            await go_on(context, "u-1")
        await services.settled()
        services.clock.advance(seconds=60)
        assert (await services.get("/cards/u-1")).json()["email"] is None
        assert (await services.get("/mails/u-1")).json() == {"mail": "forgotten"}
        assert [(await go_on(each, "u-1")).stage for each in services.contexts.values()] == ["done", "done"]


async def test_keys_are_told_to_services_of_the_fleet_only() -> None:
    service, key = users_service(), "a key of the fleet, long enough to be one"
    for reach, status in ((Reach(is_open=False, fleet=(key,), operators=("o" * 40,)), 401), (Reach(), 200)):
        async with running(service) as services:
            context = replace(services.contexts["users"], reach=reach)
            await services.post("/users", {"user_id": "u-1", "email": CANARY})
            client = AsyncClient(transport=ASGITransport(Site([ReadHead(context)])), base_url="http://test")
            async with client:
                asked = "/_chimera/users/subjects?key=u-1"
                assert (await client.get(asked)).status_code == status
                operator = await client.get(asked, headers={"authorization": f"Bearer {'o' * 40}"})
                assert operator.status_code == (403 if status == 401 else 200)
                if status == 401:
                    peer = bearing(pages_service(), "users", (key,), context.clock)
                    assert peer is not None
                    told = await client.get(asked, headers={"authorization": f"Bearer {peer()}"})
                    assert told.status_code == 200
                    assert told.headers["cache-control"] == "no-store"
