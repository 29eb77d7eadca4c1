"""Entities are rows with typed columns."""

import enum
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera import ChimeraError, DeclarationError, Entity, Unique
from chimera.entities import table_of, to_utc
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
