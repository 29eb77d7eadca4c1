"""Who stands against a build is told by what write heads have announced, not by any code that is here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import pytest
from msgspec import Struct

from chimera import Event, Service
from chimera.core.context import Context
from chimera.core.tables import ReportedConsumer
from chimera.journal.leases import Leases
from chimera.run.builds import build_of, keep_build
from chimera.testing.engines import memory_engines
from chimera.transaction import Unit
from chimera_contracts.journals import ALL, look_at_journals
from chimera_contracts.running import ask_running, users_of
from tests.contracts.fleets import Typed, event_of
from tests.support import opened


class Sale(Struct):
    order_id: str
    note: str = ""


def with_a_view(name: str, event: type[Event]) -> Service:
    service = Service(name, partitions=2)
    view = service.view(Sale, key="order_id")

    @view.on(event)
    def fold(sale: Sale, event: Event) -> None:
        sale.note = str(event)

    return service


def shop(fields: Typed, *, version: int = 1) -> Service:
    return with_a_view("shop", event_of(fields, version=version))


def mail(fields: Typed) -> Service:
    return with_a_view("mail", event_of(fields))


@pytest.fixture
async def fleet() -> AsyncIterator[list[Context]]:
    """A shop and a mail, each on a store of its own; none of them runs."""
    engines = [memory_engines() for _ in range(2)]
    yield [
        await opened(each, own) for each, own in zip([shop({"note": str}), mail({"note": str})], engines, strict=True)
    ]
    for each in engines:
        await each.close()


async def runs(context: Context, *, silent: bool = False) -> None:
    """A write head of the service as it is, that lives."""
    if not silent:
        await keep_build(context)
    await Leases(context, "w1", code="" if silent else build_of(context.service)).renew()


async def against(build: Service, fleet: Sequence[Context]) -> list[tuple[str, str, str]]:
    found = await ask_running(build, fleet)
    return [(each.place, each.consumer, each.reader) for each in found.against]


async def test_a_build_that_what_runs_can_read_may_be_deployed(fleet: list[Context]) -> None:
    await runs(fleet[1])
    found = await ask_running(shop({"note": str, "more": (int, 0)}), fleet)
    assert (found.against, found.builds, found.idle) == ([], 1, [])


@pytest.mark.parametrize("fields", [{}, {"note": int}, {"note": str | None}])
async def test_what_runs_and_could_not_read_it_is_named(fleet: list[Context], fields: Typed) -> None:
    await runs(fleet[1])
    assert await against(shop(fields), fleet) == [("shop.Placed.note", "mail", "view sale")]


async def test_what_a_branch_has_says_nothing_of_what_runs(fleet: list[Context]) -> None:
    """The mail that is here does not need the field any more; the one that runs does."""
    await runs(fleet[1])
    here = replace(fleet[1], service=mail({}))
    assert await against(shop({}), [fleet[0], here]) == [("shop.Placed.note", "mail", "view sale")]


async def test_a_value_that_what_runs_does_not_know_stands_against_it() -> None:
    engines = memory_engines()
    runner = await opened(mail({"stage": Literal["a"]}), engines)
    await runs(runner)
    assert await against(shop({"stage": Literal["a", "b"]}), [runner]) == [("shop.Placed.stage", "mail", "view sale")]
    assert await against(shop({"stage": Literal["a"]}), [runner]) == []
    await engines.close()


async def test_who_does_not_run_is_told_and_who_does_not_say_what_it_reads_stands_against_it(
    fleet: list[Context],
) -> None:
    assert (await ask_running(shop({"note": str}), fleet)).idle == ["mail"]
    await runs(fleet[1], silent=True)
    found = await ask_running(shop({"note": str}), fleet)
    assert "does not say what it reads" in found.against[0].line
    assert found.idle == []


async def test_a_consumer_that_is_in_no_settings_stands_against_it(fleet: list[Context]) -> None:
    await runs(fleet[1])
    async with fleet[0].store.transaction() as session:
        unit = Unit(fleet[0].service, session)
        seen = datetime(2026, 1, 2, tzinfo=UTC)
        unit.put(ReportedConsumer("mail sale", 0, 1, 1, seen))
        unit.put(ReportedConsumer("audit all", 0, 1, 1, seen))
        await unit.flush()
    assert await against(shop({"note": str}), fleet) == [("shop", "audit", "")]


def test_who_reads_what_an_owner_writes() -> None:
    services = [shop({"note": str}), mail({"note": str}), Service("other")]
    assert users_of("shop", services) == ["mail"]


async def test_an_empty_journal_is_read_to_its_end(fleet: list[Context]) -> None:
    assert await look_at_journals(fleet, [each.service for each in fleet], ALL) == ([], 0)
