"""From pages to figures: one row for each way and each share of known keys."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from chimera_compare.ledger import WriteLedger
from chimera_compare.plan import LoadPlan, Way

OK = 200


class Answer(NamedTuple):
    """A page that was asked for: when it was to be asked for and when it was answered, in monotonic seconds."""

    key: str
    due: float
    done: float
    status: int
    body: bytes


class SeenPage(msgspec.Struct):
    """Of a page, what matters here (see `Shown`). Without a version it shows no document."""

    certain: bool = False
    version: int | None = None


class Counted(msgspec.Struct):
    """The counts of a borrower in the measured time. Sizes are bytes of JSON and keys, without what carries them.

    `calls` reached for the owner, `spared` were not made because it kept failing. `event_bytes` are documents that came
    in share events, `copied_bytes` those that were copied, `answer_bytes` documents that the owner answered with.
    """

    calls: int = 0
    spared: int = 0
    asked_keys: int = 0
    answer_bytes: int = 0
    event_bytes: int = 0
    copied_bytes: int = 0


class Row(msgspec.Struct, kw_only=True):
    """The figures of one way at one share of known keys. None: there was no such page.

    Shares are from 0 to 1. `availability`: pages answered with 200 in time. `data_availability`: those among them that
    knew what to show, a document (however stale) or that the owner has none. `document_availability`: of the pages
    whose key has a document, those that showed it in time. `trouble_…`: the same, of the pages asked for during the
    trouble. A page's staleness is the time since the owner committed the oldest version that it lacks, 0 if it lacks
    none; pages without a document have none.
    """

    mode: Way
    known: float
    pages: int
    availability: float | None
    data_availability: float | None
    document_availability: float | None
    trouble_availability: float | None
    trouble_data_availability: float | None
    trouble_document_availability: float | None
    page_p50_ms: float | None
    page_p99_ms: float | None
    owner_calls_per_page: float
    owner_keys_per_page: float
    spared_calls_per_page: float
    copied_bytes_per_s: float
    event_bytes_per_s: float
    answer_bytes_per_s: float
    staleness_p50_ms: float | None
    staleness_p99_ms: float | None
    staleness_max_ms: float | None


def row_of(
    plan: LoadPlan,
    way: Way,
    known: float,
    answers: Sequence[Answer],
    counted: Counted,
    ledger: WriteLedger,
    start: float,
) -> Row:
    """The figures of one run that began at `start`."""
    known_keys = frozenset(plan.known_keys(known))
    seen = [_seen(plan, answer) for answer in answers]
    begin, end = (start + at for at in plan.trouble_window)
    in_trouble = [index for index, answer in enumerate(answers) if begin <= answer.due < end]
    with_document = [index for index, answer in enumerate(answers) if answer.key in known_keys]
    answered = [index for index, page in enumerate(seen) if page is not None]
    certain = [index for index, page in enumerate(seen) if page is not None and page.certain]
    shown = [index for index, page in enumerate(seen) if page is not None and page.version is not None]
    waited = [answer.done - answer.due for answer in answers if answer.status == OK]
    stale = [
        ledger.staleness(answer.key, page.version, answer.done)
        for answer, page in zip(answers, seen, strict=True)
        if page is not None and page.version is not None
    ]
    pages = max(1, len(answers))
    return Row(
        mode=way,
        known=known,
        pages=len(answers),
        availability=_share(answered, range(len(answers))),
        data_availability=_share(certain, range(len(answers))),
        document_availability=_share(shown, with_document),
        trouble_availability=_share(answered, in_trouble),
        trouble_data_availability=_share(certain, in_trouble),
        trouble_document_availability=_share(shown, set(with_document) & set(in_trouble)),
        page_p50_ms=_ms(percentile(waited, 0.5)),
        page_p99_ms=_ms(percentile(waited, 0.99)),
        owner_calls_per_page=round(counted.calls / pages, 4),
        owner_keys_per_page=round(counted.asked_keys / pages, 4),
        spared_calls_per_page=round(counted.spared / pages, 4),
        copied_bytes_per_s=round(counted.copied_bytes / plan.seconds, 1),
        event_bytes_per_s=round(counted.event_bytes / plan.seconds, 1),
        answer_bytes_per_s=round(counted.answer_bytes / plan.seconds, 1),
        staleness_p50_ms=_ms(percentile(stale, 0.5)),
        staleness_p99_ms=_ms(percentile(stale, 0.99)),
        staleness_max_ms=_ms(max(stale, default=None)),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values don't exceed (nearest rank); None of no values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def _seen(plan: LoadPlan, answer: Answer) -> SeenPage | None:
    """The answered page; None for one that was not answered in time."""
    if answer.status != OK or answer.done - answer.due > plan.deadline:
        return None
    return msgspec.json.decode(answer.body, type=SeenPage)


def _share(part: Iterable[int], whole: Collection[int]) -> float | None:
    """Which share of `whole` is in `part` too."""
    wanted = set(whole)
    return round(len(wanted & set(part)) / len(wanted), 4) if wanted else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
