"""What a process hands over to its relay after a commit."""

from chimera.core.aio.handover import HandOver
from chimera.messages import Message


def event(partition: int, number: int, data: bytes = b"{}") -> Message:
    return Message(f"s/{partition}@{number}", "s", "s.Happened", "k", "", data, partition, number)


def numbers(handed: HandOver, at: dict[int, int]) -> list[tuple[int, int]]:
    return [(each.partition, each.number) for each in handed.take(at)]


def test_events_come_once_in_order_by_partition() -> None:
    handed = HandOver()
    handed.keep([0, 1])
    handed.give([event(0, 4), event(1, 1), event(0, 5)])
    assert numbers(handed, {0: 3, 1: 0}) == [(0, 4), (0, 5), (1, 1)]
    assert numbers(handed, {0: 3, 1: 0}) == []


def test_what_follows_a_hole_waits_until_it_is_filled_or_passed() -> None:
    handed = HandOver()
    handed.keep([0])
    handed.give([event(0, 3)])
    assert numbers(handed, {0: 1}) == []
    handed.give([event(0, 2)])
    assert numbers(handed, {0: 1}) == [(0, 2), (0, 3)]
    handed.give([event(0, 5)])
    assert numbers(handed, {0: 7}) == []
    assert numbers(handed, {0: 4}) == []


def test_partitions_of_other_relays_are_not_kept_and_no_more_than_a_page_of_ones_own() -> None:
    handed = HandOver(most=50)
    handed.give([event(0, 1)])
    handed.keep([0])
    handed.give([event(1, 1), *(event(0, number) for number in range(1, 60))])
    assert len(numbers(handed, {0: 0, 1: 0})) == 50
    handed.keep([])
    handed.give([event(0, 1)])
    handed.keep([0])
    assert numbers(handed, {0: 0}) == []


def test_what_is_kept_is_bounded_by_its_bytes_and_what_was_taken_or_passed_makes_room() -> None:
    handed = HandOver(most_bytes=100)
    handed.keep([0])
    for first in range(1, 40, 4):
        handed.give(event(0, number, b"x" * 40) for number in range(first, first + 4))
        assert numbers(handed, {0: first - 1}) == [(0, first), (0, first + 1)]
        handed.give([event(0, first + 2, b"x" * 90)])
        assert numbers(handed, {0: first + 2}) == []
