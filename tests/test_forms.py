"""Dataclasses and pydantic models in the place of structs, from a request to a document."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from chimera import Command, DeclarationError, Event, ModelCommand, ModelEvent, NewId, Service, Transaction
from chimera.commands.accept import CommandDecoder
from chimera.commands.apart.contracts import schema_of
from chimera.commands.apart.fitting import misfit_of
from chimera.errors import Invalid, Unfit
from chimera.forms import decoder_of, encode, fields_of, form_of
from chimera.messages import types_of
from chimera.testing.engines import memory_engines
from chimera.testing.kit import running
from chimera.views.fingerprints import fingerprint
from chimera.web.read_head import ReadHead
from chimera.web.wire import openapi
from tests.support import make_context

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()


def of_the_page(monkeypatch: pytest.MonkeyPatch) -> Any:
    [code] = re.findall(r"^```python\n# orders\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    module = ModuleType("orders")
    monkeypatch.setitem(sys.modules, "orders", module)
    exec(compile(code, "orders", "exec", dont_inherit=True), vars(module))
    return module


ORDER = {"order_id": "o1", "mail": "Ann@x", "lines": [{"sku": "AB-1", "count": 2}]}


async def test_the_service_of_the_page_takes_models_from_the_request_to_the_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = of_the_page(monkeypatch).orders
    async with running(service) as fleet:
        assert (await fleet.post("/orders", ORDER)).status_code == 201
        assert (await fleet.post("/orders", ORDER | {"order_id": "o2"})).status_code == 201
        await fleet.settled()
        assert (await fleet.get("/customers/ann@x")).json() == {"mail": "ann@x", "orders": 2, "count": 4}
    read_head = ReadHead(make_context(service, memory_engines()))
    paths = openapi.document("orders", read_head.routes())["paths"]
    body = paths["/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    count = body["properties"]["lines"]["items"]["properties"]["count"]
    assert count == {"exclusiveMinimum": 0, "title": "Count", "type": "integer"}
    found = paths["/customers/{mail}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert found["required"] == ["mail"]


async def test_what_validators_refuse_is_the_answer_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"order_id": "o1", "mail": "ann", "lines": [{"sku": "AB-1", "count": 0}]}
    async with running(of_the_page(monkeypatch).orders) as fleet:
        answer = await fleet.post("/orders", wrong)
        unknown = await fleet.post("/orders", ORDER | {"color": "red"})
    shown = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    assert answer.status_code == 422
    assert shown.items() <= answer.json().items()
    assert (unknown.status_code, unknown.json()["field"]) == (422, "$.color")


class Line(BaseModel):
    sku: str
    count: int = Field(gt=0)


class Put(ModelCommand, BaseModel, key="shelf"):
    shelf: Annotated[str, NewId]
    level: int = 0
    lines: list[Line] = []


@dataclass
class PutDown(ModelCommand, key="shelf"):
    shelf: str
    level: int = 0


@dataclass
class Filled(ModelEvent, source="shelves", key="shelf"):
    shelf: str
    level: float = 0.0
    line: Line | None = None


class Emptied(ModelEvent, BaseModel, source="shelves", key="shelf", renamed_from="Cleared"):
    shelf: str
    level: float | None = None


class PutStruct(Command, key="shelf"):
    shelf: str
    level: int = 0


@pytest.mark.parametrize("command", [Put, PutDown, PutStruct])
def test_a_command_says_the_same_of_the_same_mistake_whatever_it_is_made_of(command: Any) -> None:
    service = Service("shelves")

    async def put(command: Any, tx: Transaction) -> None: ...

    put.__annotations__["command"] = command
    service.handle("POST /shelves/{shelf}/levels/{level}")(put)
    decoder = CommandDecoder(
        make_context(service, memory_engines()), service.handlers[command.__name__], ["shelf", "level"]
    )
    made = decoder.decode(b"", {"shelf": "7", "level": "3"}, None, None)
    assert (made.command.key, made.command.level) == ("7", 3)  # type: ignore[attr-defined]
    with pytest.raises(Invalid) as refused:
        decoder.decode(b"", {"shelf": "7", "level": "high"}, None, None)
    assert refused.value.field == "path.level"
    with pytest.raises(Invalid) as refused:
        decoder.decode(b'{"colour":1}', {"shelf": "7", "level": "3"}, None, None)
    assert refused.value.field == "$.colour"


def test_a_key_that_is_made_is_made_for_a_model_as_well() -> None:
    service = Service("shelves")

    @service.handle("POST /shelves")
    async def put(command: Put, tx: Transaction) -> None: ...

    decoder = CommandDecoder(make_context(service, memory_engines()), service.handlers["Put"], [])
    assert len(decoder.decode(b"{}", {}, None, None).command.key) == 36


def test_events_of_models_are_known_by_their_types() -> None:
    assert types_of("shelves") >= {"shelves.Filled", "shelves.Emptied", "shelves.Cleared"}
    assert Emptied.wire_type() == "shelves.Cleared"


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.integers(min_value=1))
def test_what_is_written_is_read_as_the_same(shelf: str, level: float, sku: str, count: int) -> None:
    for value in (Filled(shelf, level, Line(sku=sku, count=count)), Emptied(shelf=shelf, level=level)):
        assert decoder_of(type(value)).decode(form_of(type(value)).encode(value)) == value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Filled("a", float("nan")), r"Filled\.level is nan"),
        (Emptied(shelf="a", level=float("inf")), r"Emptied\.level is inf"),
        (Filled(1), r"Filled\.shelf is of type int"),  # type: ignore[arg-type]
        (Emptied.model_construct(shelf=1), r"Emptied\.shelf is of type int: Input should be a valid string"),
        (Filled("a", 1.0, Line.model_construct(sku="x", count=0)), r"Filled\.line is of type Line: .*greater than 0"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(value: Any, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        form_of(type(value)).encode(value)


def test_it_is_known_which_models_may_hold_a_float() -> None:
    class Whole(BaseModel):
        names: dict[str, int]
        line: Line | None = None
        kind: Literal["a", "b"] = "a"

    class Inner(BaseModel):
        wholes: list[Whole]
        sizes: dict[str, float] = {}

    class Loose(BaseModel):
        anything: Any = None

    assert [form_of(each).may_lose_numbers for each in (Line, Whole, Inner, Loose, Emptied)] == [0, 0, 1, 1, 1]


def test_equal_models_are_equal_bytes_where_the_order_matters() -> None:
    class Unordered(BaseModel):
        names: dict[str, int]

    form = form_of(Unordered, "deterministic")
    assert form.encode(Unordered(names={"b": 1, "a": 2})) == form.encode(Unordered(names={"a": 2, "b": 1}))


def test_a_model_inside_a_struct_is_read_by_its_own_validation() -> None:
    class Box(msgspec.Struct):
        line: Line

    assert decoder_of(Box).decode(encode(Box(Line(sku="x", count=1)))).line == Line(sku="x", count=1)
    with pytest.raises(msgspec.ValidationError, match=r"greater than 0, at `\.count` - at `\$\.line`"):
        decoder_of(Box).decode(b'{"line":{"sku":"x","count":0}}')


def test_a_models_own_word_on_unknown_fields_holds() -> None:
    class Open(ModelCommand, BaseModel, key="shelf"):
        model_config = ConfigDict(extra="ignore")
        shelf: str

    assert decoder_of(Open).decode(b'{"shelf":"a","colour":1}') == Open(shelf="a")


def test_a_contract_says_only_what_is_sure_of_a_model() -> None:
    schema = schema_of(Put)
    assert misfit_of(b'{"shelf":7,"level":"3"}', schema) == ""
    assert misfit_of(b'{"shelf":"7","colour":1}', schema) == "$.colour is not known"


def test_the_view_of_another_model_is_another_view() -> None:
    def view(of: Any) -> str:
        return fingerprint(Service("shelves").view(of, key="shelf", name="shelf"))

    class One(BaseModel):
        shelf: str
        count: int = 0

    class Same(BaseModel):
        shelf: str
        count: int = 0

    class Other(BaseModel):
        shelf: str
        count: float = 0

    assert view(One) == view(Same) != view(Other)


def test_a_dataclass_with_slots_keeps_its_name_and_key() -> None:
    @dataclass(slots=True)
    class Slim(ModelEvent, source="slim", key="a", name="Thin"):
        a: str

    assert (Slim.wire_type(), Slim("x").key) == ("slim.Thin", "x")


async def test_what_is_declared_wrongly_is_one_line_with_its_place() -> None:
    def line_after(mark: str) -> str:
        lines = Path(__file__).read_text().splitlines()
        return rf"test_forms\.py:{next(at for at, line in enumerate(lines, 2) if line.endswith(mark))}: "

    with pytest.raises(DeclarationError, match=line_after("# a model") + "Wrong has no field 'c' to be its key; .*: a"):
        # a model
        class Wrong(ModelCommand, BaseModel, key="c"):
            a: str

    with pytest.raises(DeclarationError, match=line_after("# of a") + "Odd has no field 'c' to be its key; .*: a$"):
        # of a
        class Odd(ModelEvent, source="x", key="c"):
            a: str

    with pytest.raises(DeclarationError, match="can't be the stored name"):

        class Named(ModelEvent, source="x", key="a", name="a b"):
            a: str

    class Bare(ModelCommand, key="a"):
        a: str

    with pytest.raises(DeclarationError, match=r"Bare has no fields: write class Bare\(Struct\), or @dataclass"):

        @Service("x").handle("POST /x/{a}")
        async def bare(command: Bare, tx: Transaction) -> None: ...

    class Full(BaseModel):
        a: str
        b: int

    with pytest.raises(DeclarationError, match=r"Full\.b needs a default"):
        Service("x").view(Full, key="a")
    with pytest.raises(DeclarationError, match="Full has no field 'z'"):
        Service("x").view(Full, key="z")


def test_fields_are_told_alike_whatever_has_them() -> None:
    class Model(BaseModel):
        a: str
        b: int = Field(3, alias="bee")

    @dataclass
    class Data:
        a: str
        b: int = 3

    class Plain(Event):
        a: str
        b: int = 3

    told = [[(each.name, each.required) for each in fields_of(type_)] for type_ in (Model, Data, Plain)]
    assert told == [[("a", True), ("b", False)]] * 3
    assert fields_of(Model)[1].encode_name == "bee"
