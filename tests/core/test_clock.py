"""Time and chance as they are handed in, and what is made of them."""

import re
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest

from chimera.core.clock import Clock, stamp_of

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)


class Fixed(Clock):
    """A clock at one moment, with bytes that are all the same."""

    def __init__(self, at: float, byte: int = 0) -> None:
        self.at = at
        self.byte = byte

    def time(self) -> float:
        return self.at

    def random_bytes(self, count: int) -> bytes:
        return bytes([self.byte]) * count


@pytest.mark.parametrize("byte", [0x00, 0x5A, 0xFF])
def test_an_id_is_a_uuid_of_version_7_whatever_the_chance_and_begins_with_the_time(byte: int) -> None:
    text = Fixed(MOMENT.timestamp(), byte).new_id()
    id_ = uuid.UUID(text)
    assert str(id_) == text
    assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
    assert id_.int >> 80 == int(MOMENT.timestamp() * 1000)


def test_ids_are_ordered_as_the_milliseconds_in_which_they_are_made() -> None:
    ids = [Fixed(1.0e9 + number / 1000, byte=255 - number).new_id() for number in range(200)]
    assert ids == sorted(ids)


def test_ids_of_one_moment_differ() -> None:
    clock = Clock()
    assert len({clock.new_id() for _ in range(1000)}) == 1000


def test_a_stamp_is_rfc_3339_in_utc_to_the_microsecond_and_ordered_as_time_is() -> None:
    assert Fixed(MOMENT.timestamp()).stamp() == stamp_of(MOMENT) == "2026-01-02T03:04:05.000006Z"
    assert stamp_of(MOMENT.replace(microsecond=0)) == "2026-01-02T03:04:05.000000Z"
    stamps = [stamp_of(MOMENT + timedelta(milliseconds=137 * number)) for number in range(100)]
    assert stamps == sorted(stamps)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", Clock().stamp())


def test_now_and_stamps_and_ids_follow_a_clock_that_is_handed_in() -> None:
    clock = Fixed(MOMENT.timestamp())
    assert clock.now() == MOMENT
    assert clock.now().tzinfo is UTC
    clock.at += 60
    assert clock.now() == MOMENT + timedelta(minutes=1)
    assert clock.stamp() == "2026-01-02T03:05:05.000006Z"


async def test_the_systems_clock_goes_on() -> None:
    clock = Clock()
    before, wall = clock.monotonic(), clock.time()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009
    assert clock.time() >= wall
    assert 0.0 <= clock.random() < 1.0
    assert len(clock.random_bytes(10)) == 10
    assert clock.now().astimezone(timezone(timedelta(hours=5))) <= datetime.now(UTC)
