"""Pauses between tries."""

from datetime import UTC, datetime, timedelta

import pytest

from chimera.core.timing import Limits, Retention, Retry, Timing, pause_s


@pytest.mark.parametrize(
    ("failures", "pause"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (6, 5.0), (10_000, 5.0)]
)
def test_a_pause_doubles_with_each_failure_up_to_the_longest(failures: int, pause: float) -> None:
    assert pause_s(failures, first_s=0.5, longest_s=5.0) == pause


def test_a_first_pause_that_is_too_long_is_the_longest_and_none_stays_none() -> None:
    assert pause_s(1, first_s=9.0, longest_s=5.0) == 5.0
    assert pause_s(7, first_s=0.0, longest_s=5.0) == 0.0


@pytest.mark.parametrize(
    ("tries", "pause"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5, None), (6, None)], ids=lambda value: str(value)
)
def test_pauses_double_up_to_the_longest_and_then_it_is_a_persons_turn(tries: int, pause: float | None) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    due = Retry(tries=5, first_s=1.0, longest_s=5.0).due(tries, now)
    assert due == (None if pause is None else now + timedelta(seconds=pause))


def test_what_is_handed_in_can_not_be_changed_behind_somebodys_back() -> None:
    for settings, field in ((Timing(), "poll_s"), (Limits(), "flights"), (Retention(), "inbox_days")):
        with pytest.raises(AttributeError):
            setattr(settings, field, 1)
