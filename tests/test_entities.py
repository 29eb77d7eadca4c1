"""Entities are rows with typed columns."""

import enum
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import ChimeraError, DeclarationError, Entity, Unique
from chimera.entities import InColumn, family_of, table_of, to_utc
from chimera.errors import Unfit
from chimera.unique import digest_under


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Part(msgspec.Struct):
    name: str
    count: int = 0


class Everything(Entity, key=("text", "whole"), table="everything"):
    text: str
    whole: Annotated[int, msgspec.Meta(ge=0)]
    real: float
    flag: bool
    raw: bytes
    moment: datetime
    day: date
    price: Decimal
    colour: Colour
    level: Level
    stage: Literal["new", "old"]
    parts: list[Part]
    either: int | str
    maybe: str | None = None
    maybe_moment: datetime | None = None
    maybe_parts: list[Part] | None = None


class Simple(Entity, key="name"):
    name: str


class Keyless(Entity):
    name: str


def test_every_field_has_the_column_that_people_expect() -> None:
    table = table_of(Everything)
    assert table.name == "everything"
    assert table.key == ("text", "whole")
    assert {column.name: (column.kind, column.optional) for column in table.columns} == {
        "text": ("text", False),
        "whole": ("integer", False),
        "real": ("real", False),
        "flag": ("boolean", False),
        "raw": ("bytes", False),
        "moment": ("time", False),
        "day": ("text", False),
        "price": ("text", False),
        "colour": ("text", False),
        "level": ("integer", False),
        "stage": ("text", False),
        "parts": ("json", False),
        "either": ("json", False),
        "maybe": ("text", True),
        "maybe_moment": ("time", True),
        "maybe_parts": ("json", True),
    }


def test_without_a_name_the_table_is_called_after_the_class() -> None:
    assert table_of(Simple).name == "simple"


moments = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
parts = st.lists(st.builds(Part, st.text(max_size=3), st.integers(-5, 5)), max_size=3)
everything = st.builds(
    Everything, st.text(), st.integers(0, 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.binary(), moments,
    st.dates(), st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from(Colour), st.sampled_from(Level),
    st.sampled_from(["new", "old"]), parts, st.integers(-5, 5) | st.text(max_size=3), st.none() | st.text(),
    st.none() | moments, st.none() | parts,
)  # fmt: skip


@settings(derandomize=True, deadline=None)
@given(everything)
def test_an_entity_comes_back_from_its_row_as_it_was(entity: Everything) -> None:
    table = table_of(Everything)
    row = table.to_row(entity)
    assert table.from_row(row) == entity
    assert table.key_of(row) == (entity.text, entity.whole)
    assert all(value is None or isinstance(value, (str, int, float, bool, bytes, datetime)) for value in row)


@pytest.mark.parametrize(
    ("moment", "utc"),
    [
        (datetime(2026, 1, 1, 12), datetime(2026, 1, 1, 12, tzinfo=UTC)),  # noqa: DTZ001
        (datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))), datetime(2026, 1, 1, 10, tzinfo=UTC)),
    ],
)
def test_times_are_kept_in_utc(moment: datetime, utc: datetime) -> None:
    assert to_utc(moment) == utc
    assert to_utc(moment).tzinfo is UTC


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])  # noqa: DTZ901
def test_a_time_outside_the_years_1_to_9999_is_refused(moment: Any) -> None:
    shift = timezone(timedelta(hours=14 if moment.year == 1 else -14))
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        to_utc(moment.replace(tzinfo=shift))


def test_an_entity_without_a_key_is_refused_with_how_to_declare_one() -> None:
    with pytest.raises(DeclarationError, match=r'class Keyless\(Entity, key="…"\)'):
        table_of(Keyless)


class Named(Entity, key="name", kw_only=True):
    name: str
    size: int = 1
    tags: tuple[str, ...] = ()


def test_fields_that_are_given_by_name_only_come_back_from_a_row() -> None:
    table = table_of(Named)
    kept = Named(name="a", size=3, tags=("x",))
    assert table.from_row(table.to_row(kept)) == kept
    assert table.key_of(table.to_row(kept)) == ("a",)


class Guest(Entity, key="name", unique=[Unique("email", normalise=str.casefold), ("hall", "seat")]):
    name: str
    email: str
    hall: str = ""
    seat: int | None = None


def test_a_value_is_reserved_by_the_digest_that_earlier_releases_made() -> None:
    email, seat = table_of(Guest).rules
    assert (email.name, email.probe, seat.name, seat.probe) == (
        "guest(email)",
        "4ee6c8456a6bb9a9",
        "guest(hall,seat)",
        "",
    )
    row = table_of(Guest).to_row(Guest("ann", "Ann@x", "a", 7))
    assert (email.digest_of(row), seat.digest_of(row)) == (
        "cc9b334f95c668d435812558d8d5bf216ac27e3e",
        "20256418c9264ad867e388a851dd2460300b1134",
    )
    assert email.digest_of(row) == email.digest_by({"email": "aNN@X"})
    assert seat.digest_of(table_of(Guest).to_row(Guest("ann", "", "a"))) == ""
    assert digest_under("seat", ("a", 7)) == "c46e316b714e89d07c820e7b2b728059a32219fd"


def test_what_can_not_be_reserved_is_refused() -> None:
    with pytest.raises(Unfit, match="a value of seat can't be reserved"):
        digest_under("seat", 1.5)  # type: ignore[arg-type]
    with pytest.raises(Unfit, match="a value of seat can't be reserved"):
        digest_under("seat", "\ud800")
    with pytest.raises(ChimeraError, match=r"can't name what is reserved; use up to 100 letters"):
        digest_under("users(email)", "a")
    with pytest.raises(ChimeraError, match=r"guest is not unique by name; it is by: email; hall, seat"):
        table_of(Guest).rule_of({"name": "ann"})


class Order(Entity, key="ref", table="shop_order", unique=[("mail",)]):
    ref: Annotated[str, InColumn("id", "uuid")]
    mail: Annotated[str | None, InColumn("email_address", "VARCHAR(5)")]
    price: Annotated[Decimal, InColumn(sql="numeric(4,2)")] = Decimal(0)
    paid: Annotated[bool, InColumn("is_paid")] | None = None


def test_a_field_is_in_the_column_that_is_declared_for_it() -> None:
    table = table_of(Order)
    assert [column.name for column in table.columns] == ["id", "email_address", "price", "is_paid"]
    assert [column.family for column in table.columns] == ["uuid", "varchar", "numeric", ""]
    assert [column.optional for column in table.columns] == [False, True, False, True]
    assert (table.key, table.rules[0].name) == (("id",), "shop_order(email_address)")
    order = Order("00000000-0000-0000-0000-00000000000A", "a@x", Decimal("1.5"))
    row = table.to_row(order)
    assert row == ("00000000-0000-0000-0000-00000000000a", "a@x", "1.50", None)
    assert table.from_row(row) == msgspec.structs.replace(order, ref=row[0])
    assert table.key_for((order.ref,)) == table.key_of(row) == (row[0],)
    assert table.where({"mail": ["a@x", None], "price": Decimal(1)}) == {
        "email_address": ["a@x", None],
        "price": ["1.00"],
    }
    with pytest.raises(ChimeraError, match="shop_order has no id; it has: mail, paid, price, ref"):
        table.where({"id": "a"})


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (Order("no", None), "'no' is no UUID"),
        (Order(f"{UUID(int=1)}", "longer"), r"mail has 6 characters: its column is VARCHAR\(5\)"),
        (Order(f"{UUID(int=1)}", None, Decimal("0.001")), r"price can't hold 0.001: its column is numeric\(4,2\)"),
        (Order(f"{UUID(int=1)}", None, Decimal("100.00")), "price can't hold 100.00"),
        (Order(f"{UUID(int=1)}", None, Decimal("NaN")), "price can't hold NaN"),
    ],
)
def test_what_does_not_fit_its_column_is_refused_before_it_is_written(order: Order, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        table_of(Order).to_row(order)


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (Annotated[int, InColumn(sql="varchar(5)")], "Wrong.field can't be in a column of type 'varchar.*: integer"),
        (Annotated[Decimal, InColumn(sql="money")], "'money'; what holds it is: numeric, varchar, char, text"),
        (Annotated[list[int], InColumn(sql="integer[]")], "json, jsonb, text"),
    ],
)
def test_a_type_that_can_not_hold_a_field_is_refused(annotation: Any, says: str) -> None:
    made: Any = type("Wrong", (Entity,), {"__annotations__": {"name": str, "field": annotation}}, key="name")
    with pytest.raises(DeclarationError, match=says):
        table_of(made)


@pytest.mark.parametrize(
    ("sql", "family"),
    [
        ("character varying(20)", "varchar"),
        ("timestamp(6) with time zone", "timestamptz"),
        ("TIMESTAMP", "timestamp"),
        ("datetime(6)", "timestamp"),
        ("double precision", "real"),
        ("bigint unsigned", "integer"),
        ("int(11)", "integer"),
        ("citext", ""),
    ],
)
def test_a_type_is_known_whatever_it_is_called(sql: str, family: str) -> None:
    assert family_of(sql) == family
