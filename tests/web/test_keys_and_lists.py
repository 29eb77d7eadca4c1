"""Keys of other types than text, keys inside of bodies, keys of two fields, and lists in a query."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from chimera import Command, Entity, Event, NewId, Reader, Reads, Rejected, Service, Transaction, Upload
from chimera.errors import DeclarationError
from chimera.testing import running
from chimera.web.wire import openapi
from chimera.web.wire.http import Call
from chimera.web.wire.parameters import Parameters
from chimera.web.wire.routing import Route

DAY = UUID("5f1cf2a5-0a53-4bd8-b2c6-6a6fd5c5e9a0")


class Numbered(Event, source="shop", key="number"):
    number: int
    amount: int


class Invoice(msgspec.Struct):
    number: int
    amount: int = 0


class InvoiceRow(Entity, key="number"):
    number: int
    amount: int


class Bill(Command, key="number"):
    number: int
    amount: int


class Line(msgspec.Struct, rename="camel"):
    line_id: str
    amount_due: int = 0


class AddLine(Command, key="line.line_id", rename="camel"):
    line: Line
    bill_number: int


class Seat(Command, key=("row", "place")):
    row: int
    place: str


class Make(Command, key="thing_id", rename="camel"):
    thing_id: Annotated[str, NewId]
    on_day: date


def a_shop() -> tuple[Service, Any]:
    shop = Service("shop")
    shop.entity(InvoiceRow)

    @shop.handle("PUT /bills/{number}", direct=True)
    async def bill(command: Bill, tx: Transaction) -> None:
        tx.save(InvoiceRow(command.number, command.amount))
        tx.emit(Numbered(command.number, command.amount))

    @shop.handle("POST /bills/{bill_number}/lines")
    async def add_line(command: AddLine, tx: Transaction) -> None:
        if command.line.amount_due < 0:
            raise Rejected("negative")

    @shop.handle("POST /seats")
    async def seat(command: Seat, tx: Transaction) -> None: ...

    @shop.handle("POST /things/{on_day}")
    async def make(command: Make, tx: Transaction) -> None: ...

    invoices = shop.view(Invoice, key="number", path="/invoices/{number}", absent="empty")

    @invoices.on(Numbered)
    def numbered(invoice: Invoice, event: Numbered) -> None:
        invoice.amount = event.amount

    @shop.share("bills", key="number", changed_by=[Numbered])
    async def bills(keys: list[int], reads: Reads) -> dict[int, Invoice]:
        rows = await reads.find(InvoiceRow, number=keys)
        return {row.number: Invoice(row.number, row.amount) for row in rows}

    return shop, invoices


def described(route: str, describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    async def endpoint(call: Call) -> None: ...

    method, _, path = route.partition(" ")
    found = openapi.document("shop", [Route(method, path, endpoint, describe)])["paths"][path][method.lower()]
    assert isinstance(found, dict)
    return found


async def test_keys_are_whole_numbers_in_a_view_a_query_a_share_and_a_borrow() -> None:
    shop, invoices = a_shop()
    desk = Service("desk")
    bills = desk.borrow("bills", Invoice, owner="shop", budget=2.0)

    @shop.get("/shown/{number}")
    async def shown(number: int, read: Reader) -> Invoice | None:
        return await read.view(invoices, number)

    @desk.get("/bill/{number}")
    async def a_bill(number: int, read: Reader) -> dict[str, Any]:
        one = await read.borrowed(bills, number)
        many = await read.borrowed_many(bills, [number, 4])
        return {"one": one.value, "many": {key + 0: each.state for key, each in many.items()}}

    async with running(desk, owners=[shop]) as s:
        taken = await s.put("/bills/3", {"amount": 7})
        assert taken.json() == {"command_id": taken.json()["command_id"], "number": 3}
        await s.settled()
        assert (await s.get("/invoices/3")).json() == {"number": 3, "amount": 7}
        assert (await s.get("/shown/3")).json() == {"number": 3, "amount": 7}
        assert (await s.get("/invoices/4")).json() == {"number": 4, "amount": 0}
        assert (await s.get("/invoices/x")).json()["field"] == "path.number"
        found = (await s.get("/bill/3")).json()
        assert found == {"one": {"number": 3, "amount": 7}, "many": {"3": "fresh", "4": "absent"}}
        shared = await s.get("/_chimera/shop/share/bills?key=3&key=x&key=03")
        assert list(shared.json()["documents"]) == ["3"]
        await s.balanced()


async def test_a_key_inside_of_a_body_is_the_commands_key() -> None:
    shop, _ = a_shop()
    async with running(shop) as s:
        taken = await s.post("/bills/5/lines", {"line": {"lineId": "l-1", "amountDue": 3}})
        assert taken.status_code == 201, taken.text
        assert taken.json()["line_id"] == "l-1"
        refused = await s.post("/bills/5/lines", {"line": {"amountDue": 3}})
        assert (refused.status_code, refused.json()["field"]) == (422, "$.line.lineId")
        refused = await s.post("/bills/5/lines", {})
        assert (refused.status_code, refused.json()["field"]) == (422, "$.line")


async def test_a_key_of_two_fields_is_answered_whole() -> None:
    shop, _ = a_shop()
    async with running(shop) as s:
        taken = await s.post("/seats", {"row": 3, "place": "b"})
        assert {**taken.json(), "command_id": ""} == {"command_id": "", "row": 3, "place": "b"}
    responses = described("POST /seats", partial(openapi.command, shop, shop.handlers["Seat"], "/seats"))["responses"]
    schema = responses["201"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["command_id", "row", "place"]
    assert schema["properties"]["row"] == {"type": "integer"}


async def test_fields_that_are_written_in_another_way_come_in_a_path_and_are_made() -> None:
    shop, _ = a_shop()
    async with running(shop) as s:
        made = await s.post("/things/2026-01-02", {})
        assert made.status_code == 201, made.text
        assert made.json()["thing_id"]
        given = await s.post("/things/2026-01-02", {"thingId": "t"})
        assert given.json()["thing_id"] == "t"
        twice = await s.post("/things/2026-01-02", {"onDay": "2026-01-02"})
        assert (twice.status_code, twice.json()["field"]) == (422, "$.onDay")
        wrong = await s.post("/things/never", {})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "path.on_day")


class Card(BaseModel):
    owner: str


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


async def test_a_query_takes_several_values_of_one_name() -> None:
    shop = Service("shop")

    @shop.get("/found")
    async def found(
        tag: list[str],
        size: set[int] | None = None,
        colour: tuple[Colour, ...] = (),
        day: frozenset[UUID] = frozenset(),
    ) -> dict[str, Any]:
        return {"tag": tag, "size": sorted(size or []), "colour": colour, "day": list(day)}

    async with running(shop) as s:
        got = await s.get(f"/found?tag=a&tag=b&size=2&size=1&colour=red&colour=blue&day={DAY}")
        assert got.json() == {"tag": ["a", "b"], "size": [1, 2], "colour": ["red", "blue"], "day": [str(DAY)]}
        assert (await s.get("/found?tag=a")).json() == {"tag": ["a"], "size": [], "colour": [], "day": []}
        for query, field in (
            ("", "query.tag"),
            ("?tag=a&size=x", "query.size[0]"),
            ("?tag=a&colour=green", "query.colour[0]"),
        ):
            refused = await s.get(f"/found{query}")
            assert (refused.status_code, refused.json()["field"]) == (422, field)
    asked = next(iter(shop.queries.values()))
    declared = Parameters(asked.signature).declared
    parameters = described("GET /found", partial(openapi.query, shop, asked, declared, waits=False))["parameters"]
    assert {each["name"]: each["schema"].get("type") for each in parameters}["tag"] == "array"


@pytest.mark.parametrize("type_", [float, bool, Colour])
def test_what_is_no_key_is_said_where_it_is_declared(type_: type) -> None:
    document = msgspec.defstruct("Odd", [("number", type_)])
    with pytest.raises(DeclarationError, match=r"test_keys_and_lists\.py:\d+: Odd\.number, its key, is a .*; a key is"):
        Service("shop").view(document, key="number")


def test_a_key_inside_of_what_is_no_struct_is_said() -> None:
    shop = Service("shop")

    class Wrong(Command, key="amount.key"):
        amount: int

    with pytest.raises(DeclarationError, match=r"Wrong\.amount is no struct"):

        @shop.handle("POST /wrong")
        async def wrong(command: Wrong, tx: Transaction) -> None: ...


def test_what_a_query_returns_is_described_where_pydantic_reads_it() -> None:
    shop = Service("shop")

    @shop.get("/card")
    async def card() -> Card | None:
        return None

    asked = next(iter(shop.queries.values()))
    responses = described("GET /card", partial(openapi.query, shop, asked, (), waits=False))["responses"]
    assert set(responses["200"]["content"]) == {"application/json"}


def test_a_list_in_an_uploads_path_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"a path holds one value.*'tags'"):

        @Service("shop").upload("PUT /{tags}")
        async def tagged(upload: Upload, tags: list[str]) -> Bill:
            raise NotImplementedError


def test_a_list_in_a_path_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"a path holds one value.*'tags'"):

        @Service("shop").get("/{tags}")
        async def tagged(tags: list[str]) -> None: ...
