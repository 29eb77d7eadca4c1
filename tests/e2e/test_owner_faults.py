"""An owner is killed, hangs, fails and talks nonsense under load: in no mode does a page of its borrower fail.

The same at half of the machine's capacity and for longer: `python -m benchmarks.owner_faults`.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.owner_faults import (
    FAULTS,
    MODES,
    SELLERS,
    Found,
    Mode,
    Scene,
    Times,
    Visit,
    run,
    scene,
)

TIMES = Times(fault=1.0, healthy=0.3, after=0.3, capacity=0.2)
RATE = 100.0
pytestmark = pytest.mark.slow


@pytest.fixture
async def where(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(tmp_path) as found:
        yield found


@pytest.mark.parametrize("mode", MODES)
async def test_no_page_fails_whatever_the_owner_does(where: Scene, mode: Mode) -> None:
    await where.borrow(mode)
    for fault in FAULTS:
        found = await run(where, mode, fault, TIMES, rate=RATE)
        said = f"{found.mode} {found.fault}"
        assert found.during, said
        assert {visit.status for visit in found.visits} == {200}, said
        assert all(visit.is_honest for visit in found.visits), said
        assert found.wrongly_fresh == 0, said
        if mode != "async":
            assert "stale" in {visit.state for visit in found.during}, said


FRESH_AGAIN = [Visit(21.0, 0.01, 200, "fresh", 2)] * SELLERS


def found(*visits: Visit, mode: Mode = "sync") -> Found:
    return Found(
        mode, "killed", 200.0, 100.0, 0.05, 5.0, struck=10.0, mended=20.0, back=20.0, visits=[*visits, *FRESH_AGAIN]
    )


def test_a_broken_promise_is_noticed() -> None:
    healthy, stale = Visit(1.0, 0.01, 200, "fresh", 2), Visit(12.0, 0.05, 200, "stale", 2)
    assert found(healthy, stale, Visit(20.5, 0.05, 200, "stale", 2)).broken == []
    assert found(healthy, stale._replace(status=503)).broken[0] == "1 pages failed"
    assert found(healthy, stale._replace(clients=0)).broken == ["1 pages say something else than they show"]
    assert found(healthy, stale._replace(state="fresh")).broken == ["1 pages call fresh what nobody can know"]
    assert found(healthy, stale._replace(state="fresh"), mode="async").broken == []
    assert found(healthy, stale._replace(seconds=0.07)).broken == ["p99 is 70.0 ms, beyond 60.0"]
    assert found(healthy, stale)._replace(visits=[healthy, stale]).broken == ["fresh again only after inf s"]
    late = [visit._replace(due=22.5) for visit in FRESH_AGAIN]
    slow = found(healthy, stale)._replace(visits=[healthy, stale, Visit(22.0, 0.5, 200, "stale", 2), *late])
    assert slow.broken == ["fresh again only after 2.5 s"]
