"""What a process hands over to its relay after a commit."""

import pytest

from chimera import commits as module
from chimera.commits import MOST, Commits
from chimera.messages import Message


def event(partition: int, number: int, data: bytes = b"{}") -> Message:
    return Message(f"s/{partition}@{number}", "s", "s.Happened", "k", "", data, partition, number)


def numbers(commits: Commits, at: dict[int, int]) -> list[tuple[int, int]]:
    return [(each.partition, each.number) for each in commits.take(at)]


def test_events_come_once_in_order_by_partition() -> None:
    commits = Commits()
    commits.keep([0, 1])
    commits.give([event(0, 4), event(1, 1), event(0, 5)])
    assert numbers(commits, {0: 3, 1: 0}) == [(0, 4), (0, 5), (1, 1)]
    assert numbers(commits, {0: 3, 1: 0}) == []


def test_what_follows_a_hole_waits_until_it_is_filled_or_passed() -> None:
    commits = Commits()
    commits.keep([0])
    commits.give([event(0, 3)])
    assert numbers(commits, {0: 1}) == []
    commits.give([event(0, 2)])
    assert numbers(commits, {0: 1}) == [(0, 2), (0, 3)]
    commits.give([event(0, 5)])
    assert numbers(commits, {0: 7}) == []
    assert numbers(commits, {0: 4}) == []


def test_partitions_of_other_relays_are_not_kept_and_no_more_than_a_page_of_ones_own() -> None:
    commits = Commits()
    commits.give([event(0, 1)])
    commits.keep([0])
    commits.give([event(1, 1), *(event(0, number) for number in range(1, MOST + 10))])
    assert len(numbers(commits, {0: 0, 1: 0})) == MOST
    commits.keep([])
    commits.give([event(0, 1)])
    commits.keep([0])
    assert numbers(commits, {0: 0}) == []


def test_what_is_kept_is_bounded_by_its_bytes_and_what_was_taken_or_passed_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    commits = Commits()
    commits.keep([0])
    for first in range(1, 40, 4):
        commits.give(event(0, number, b"x" * 40) for number in range(first, first + 4))
        assert numbers(commits, {0: first - 1}) == [(0, first), (0, first + 1)]
        commits.give([event(0, first + 2, b"x" * 90)])
        assert numbers(commits, {0: first + 2}) == []
