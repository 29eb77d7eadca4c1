"""Rows whose entity has changed, written by the code before and the code after it side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from chimera import Entity, InColumn, Service, SettingsError
from chimera.core.context import Context
from chimera.messages import Message
from chimera.testing.engines import sqlite_engines
from chimera.transaction import Transaction, Unit
from tests.support import TIME, Engines, opened


def first() -> Any:
    class Customer(Entity, key="name", table="evolved"):
        name: str
        mail: str
        visits: int = 0

    return Customer


def renamed() -> Any:
    """`mail` is called otherwise, and there is a field more."""

    class Customer(Entity, key="name", table="evolved"):
        name: str
        address: Annotated[str, InColumn("mail")]
        visits: int = 0
        language: str = "en"

    return Customer


def retyped() -> Any:
    """`visits` is a text now, under a name of its own; what it was stays where it is."""

    class Customer(Entity, key="name", table="evolved"):
        name: str
        address: Annotated[str, InColumn("mail")]
        visits_told: str = ""
        language: str = "en"

    return Customer


def without_what_must_be_there() -> Any:
    class Customer(Entity, key="name", table="evolved"):
        name: str
        visits: int = 0

    return Customer


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Engines]:
    engines = sqlite_engines(tmp_path)
    yield engines
    await engines.close()


async def started(engines: Engines, entity: Any) -> Context:
    service = Service("evolved", partitions=1)
    service.entity(entity)
    return await opened(service, engines)


async def save(context: Context, row: Any) -> None:
    async with context.store.transaction() as session:
        unit = Unit(context.service, session)
        tx = Transaction(unit, Message("c", "evolved", "", "k", TIME, b"", 0), "k")
        tx.save(row)
        await tx.settle()
        tx.merge()
        await unit.flush()


async def load(context: Context, name: str) -> Any:
    [entity] = context.service.entities
    async with context.store.transaction() as session:
        tx = Transaction(Unit(context.service, session), Message("c", "evolved", "", "k", TIME, b"", 0), "k")
        return await tx.load(entity, name)


async def test_a_field_that_is_renamed_stays_in_its_column_and_one_that_is_new_is_left_alone_by_older_code(
    engines: Engines,
) -> None:
    old_class, new_class = first(), renamed()
    old = await started(engines, old_class)
    await save(old, old_class("anna", "a@x", 1))
    new = await started(engines, new_class)
    assert await load(new, "anna") == new_class("anna", "a@x", 1, "en")
    await save(new, new_class("anna", "a@y", 2, "fr"))
    assert await load(old, "anna") == old_class("anna", "a@y", 2)
    await save(old, old_class("anna", "a@z", 3))
    await save(old, old_class("bert", "b@x"))
    assert await load(new, "anna") == new_class("anna", "a@z", 3, "fr")
    assert await load(new, "bert") == new_class("bert", "b@x", 0, "en")


async def test_a_field_with_a_default_may_go_and_come_with_another_type_under_another_name(engines: Engines) -> None:
    old_class, new_class = renamed(), retyped()
    old = await started(engines, old_class)
    await save(old, old_class("anna", "a@x", 7))
    new = await started(engines, new_class)
    found = await load(new, "anna")
    found.visits_told = "often"
    await save(new, found)
    await save(new, new_class("bert", "b@x", "never"))
    assert await load(old, "anna") == old_class("anna", "a@x", 7)
    assert await load(old, "bert") == old_class("bert", "b@x", 0)


async def test_a_field_that_rows_can_not_go_without_is_not_left_out_and_it_is_said_what_to_type(
    engines: Engines,
) -> None:
    await started(engines, first())
    with pytest.raises(SettingsError) as refused:
        await started(engines, without_what_must_be_there())
    assert "has the column 'mail', which its entity does not and no row can go without" in str(refused.value)
    assert "if the field has another name, type Annotated[…, InColumn('mail')]" in str(refused.value)
    assert 'once no older code runs: ALTER TABLE "evolved" DROP COLUMN "mail"' in str(refused.value)
