"""A switch: what a head knows of a setting, and when every head follows it."""

import asyncio

import pytest

from chimera import Unavailable
from chimera.core.clock import Clock
from chimera.views.switch import Follower, Seen, Settling


class Told(Clock):
    """A clock that says what it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Kept:
    """A setting that is kept somewhere, where reading it takes until `open` is set."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self.open = asyncio.Event()
        self.open.set()
        self.is_down = False
        self.reads = 0
        self.reading = 0
        self.most_at_once = 0

    async def read(self) -> str:
        if self.is_down:
            raise Unavailable("the setting can't be read")
        found, gate = self.setting, self.open
        self.reads, self.reading = self.reads + 1, self.reading + 1
        self.most_at_once = max(self.most_at_once, self.reading)
        await gate.wait()
        self.reading -= 1
        return found

    def hold(self) -> asyncio.Event:
        """Let what is read from now on wait for this."""
        self.open = asyncio.Event()
        return self.open


@pytest.fixture
def clock() -> Told:
    return Told()


@pytest.fixture
def kept() -> Kept:
    return Kept("old")


async def turn() -> None:
    """Let everything go on that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_before_the_first_look_a_head_knows_what_it_was_given_and_has_not_looked(clock: Told, kept: Kept) -> None:
    follower = Follower(kept.read, "declared", clock)
    assert follower.latest.setting == "declared"
    assert not follower.looked_within(1_000_000.0)


async def test_a_look_is_as_old_as_its_beginning(clock: Told, kept: Kept) -> None:
    follower, gate = Follower(kept.read, "declared", clock), kept.hold()
    looked = asyncio.ensure_future(follower.look())
    await turn()
    clock.now_s = 103.0
    assert not follower.looked_within(1_000_000.0)
    gate.set()
    assert await looked == follower.latest == Seen(100.0, "old")
    assert follower.looked_within(3.0)
    assert not follower.looked_within(2.9)


async def test_who_looks_at_the_same_time_looks_once(clock: Told, kept: Kept) -> None:
    follower = Follower(kept.read, "declared", clock)
    assert await asyncio.gather(*(follower.look() for _ in range(5))) == [Seen(100.0, "old")] * 5
    assert kept.reads == 1


async def test_who_looks_while_a_look_is_under_way_sees_what_is_set_from_then_on_and_no_two_read_at_once(
    clock: Told, kept: Kept
) -> None:
    follower, gate = Follower(kept.read, "declared", clock), kept.hold()
    early = asyncio.ensure_future(follower.look())
    await turn()
    kept.setting, clock.now_s = "new", 101.0
    late = [asyncio.ensure_future(follower.look()) for _ in range(3)]
    await turn()
    assert kept.reads == 1
    gate.set()
    assert (await early).setting == "old"
    assert [(await each).setting for each in late] == ["new"] * 3
    assert (kept.reads, kept.most_at_once) == (2, 1)


async def test_a_look_that_comes_late_does_not_replace_a_newer_one(clock: Told, kept: Kept) -> None:
    follower = Follower(kept.read, "declared", clock, concurrency=4)
    first_gate = kept.hold()
    first = asyncio.ensure_future(follower.look())
    await turn()
    kept.setting, clock.now_s = "new", 101.0
    kept.hold().set()
    assert await follower.look() == Seen(101.0, "new")
    first_gate.set()
    assert await first == Seen(100.0, "old")
    assert follower.latest == Seen(101.0, "new")
    assert kept.most_at_once == 2


async def test_a_look_that_fails_is_told_and_leaves_what_was_known(clock: Told, kept: Kept) -> None:
    follower = Follower(kept.read, "declared", clock)
    await follower.look()
    clock.now_s, kept.is_down = 105.0, True
    with pytest.raises(Unavailable):
        await follower.look()
    assert follower.latest == Seen(100.0, "old")
    assert not follower.looked_within(4.9)
    kept.is_down = False
    assert await follower.look() == Seen(105.0, "old")


async def test_who_gives_up_a_look_does_not_stop_it_for_others(clock: Told, kept: Kept) -> None:
    follower, gate = Follower(kept.read, "declared", clock), kept.hold()
    impatient, patient = (asyncio.ensure_future(follower.look()) for _ in range(2))
    await turn()
    impatient.cancel()
    await turn()
    gate.set()
    assert await patient == follower.latest == Seen(100.0, "old")


def test_every_head_follows_a_setting_once_it_has_been_the_same_for_longer_than_that_takes(clock: Told) -> None:
    settling: Settling[str] = Settling(2.0, clock)
    assert not settling.see("old")
    clock.now_s = 102.0
    assert not settling.see("old")
    clock.now_s = 102.1
    assert settling.see("old")
    clock.now_s = 200.0
    assert settling.see("old")


def test_another_setting_begins_anew_also_one_that_was_there_before(clock: Told) -> None:
    settling: Settling[str] = Settling(2.0, clock)
    settling.see("old")
    clock.now_s = 110.0
    assert not settling.see("new")
    clock.now_s = 111.0
    assert not settling.see("old")
    clock.now_s = 113.0
    assert not settling.see("old")
    clock.now_s = 113.1
    assert settling.see("old")


def test_a_setting_counts_from_when_it_was_seen_however_long_nothing_was(clock: Told) -> None:
    settling: Settling[str] = Settling(2.0, clock)
    clock.now_s = 200.0
    assert not settling.see("old")
