"""Messages on the wire, and positions."""

import json
import math
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import Command, DeclarationError, Event, Position
from chimera.errors import Unfit
from chimera.forms import form_of, json_of
from chimera.messages import CloudEvent, Message, partition_of, to_cloud_event
from tests.support import TIME, Deposit, Deposited

numbers = st.integers(0, 10**17)
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@settings(derandomize=True, deadline=None)
@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), numbers, numbers)
def test_a_position_reads_back_as_it_was_written(source: str, partition: int, number: int) -> None:
    position = Position(source, partition, number)
    assert Position.parse(str(position)) == position
    assert [Position.parse(text) for text in f" {position}, {position} ".split(",")] == [position, position]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders",
        "orders/3",
        "orders@3",
        "/3@1",
        "orders/x@1",
        "orders/3@-1",
        "orders/3@1.5",
        "o/3@²",
        "o/3@" + "9" * 30,
    ],
)
def test_what_is_not_a_position_is_refused_with_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match=r"a position looks like orders/3@1042"):
        Position.parse(text)


def test_positions_of_one_partition_are_ordered_by_number() -> None:
    assert Position("a", 1, 9) < Position("a", 1, 10)


@settings(derandomize=True, deadline=None)
@given(st.text(), st.integers(1, 256))
def test_a_key_always_has_the_same_partition_in_every_process_and_language(key: str, partitions: int) -> None:
    key = key.encode("utf-8", "replace").decode()
    assert partition_of(key, partitions) == zlib.crc32(key.encode()) % partitions


def test_the_partition_of_a_known_key_never_changes() -> None:
    assert [partition_of(key, 8) for key in ("", "a", "order-1", "é")] == [0, 3, 7, 6]


@settings(derandomize=True, deadline=None)
@given(json_values, st.text(max_size=5), st.integers(0, 7), st.integers(1, 2**40), st.sampled_from(["", "00-a-b-01"]))
def test_a_message_survives_the_json_form_of_a_cloud_event(
    value: object, key: str, partition: int, number: int, traceparent: str
) -> None:
    key = key.encode("utf-8", "replace").decode()
    value = json.loads(json.dumps(value).encode("utf-8", "replace"))
    data = json.dumps(value).encode()
    message = Message("orders/1@2", "orders", "orders.Placed", key, TIME, data, partition, number, traceparent)
    wire = msgspec.json.encode(to_cloud_event(message))
    assert msgspec.json.decode(wire, type=CloudEvent).to_message() == message


def test_a_message_is_a_cloud_event_of_version_1() -> None:
    message = Message("orders/1@2", "orders", "orders.Placed", "k", TIME, b'{"a":1}', 1, 2, "00-x")
    assert json.loads(msgspec.json.encode(to_cloud_event(message))) == {
        "specversion": "1.0",
        "id": "orders/1@2",
        "source": "orders",
        "type": "orders.Placed",
        "subject": "k",
        "time": TIME,
        "datacontenttype": "application/json",
        "partition": 1,
        "number": 2,
        "data": {"a": 1},
        "traceparent": "00-x",
    }


def test_a_command_with_unknown_fields_is_refused_an_event_with_unknown_fields_is_read() -> None:
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.json.decode(b'{"account_id":"a","amount":1,"colour":"red"}', type=Deposit)
    event = msgspec.json.decode(b'{"account_id":"a","amount":1,"colour":"red"}', type=Deposited)
    assert event == Deposited("a", 1)


def test_keys_and_wire_types_come_from_the_declaration() -> None:
    assert Deposit("a", 1).key == "a"
    assert Deposited("a", 1).key == "a"
    assert Deposited.wire_type() == "accounts.Deposited"


def test_a_key_that_is_no_field_is_refused_with_the_fields_that_there_are() -> None:
    with pytest.raises(DeclarationError, match="no field 'order_id' to be its key; its fields are: name"):

        class Wrong(Command, key="order_id"):
            name: str

    with pytest.raises(DeclarationError, match="its fields are: none"):

        class Empty(Event, source="orders", key="order_id"):
            pass


class Rating(msgspec.Struct):
    stars: int = 1
    words: list[str] = []


class Rated(Event, source="shop", key="item", rename="camel"):
    item: str
    average: float = 1.0
    best_ever: float | None = None
    count: int = 0
    rating: Rating | None = None
    about: Any = None
    ratings: list[Rating] = []  # noqa: RUF012 - msgspec copies it


NAN, INFINITE, DEEP = float("nan"), float("inf"), list[Any]()
for _ in range(3000):
    DEEP = [DEEP]
WRONG: Any = "three"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Rated("a", NAN), "Rated.average is nan, a float that JSON can't hold"),
        (Rated("a", best_ever=-INFINITE), "Rated.best_ever is -inf, a float that JSON can't hold"),
        (Rated("a", about={"x": [1.0, NAN]}), "Rated.about['x'][1] is nan, a float that JSON can't hold"),
        (Rated("a", count=WRONG), "Rated.count is of type str: Expected `int`, got `str`"),
        (Rated("a", best_ever=WRONG), "Rated.bestEver is of type str: Expected `float | null`, got `str`"),
        (Rated("a", rating=Rating(WRONG)), "Rated.rating.stars is of type str: Expected `int`, got `str`"),
        (Rated("a", ratings=[Rating(), Rating(WRONG)]), "of type "),
        (Rated(WRONG and 5), "Rated.item is of type int: Expected `str`, got `int`"),  # type: ignore[arg-type]
        (Rated("a", about=object()), "Rated.about is of type object: Encoding objects of type object is unsupported"),
        (Rated("\ud800"), "Rated.item is of type str: 'utf-8' codec can't encode"),
        (Rated("a", about=DEEP), "Rated is nested too deeply"),
    ],
)
def test_what_could_not_be_read_again_is_refused_with_its_field_and_type(event: Rated, said: str) -> None:
    with pytest.raises(Unfit) as refused:
        form_of(Rated).encode(event)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


loose_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.builds(Rating, inner, inner),
    max_leaves=6,
)


@settings(derandomize=True, deadline=None)
@given(st.builds(Rated, loose_values, *[loose_values] * 6))
def test_whatever_an_event_holds_it_is_written_so_that_it_reads_back_or_refused(event: Rated) -> None:
    try:
        data = form_of(Rated).encode(event)
    except Unfit:
        return
    found = msgspec.json.decode(data, type=Rated)
    assert msgspec.json.encode(found) == data
    assert math.isfinite(found.average)
    assert found.best_ever == event.best_ever
    assert found.count == event.count


@settings(derandomize=True, deadline=None)
@given(loose_values)
def test_any_answer_becomes_json_without_a_loss_or_is_refused(value: object) -> None:
    try:
        data = json_of(value, "the reply")
    except Unfit as refused:
        assert str(refused).startswith("the reply")  # noqa: PT017 - an answer may as well be fine
        return
    assert b"NaN" not in data
    msgspec.json.decode(data)
