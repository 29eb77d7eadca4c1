"""What has to be reached on one core, and whether it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.harness import Row

LESS_IS_BETTER = ("us", "ms", "MB")
BROKERS = ("rabbitmq+mysql", "rabbitmq+mysql+mongodb", "kafka+mysql+mongodb", "kafka+postgresql")
SERVERS = ("postgresql", "mysql")


class Beside(NamedTuple):
    """Ours is so many times as good as a subject in the same case; on these engines, or wherever both were measured."""

    group: str
    case: str
    subject: str
    times: float
    engines: Sequence[str] = ()


class AtMost(NamedTuple):
    """Ours is not above a figure."""

    group: str
    case: str
    figure: float
    engines: Sequence[str] = ()


class Within(NamedTuple):
    """Ours in one case is so many times as good as ours in another."""

    group: str
    case: str
    other: str
    times: float
    engines: Sequence[str] = ()


GOALS: Sequence[Beside | AtMost | Within] = (
    Beside("reads", "view by key", "FastAPI + driver", 4),
    Beside("reads", "view by key", "FastAPI + SQLAlchemy", 8),
    Beside("reads", "view by key", "limit", 0.75),
    Beside("reads", "gig page, async", "FastAPI + SQLAlchemy", 4),
    Within("reads", "gig page, async", "view by key", 0.6),
    Beside("intake", "POST to 201", "FastAPI + aio-pika", 5),
    Beside("intake", "POST to 201", "limit", 0.7),
    Beside("write-head", "insert or update, and emit", "FastStream + SQLAlchemy", 12, SERVERS),
    Beside("write-head", "insert or update, and emit", "Celery, acks_late", 12, SERVERS),
    Beside("write-head", "insert or update, and emit", "limit", 0.6, SERVERS),
    Beside("write-head", "insert or update, and emit", "limit, from log to log", 0.6, SERVERS),
    Beside("projection", "fold events", "eventsourcing", 80),
    Beside("projection", "fold events", "an upsert per event", 80, ("postgresql", "redis")),
    Beside("projection", "fold events", "limit", 0.5, ("postgresql", "redis")),
    Beside("end-to-end", "commit to visible, idle, p50", "FastStream + outbox polling", 1),
    AtMost("end-to-end", "commit to visible, idle, p99", 20, ("embedded",)),
    AtMost("end-to-end", "commit to visible, idle, p99", 50, BROKERS),
    Within("growth", "dashboard of 1,000,000 orders", "dashboard of 1,000 orders", 1 / 1.1),
    *(
        Within("lists", f"{what}, of 1,000,000, p50", f"{what}, of 1,000, p50", 1 / 1.2)
        for what in ("page, all", "page, an author's", "marketplace, search")
    ),
    AtMost("kit", "100 tests, the process", 3_000, ("memory",)),
    AtMost("kit", "100 tests, one by running, p50", 20, ("memory",)),
    Beside("costs", "write head", "without a chain", 0.97),
    Beside("costs", "projection", "without a chain", 0.97),
    Beside("costs", "write head, sealed", "without keys", 0.95),
    Beside("costs", "projection, sealed", "without keys", 0.95),
    Beside("costs", "intake", "no rule", 0.95),
    AtMost("footprint", "import", 150),
    AtMost("footprint", "memory when idle", 60),
)


def judged(rows: Sequence[Row]) -> str:
    """The goals whose cases were measured, as Markdown."""
    lines = ["| group | case | engine | goal | found | reached |", "|---|---|---|---|--:|---|"]
    for goal in GOALS:
        for engine, wanted, found, reached in _judge(goal, rows):
            mark = "yes" if reached else "**no**"
            lines.append(f"| {goal.group} | {goal.case} | {engine} | {wanted} | {found} | {mark} |")
    return "\n".join(lines)


def _judge(goal: Beside | AtMost | Within, rows: Sequence[Row]) -> Iterator[tuple[str, str, str, bool]]:
    for row in rows:
        if (row.group, row.case, row.subject) != (goal.group, goal.case, "chimera"):
            continue
        if goal.engines and row.engine not in goal.engines:
            continue
        match goal:
            case AtMost(figure=figure):
                wanted = f"at most {figure:g} {row.unit}"
                yield row.engine, wanted, f"{row.median:.3g} {row.unit}", row.median <= figure
            case Beside(subject=subject, times=times) | Within(other=subject, times=times):
                case, who = (goal.case, subject) if isinstance(goal, Beside) else (subject, "chimera")
                other = next((each for each in rows if _is(each, goal.group, case, row.engine, who)), None)
                if other is not None and row.median and other.median:
                    found = times_as_good(row, other)
                    yield row.engine, f"{times:.2g} x {subject}", f"{found:.2f}", found >= times


def _is(row: Row, group: str, case: str, engine: str, subject: str) -> bool:
    return (row.group, row.case, row.engine, row.subject) == (group, case, engine, subject)


def times_as_good(row: Row, other: Row) -> float:
    """How many times as good a row is as another: as quick, as small."""
    return other.median / row.median if row.unit in LESS_IS_BETTER else row.median / other.median
