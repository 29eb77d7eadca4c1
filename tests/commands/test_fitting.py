"""Whether data fit what other code declares: it says what msgspec says there, or that they may."""

import enum
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera import Command
from chimera.commands.apart.contracts import schema_of
from chimera.commands.apart.fitting import misfit_of


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Circle(msgspec.Struct, tag=True):
    radius: float


class Square(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    side: float = 1.0


class Pair(msgspec.Struct, array_like=True):
    one: int
    other: str = ""


class Thing(Command, key="thing_id"):
    thing_id: str
    size: Size = Size.SMALL
    kind: Literal["a", "b", None] = None
    shape: Circle | Square | None = None
    pair: Pair | None = None
    both: tuple[int, str] | None = None
    counts: dict[str, int] | None = None
    count: Annotated[int, msgspec.Meta(gt=0, le=9)] = 1
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=3, pattern="^n")] = "n"
    tags: Annotated[list[str], msgspec.Meta(max_length=2)] | None = None
    flag: bool = False
    ratio: float = 0.5
    at: datetime | None = None
    price: Decimal | None = None
    data: bytes = b""
    any: Any = None


SCHEMA = schema_of(Thing)

FITS: list[dict[str, Any]] = [
    {},
    {"size": "l", "kind": "a", "flag": True, "ratio": 1, "count": 9, "name": "nnn"},
    {"kind": None, "shape": {"type": "Circle", "radius": 1}, "pair": [1], "both": [1, "a"]},
    {"pair": [1, "a"], "counts": {"a": 1}, "tags": ["a"], "any": {"what": ["ever"]}},
    {"at": "2026-01-01T00:00:00Z", "price": "1.5", "data": "YQ=="},
]
MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"note": "n"}, "$.note is not known"),
    ({"size": "xl"}, "$.size is none of the values that are known"),
    ({"kind": "c"}, "$.kind is none of the values that are known"),
    ({"shape": {"type": "Square", "edge": 1}}, "$.shape.edge is not known"),
    ({"shape": {"type": "Circle"}}, "$.shape.radius is missing"),
    ({"pair": ["a"]}, "$.pair[0] is no integer"),
    ({"pair": []}, "$.pair does not keep to minItems 1"),
    ({"both": [1]}, "$.both does not keep to minItems 2"),
    ({"counts": {"a": "b"}}, "$.counts.a is no integer"),
    ({"counts": []}, "$.counts is no object"),
    ({"count": 0}, "$.count does not keep to exclusiveMinimum 0"),
    ({"count": 10}, "$.count does not keep to maximum 9"),
    ({"count": True}, "$.count is no integer"),
    ({"name": ""}, "$.name does not keep to minLength 1"),
    ({"name": "nnnn"}, "$.name does not keep to maxLength 3"),
    ({"name": "m"}, "$.name does not keep to pattern '^n'"),
    ({"tags": ["a", "b", "c"]}, "$.tags does not keep to maxItems 2"),
    ({"tags": [1]}, "$.tags[0] is no string"),
    ({"flag": 1}, "$.flag is no boolean"),
]


def thing(**fields: object) -> bytes:
    return msgspec.json.encode({"thing_id": "t", **fields})


@pytest.mark.parametrize("fields", FITS)
def test_what_can_be_read_fits(fields: dict[str, Any]) -> None:
    data = thing(**fields)
    msgspec.json.decode(data, type=Thing)
    assert misfit_of(data, SCHEMA) == ""


@pytest.mark.parametrize(("fields", "why"), MISFITS)
def test_what_can_not_be_read_is_told_with_its_path(fields: dict[str, Any], why: str) -> None:
    data = thing(**fields)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=Thing)
    assert misfit_of(data, SCHEMA) == why


def test_what_is_missing_is_told() -> None:
    assert misfit_of(b"{}", SCHEMA) == "$.thing_id is missing"


PLAIN = st.none() | st.booleans() | st.integers(-5, 15) | st.sampled_from(["", "a", "n", "nnnn", "s", "l", "Circle"])
VALUES = st.recursive(
    PLAIN,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["type", "radius", "side", "a"]), part),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*Thing.__struct_fields__[1:], "note"]), VALUES, max_size=3))
def test_nothing_that_can_be_read_is_said_not_to_fit(fields: dict[str, Any]) -> None:
    data = thing(**fields)
    try:
        msgspec.json.decode(data, type=Thing)
    except msgspec.ValidationError:
        return
    assert misfit_of(data, SCHEMA) == ""


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_does_not_fit(data: bytes) -> None:
    assert misfit_of(data, SCHEMA)


@pytest.mark.parametrize("schema", [{}, {"title": "Thing", "fields": ["thing_id"]}, {"type": "what?"}])
def test_what_a_schema_does_not_tell_fits(schema: dict[str, Any]) -> None:
    assert misfit_of(thing(), schema) == ""
