"""Whatever is said to be readable is: values of any types are written by one class, and read by another."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from chimera_contracts.deriving import written_by
from chimera_contracts.misfits import misfits
from chimera_contracts.schemas import meaning_of, widened
from tests.contracts.fleets import Typed, command_of, compared, event_of, fleet_of


class Line(Struct):
    sku: str
    count: int = 1


class WideLine(Struct):
    sku: str | None
    count: int = 1
    gift: bool = False


class Closed(Struct, forbid_unknown_fields=True):
    sku: str


class Square(Struct, tag="square"):
    side: int


class Circle(Struct, tag="circle"):
    radius: int


whole = st.integers(-(2**53), 2**53)
texts = st.text(max_size=5)
lines = st.builds(Line, texts, whole)
TYPES: dict[Any, st.SearchStrategy[Any]] = {
    int: whole,
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: texts,
    bool: st.booleans(),
    int | None: st.none() | whole,
    str | int: texts | whole,
    Literal["a"]: st.just("a"),
    Literal["a", "b"]: st.sampled_from("ab"),
    Literal[1, 2]: st.sampled_from([1, 2]),
    Annotated[int, Meta(ge=0)]: st.integers(0, 100),
    Annotated[int, Meta(ge=10, le=20)]: st.integers(10, 20),
    Annotated[str, Meta(max_length=3)]: st.text(max_size=3),
    date: st.dates(),
    datetime: st.datetimes(),
    UUID: st.uuids(),
    bytes: st.binary(max_size=4),
    list[int]: st.lists(whole, max_size=3),
    list[int | None]: st.lists(st.none() | whole, max_size=3),
    tuple[int, str]: st.tuples(whole, texts),
    dict[str, int]: st.dictionaries(texts, whole, max_size=3),
    Line: lines,
    WideLine: st.builds(WideLine, st.none() | texts, whole, st.booleans()),
    Closed: st.builds(Closed, texts),
    list[Line]: st.lists(lines, max_size=2),
    Square | Circle: st.builds(Square, whole) | st.builds(Circle, whole),
    Square: st.builds(Square, whole),
    Any: st.none() | whole | texts,
}
types = st.sampled_from(list(TYPES))


@st.composite
def fields(draw: st.DrawFn) -> Typed:
    found: Typed = {}
    for name in draw(st.sets(st.sampled_from("abc"))):
        of = draw(types)
        found[name] = of
    return found


def values(draw: st.DrawFn, typed: Typed) -> dict[str, Any]:
    return {name: draw(TYPES[each[0] if isinstance(each, tuple) else each]) for name, each in typed.items()}


@st.composite
def written(draw: st.DrawFn) -> tuple[Typed, dict[str, Any]]:
    typed = draw(fields())
    return typed, values(draw, typed)


@settings(deadline=None)
@given(written(), fields())
def test_what_is_said_to_be_readable_is_read(wrote: tuple[Typed, dict[str, Any]], reads: Typed) -> None:
    typed, given_ = wrote
    old, new = event_of(typed), event_of(reads)
    if not misfits(written_by(old), meaning_of(new)):
        data = msgspec.json.encode(old(order_id="1", **given_))
        assert msgspec.json.decode(data, type=new).key == "1"


@settings(deadline=None)
@given(written(), fields(), st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_a_body_that_is_said_to_be_taken_is_taken(
    sent: tuple[Typed, dict[str, Any]], takes: Typed, optional: set[str], wanting: set[str]
) -> None:
    """Those with a default may be left out, and unknown fields are refused."""
    typed, given_ = sent
    old = command_of({name: (of | None, None) if name in wanting else of for name, of in typed.items()})
    new = command_of({name: (of | None, None) if name in optional else of for name, of in takes.items()})
    if not misfits(meaning_of(old), meaning_of(new)):
        left_out = {name: None if name in wanting else value for name, value in given_.items()}
        for values_ in (given_, left_out):
            body = msgspec.json.encode(old(order_id="1", **values_))
            assert msgspec.json.decode(body, type=new).order_id == "1"  # type: ignore[attr-defined]


@settings(deadline=None)
@given(written())
def test_what_a_class_writes_it_reads(wrote: tuple[Typed, dict[str, Any]]) -> None:
    event = event_of(wrote[0])
    assert misfits(written_by(event), meaning_of(event)) == []


@settings(deadline=None)
@given(fields(), fields(), fields())
def test_what_reads_all_that_was_ever_written_reads_each(first: Typed, second: Typed, reads: Typed) -> None:
    one, other, reader = (meaning_of(event_of(each)) for each in (first, second, reads))
    ever = widened(one, other)
    if not misfits(ever, reader):
        assert misfits(one, reader) == []
        assert misfits(other, reader) == []
    assert misfits(one, ever) == []
    assert misfits(other, ever) == []


WIDER = [
    (int, float),
    (int, int | None),
    (int, str | int),
    (str, str | int),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", "b"], str),
    (Literal[1, 2], int),
    (Annotated[int, Meta(ge=10, le=20)], Annotated[int, Meta(ge=0)]),
    (Annotated[str, Meta(max_length=3)], str),
    (date, str),
    (list[int], list[int | None]),
    (Line, WideLine),
    (Square, Square | Circle),
    (Line, Any),
]
APART = [
    (int, str),
    (str, int),
    (str, bool),
    (str, date),
    (Line, int),
    (list[int], dict[str, int]),
    (list[int], list[Line]),
    (Line, Closed),
    (dict[str, int], Closed),
]


@settings(deadline=None)
@given(fields(), st.sampled_from(WIDER), types, st.sampled_from(["all", "none"]))
def test_what_is_compatible_is_never_refused(typed: Typed, wider: tuple[Any, Any], more: Any, reads: str) -> None:
    """A wider type, and more fields that have a default."""
    old = event_of({**typed, "x": wider[0]})
    new = event_of({**typed, "x": wider[1], "y": (more | None, None)})
    read: Any = "all" if reads == "all" else []
    assert compared(fleet_of(old, read), fleet_of(new, read)).breaks == []


@settings(deadline=None)
@given(fields(), st.sampled_from([(new, old) for old, new in WIDER] + APART))
def test_a_narrower_or_another_type_is_always_refused(typed: Typed, types_: tuple[Any, Any]) -> None:
    was, now = types_
    old, new = event_of({**typed, "x": was}), event_of({**typed, "x": now})
    found = compared(fleet_of(old), fleet_of(new)).breaks
    assert {each.consumer for each in found} == {"mail"}
    assert all(each.place.startswith("shop.Placed.x") for each in found)


@settings(deadline=None)
@given(fields(), types)
def test_a_field_that_is_needed_and_new_is_always_refused(typed: Typed, of: Any) -> None:
    found = compared(fleet_of(event_of(typed)), fleet_of(event_of({**typed, "x": of}))).breaks
    assert [(each.place, each.consumer) for each in found] == [("shop.Placed.x", "mail")]


@settings(deadline=None)
@given(fields(), types)
def test_a_field_that_is_read_never_goes(typed: Typed, of: Any) -> None:
    old, new = event_of({**typed, "x": of}), event_of(typed)
    assert [each.place for each in compared(fleet_of(old, ["x"]), fleet_of(new, ["x"])).breaks] == ["shop.Placed.x"]
    assert compared(fleet_of(old, list(typed)), fleet_of(new, list(typed))).breaks == []
