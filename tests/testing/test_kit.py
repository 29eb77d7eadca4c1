"""The kit for tests of services, used as an author uses it."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
import pytest

import chimera.testing
from chimera import (
    Borrowed,
    Caller,
    Command,
    Entity,
    Event,
    NewId,
    Reader,
    Reads,
    Rejected,
    Reply,
    Request,
    Service,
    Transaction,
)
from chimera.errors import SettingsError
from chimera.testing import folded, given, running
from tests.adapters.services import url_of


class Place(Command, key="order_id"):
    order_id: Annotated[str, NewId]
    seller_id: str
    amount: int


class Stamp(Command, key="order_id"):
    order_id: str


class Placed(Event, source="kit-shop", key="order_id"):
    order_id: str
    seller_id: str
    amount: int
    by: str = ""


class SellerChanged(Event, source="kit-sellers", key="seller_id"):
    seller_id: str


class Rename(Command, key="seller_id"):
    seller_id: str
    name: str


class Order(Entity, key="order_id"):
    order_id: str
    amount: int


class Seller(Entity, key="seller_id"):
    seller_id: str
    name: str


class Heard(Entity, key="order_id"):
    order_id: str
    times: int = 0


class Stamped(msgspec.Struct):
    order_id: str
    at: datetime


class Sales(msgspec.Struct):
    seller_id: str
    orders: int = 0


class Name(msgspec.Struct):
    name: str


def make_sellers() -> Service:
    sellers = Service("kit-sellers")
    sellers.entity(Seller)

    @sellers.handle("PUT /sellers/{seller_id}", direct=True)
    async def rename(command: Rename, tx: Transaction) -> None:
        tx.save(Seller(command.seller_id, command.name))
        tx.emit(SellerChanged(command.seller_id))

    @sellers.share("names", key="seller_id", changed_by=[SellerChanged])
    async def names(seller_ids: list[str], read: Reads) -> dict[str, Name]:
        return {each.seller_id: Name(each.name) for each in await read.find(Seller, seller_id=seller_ids)}

    return sellers


async def stamp(command: Stamp, tx: Transaction) -> Reply[Stamped]:
    tx.save(Order(command.order_id, tx.now.year))
    return Reply(Stamped(command.order_id, tx.now), 201)


def make_shop() -> Service:
    shop = Service("kit-shop")
    for entity in (Order, Heard):
        shop.entity(entity)
    names = shop.borrow("names", Name, owner="kit-sellers", mode="async", budget=0.5)

    @shop.authenticate
    async def who(request: Request) -> Caller | None:
        return None

    @shop.handle("POST /orders")
    async def place(command: Place, tx: Transaction, caller: Caller | None) -> None:
        if command.amount <= 0:
            raise Rejected("nothing_to_pay")
        if await tx.load(Order, command.order_id) is not None:
            raise Rejected("order_exists")
        tx.save(Order(command.order_id, command.amount))
        by = caller.subject if caller else ""
        tx.emit(Placed(command.order_id, command.seller_id, command.amount, by))

    shop.handle("POST /stamps", direct=True)(stamp)

    @shop.on(Placed)
    async def hear(event: Placed, tx: Transaction) -> None:
        heard = await tx.load(Heard, event.order_id) or Heard(event.order_id)
        tx.save(Heard(event.order_id, heard.times + 1))

    sales = shop.view(Sales, key="seller_id", path="/sales/{seller_id}")

    @sales.on(Placed)
    def placed(sale: Sales, event: Placed) -> None:
        sale.orders += 1

    @shop.get("/heard/{order_id}")
    async def heard(order_id: str, read: Reader) -> Heard | None:
        return await read.load(Heard, order_id)

    @shop.get("/names/{seller_id}")
    async def name(seller_id: str, read: Reader) -> Borrowed[Name]:
        return await read.borrowed(names, seller_id)

    return shop


ORDER = {"order_id": "o", "seller_id": "ann", "amount": 5}


async def test_a_command_is_tried_without_anything_running() -> None:
    shop, ann = make_shop(), Caller("ann")
    await given(shop).when(Place("o", "s", 5), caller=ann).then(Placed("o", "s", 5, "ann"))
    await given(shop).when(Place("o", "s", 0)).rejected("nothing_to_pay")
    await given(shop, Order("o", 1)).when(Place("o", "s", 5)).rejected("order_exists")
    await given(shop).when(Placed("o", "s", 5)).then()
    with pytest.raises(AssertionError, match="emitted were"):
        await given(shop).when(Place("o", "s", 5)).then()
    with pytest.raises(AssertionError, match="it was done"):
        await given(shop).when(Place("o", "s", 5)).rejected("nothing_to_pay")
    with pytest.raises(SettingsError, match="kit-shop reacts to no SellerChanged"):
        await given(shop).when(SellerChanged("s")).then()


async def test_what_came_of_a_command_can_be_looked_at() -> None:
    shop, at = make_shop(), datetime(2025, 1, 2, 3, 4, tzinfo=UTC)
    tried = await given(shop, Order("p", 1)).when(Stamp("o"), at=at).tried()
    assert sorted(tried.rows(Order), key=lambda order: order.order_id) == [Order("o", at.year), Order("p", 1)]
    assert (tried.status, tried.answer) == (201, {"order_id": "o", "at": "2025-01-02T03:04:00Z"})
    refused = await given(shop, Order("o", 1)).when(Place("o", "s", 5)).rejected("order_exists")
    assert (refused.status, refused.answer, refused.rows(Order)) == (409, None, [Order("o", 1)])
    heard = await given(shop).when(Placed("o", "s", 5)).then()
    assert heard.rows(Heard) == [Heard("o", 1)]
    with pytest.raises(SettingsError, match="Seller is no entity of this service"):
        heard.rows(Seller)


def test_events_are_folded_into_documents_without_anything_running() -> None:
    [sales] = make_shop().views.values()
    assert folded(sales) == {}
    events = [Placed("o", "ann", 5), SellerChanged("ann"), Placed("p", "bob", 5), Placed("q", "ann", 5)]
    assert folded(sales, *events) == {"ann": Sales("ann", 2), "bob": Sales("bob", 1)}


async def test_nothing_is_left_behind_by_a_block_that_ends_soon() -> None:
    for _ in range(20):
        async with running(make_sellers()) as s:
            await s.put("/sellers/ann", {"name": "Ann"})
            await s.settled()


async def test_services_run_in_one_process_and_settle_exactly() -> None:
    async with running(make_shop(), owners=[make_sellers()]) as s:
        for number in range(20):
            answer = await s.post("/orders", {**ORDER, "order_id": f"o{number}"}, caller=Caller("ann"))
            assert answer.status_code == 201
        await s.put("/sellers/ann", {"name": "Ann"})
        await s.settled()
        assert (await s.get("/sales/ann")).json() == {"seller_id": "ann", "orders": 20}
        assert (await s.get("/names/ann")).json()[0] == {"name": "Ann"}
        await s.balanced()


async def test_what_comes_twice_is_done_once() -> None:
    async with running(make_shop(), owners=[make_sellers()]) as s:
        await s.post("/orders", ORDER)
        await s.settled()
        await s.redeliver()
        await s.settled()
        assert (await s.get("/heard/o")).json() == {"order_id": "o", "times": 1}
        assert (await s.get("/sales/ann")).json()["orders"] == 1


async def test_an_owner_that_is_down_never_breaks_a_page() -> None:
    async with running(make_shop(), owners=[make_sellers()]) as s:
        await s.put("/sellers/ann", {"name": "Ann"})
        await s.settled()
        with s.owner_down("kit-sellers"):
            assert (await s.get("/names/ann")).json()[:1] == [{"name": "Ann"}]
            nobody = (await s.get("/names/bob")).json()
            assert nobody[0] is None
        with pytest.raises(SettingsError, match="'nobody' is no owner here; there are: kit-"), s.owner_down("nobody"):
            pass


async def test_time_is_moved_by_hand() -> None:
    async with running(make_shop(), owners=[make_sellers()]) as s:
        before = s.clock.now()
        asleep = asyncio.ensure_future(s.clock.sleep(3600))
        await asyncio.sleep(0)
        s.clock.advance(hours=2)
        await asyncio.wait_for(asleep, 60)
        assert (s.clock.now() - before).total_seconds() >= 7200
        await s.post("/orders", ORDER)
        await s.settled()
        assert (await s.get("/sales/ann")).json()["orders"] == 1


async def test_a_task_that_is_left_behind_is_told() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    left: list[asyncio.Task[None]] = []
    with pytest.raises(AssertionError, match=r"these tasks were left behind: .*forever"):
        async with running(make_sellers()):
            left.append(asyncio.ensure_future(forever()))
    left[0].cancel()


async def test_an_owner_that_does_not_run_is_asked_for() -> None:
    with pytest.raises(SettingsError, match=r"'kit-sellers' is used, and does not run here: running\(…, owners="):
        async with running(make_shop()):
            pass


@pytest.fixture(params=["postgresql", "mysql", "sqlite"])
def on_a_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    match request.param:
        case "postgresql":
            url = f"{url_of('postgresql')}?schema={{test}}-{{service}}"
        case "mysql":
            url = urlsplit(url_of("mysql"))._replace(path="/").geturl() + "{test}-{service}"
        case _:
            url = "sqlite:///{state}/{service}.db"
    monkeypatch.setenv("CHIMERA_TEST_STORE", url)
    return url


async def test_the_same_tests_run_on_a_store_by_one_variable(on_a_store: str) -> None:
    assert os.environ["CHIMERA_TEST_STORE"] == on_a_store
    await given(make_shop(), Order("o", 1)).when(Place("o", "s", 5)).rejected("order_exists")
    assert (await given(make_shop()).when(Place("o", "s", 5)).tried()).rows(Order) == [Order("o", 5)]
    async with running(make_shop(), owners=[make_sellers()]) as s:
        await s.post("/orders", ORDER)
        await s.settled()
        assert (await s.get("/sales/ann")).json()["orders"] == 1


def test_a_name_that_the_kit_does_not_have_is_none() -> None:
    assert not hasattr(chimera.testing, "nothing")
