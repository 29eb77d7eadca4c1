"""Where tests on a server keep their rows: each begins with none, and nothing is left there at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from chimera import Entity, Service
from chimera.entities import table_of
from chimera.ports import Store
from chimera.testing.contracts.suite import event
from chimera.testing.kit.places import Places
from tests.adapters.services import url_of

HERE = {"postgresql": "SELECT current_schema()::text", "mysql": "SELECT DATABASE()"}
THERE = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = '{}'"


class Row(Entity, key="row_id"):
    row_id: str


class Other(Entity, key="row_id", table="row"):
    row_id: str
    more: int = 0


def service_with(entity: type[Entity]) -> Service:
    service = Service("kit-places", partitions=2)
    service.entity(entity)
    return service


@pytest.fixture(params=["postgresql", "mysql"])
def template(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return f"{url_of('postgresql')}?schema={{test}}-{{service}}"
    return urlsplit(url_of("mysql"))._replace(path="/").geturl() + "{test}-{service}"


@pytest.fixture
async def places() -> AsyncIterator[Places]:
    found = Places()
    yield found
    await found.take_away()


async def place_of(store: Store) -> str:
    async with store.transaction() as session:
        [(name,)] = await session.execute(HERE[session.dialect])
    return str(name)


async def used(places: Places, template: str, entity: type[Entity] = Row, sql: str = "") -> str:
    """The name of a place where a test has found nothing, and has left something."""
    service, table = service_with(entity), table_of(entity)
    async with places.store(template, service) as store:
        await store.create([table], 2)
        async with store.snapshot() as session:
            assert await session.find(table, {}) == []
        assert dict(await store.heads()) == {0: 0, 1: 0}
        async with store.transaction() as session:
            await session.save(table, [table.to_row(entity("a"))])
            await session.hold([1])
            await session.append([event(1, 1)])
            if sql:
                await session.execute(sql)
        return await place_of(store)


async def test_a_test_has_the_place_of_the_one_before_and_none_of_its_rows(places: Places, template: str) -> None:
    first = await used(places, template)
    assert await used(places, template) == first


async def test_other_tables_have_another_place(places: Places, template: str) -> None:
    first = await used(places, template)
    assert await used(places, template, Other) != first


async def test_where_more_was_made_than_rows_no_other_test_comes(places: Places, template: str) -> None:
    first = await used(places, template, sql="CREATE TABLE more (id integer)")
    assert await used(places, template) != first


async def test_tests_at_the_same_time_have_places_of_their_own(places: Places, template: str) -> None:
    async with places.store(template, service_with(Row)) as one, places.store(template, service_with(Row)) as other:
        for store in (one, other):
            await store.create([table_of(Row)], 2)
        assert await place_of(one) != await place_of(other)


async def test_nothing_is_left_on_the_server(places: Places, template: str) -> None:
    name = await used(places, template)
    await places.take_away()
    async with places.store(template, service_with(Row)) as store:
        await store.create([], 2)
        async with store.transaction() as session:
            [(there,)] = await session.execute(THERE.format(name))
    assert there == 0
