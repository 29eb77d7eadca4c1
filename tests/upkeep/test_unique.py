"""Rows that are there before `unique=` reserve what they have at the start, and what nobody reserved is found later."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec
import pytest

from chimera import Command, Entity, Service, SettingsError, Transaction, Unique
from chimera.core.context import Context
from chimera.core.tables import StoredName
from chimera.core.timing import Limits
from chimera.entities import RESERVED, Reserved, table_of
from chimera.testing.waiting import eventually, running
from chimera.upkeep.admission.naming import admit
from chimera.upkeep.drift.reserved import MARK
from chimera.upkeep.drift.unique import RuleStanding, keep_unique, rules_standing
from tests.support import QUICK, Engines, all_of, direct, opened


class Register(Command, key="user_id"):
    user_id: str
    email: str


class Before(Entity, key="user_id", table="users"):
    user_id: str
    email: str | None


class After(Entity, key="user_id", table="users", unique=[("email",)]):
    user_id: str
    email: str | None


class Folded(Entity, key="user_id", table="users", unique=[Unique("email", normalise=lambda text: text.lower())]):
    user_id: str
    email: str | None


def users(entity: type[Entity]) -> Service:
    """A build of the service: as it was before, or a later one."""
    service = Service("accounts", partitions=4)
    service.entity(entity)

    @service.handle("POST /users", direct=True)
    async def register(command: Register, tx: Transaction) -> None:
        tx.save(entity(command.user_id, command.email))

    return service


async def started(entity: type[Entity], engines: Engines) -> Context:
    """A process as it starts, that looks through three rows at once."""
    context = await opened(users(entity), engines)
    context = replace(context, limits=Limits(trim_page=3), timing=msgspec.structs.replace(QUICK, audit_s=0.01))
    await admit(context)
    return context


async def put(context: Context, *emails: str | None) -> list[str]:
    """Rows of this build, `u1` and so on; how their commands ended."""
    commands = [Register(f"u{at}", email or "") for at, email in enumerate(emails, 1)]
    return [f"{each.state} {each.reason}".strip() for each in await direct(context, *commands)]


async def holders(context: Context) -> list[str]:
    return sorted(each.by for each in await all_of(context.store, Reserved) if each.digest != MARK.digest)


async def test_rows_that_are_there_reserve_what_they_have_before_anything_is_handled(engines: Engines) -> None:
    old = await started(Before, engines)
    await put(old, *(f"{at}@x" for at in range(10)))
    new = await started(After, engines)
    assert await holders(new) == sorted(f"u{at}" for at in range(1, 11))
    assert [each.reason for each in await direct(new, Register("late", "3@x"))] == ["taken"]
    assert [each.state for each in await direct(new, Register("late", "10@x"))] == ["done"]
    before = await all_of(new.store, Reserved)
    assert sorted(await all_of((await started(After, engines)).store, Reserved), key=repr) == sorted(before, key=repr)


async def test_rows_that_have_the_same_refuse_the_start_in_one_line_that_names_them(engines: Engines) -> None:
    old = await started(Before, engines)
    await put(old, "a@x", "b@x", "a@x", "a@x", "c@x", "b@x", "A@x")
    with pytest.raises(SettingsError) as refused:
        await started(After, engines)
    said = str(refused.value)
    assert said.startswith("tests/upkeep/test_unique.py:")
    assert "After is unique by email, and 3 rows have what another one has" in said
    assert "'a@x' (rows u1 and u3)" in said
    assert "type in the store: SELECT user_id, email FROM users ORDER BY email" in said
    assert "\n" not in said
    again = await started(Before, engines)
    await put(again, "a@x", "b@x", "d@x", "e@x", "c@x", "f@x", "A@x")
    assert len(await holders(await started(After, engines))) == 7


async def test_another_normalisation_is_looked_through_anew(engines: Engines) -> None:
    new = await started(After, engines)
    assert await put(new, "a@x", "A@x") == ["done", "done"]
    with pytest.raises(SettingsError, match="Folded is unique by email, and 1 row has what another one has: 'A@x'"):
        await started(Folded, engines)
    await put(new, "a@x", "b@x")
    folded = await started(Folded, engines)
    assert [each.reason for each in await direct(folded, Register("late", "B@x"))] == ["taken"]


async def test_a_build_without_the_rule_makes_the_next_one_with_it_look_again(engines: Engines) -> None:
    """Even if nothing else tells: what the one without has written is not reserved."""
    await started(After, engines)
    old = await started(Before, engines)
    await put(old, "a@x")
    new = await started(After, engines)
    assert [each.reason for each in await direct(new, Register("late", "a@x"))] == ["taken"]


async def test_what_an_older_build_writes_beside_this_one_is_reserved_soon(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    """What two have by then is told; the first one keeps it."""
    new = await started(After, engines)
    await put(new, "a@x")
    old = await opened(users(Before), engines)
    await direct(old, Register("u2", "b@x"), Register("u3", "a@x"))
    async with running(keep_unique(new, frozenset({0}))):
        await eventually(lambda: "not reserved" in caplog.text and "what another one has" in caplog.text)
    assert await holders(new) == ["u1", "u2"]
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert any("'a@x' (rows u1 and u3)" in each for each in errors)


async def test_nothing_is_looked_through_for_services_without_a_rule(engines: Engines) -> None:
    old = await started(Before, engines)
    await put(old, "a@x")
    assert await holders(old) == []
    assert [each for each in await all_of(old.store, StoredName) if each.kind == "unique"] == []
    assert table_of(Before).rules == RESERVED.rules == ()


async def test_a_rule_that_is_not_in_force_is_told_without_a_start(engines: Engines) -> None:
    old = await started(Before, engines)
    await put(old, "a@x", "b@x")
    asked = await opened(users(After), engines)
    assert await rules_standing(asked) == [RuleStanding("After by email", False)]
    assert await holders(asked) == []
    await put(old, "a@x", "a@x")
    [standing] = await rules_standing(asked)
    assert "After is unique by email, and 1 row has what another one has: 'a@x' (rows u1 and u2)" in standing.refusal
    await put(old, "a@x", "b@x")
    assert await rules_standing(await started(After, engines)) == [RuleStanding("After by email", True)]
    assert await rules_standing(await opened(users(Folded), engines)) == [RuleStanding("Folded by email", False)]
