"""`chimera advise`: which mode fits what a running service borrows, from the figures that the service counts itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
import msgspec
from rich.console import Console
from rich.table import Table

from chimera.core.names import share_type
from chimera.errors import SettingsError, Unavailable
from chimera.parts import MODES, Mode
from chimera.run.settings import Settings
from chimera_compare.exposition import counts

TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=1.0)
JOURNAL_PAGE = 1000

ENOUGH_READS = 50
"""Fewer borrowed reads than this in the time watched say nothing."""
ENOUGH_CHANGES = 3
"""The rate of fewer changes is known only as "at most": the time watched was too short for it."""
FAILING = 0.01
"""An owner fails if this share of the calls to it fails, or is not made because it kept failing."""
STALE = 0.05
"""It is too slow, or silent, if this share of the reads shows a last known value or a copy that may be too old."""
FEW_READS_PER_S = 5.0
"""Up to so many reads a second, asking costs the owner next to nothing."""
READS_PER_CHANGE = 10.0
"""With so many reads for each change, a copy moves far less than asking does."""
FEW_KNOWN = 0.5
"""Up to this share of keys with a document, to know the keys spares the owner half of the calls, or more."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one borrow, seen in `seconds`. Counts are of that time; `lag` is events, None if not known.

    `reads` by state; `calls` to the owner by outcome (answered, failed, timeout, spared). `changes` and `change_bytes`
    of the shared documents, from the owner's journal; None when it could not be asked.
    """

    mode: Mode
    seconds: float
    reads: Mapping[str, int]
    calls: Mapping[str, int]
    changes: int | None = None
    change_bytes: int = 0
    lag: int | None = None

    @property
    def all_reads(self) -> int:
        """The number of reads, in whatever state."""
        return sum(self.reads.values())

    @property
    def reads_per_s(self) -> float:
        """Reads a second."""
        return self.all_reads / self.seconds

    @property
    def made_calls(self) -> int:
        """Calls that were made; those spared were not."""
        return sum(self.calls.values()) - self.calls.get("spared", 0)

    @property
    def calls_per_page(self) -> float:
        """Calls made for each read."""
        return self.made_calls / max(1, self.all_reads)

    @property
    def known(self) -> float:
        """The share of reads whose key has a document, as far as the reads could tell."""
        return 1 - self.reads.get("absent", 0) / max(1, self.all_reads)

    @property
    def stale(self) -> float:
        """The share of reads that showed a stale value."""
        return self.reads.get("stale", 0) / max(1, self.all_reads)

    @property
    def failed(self) -> float:
        """The share of calls that failed, or were not made because others had."""
        failed = sum(self.calls.get(outcome, 0) for outcome in ("failed", "timeout", "spared"))
        return failed / max(1, sum(self.calls.values()))

    @property
    def changes_per_s(self) -> float | None:
        """Changes a second of the shared documents; None when the owner could not be asked."""
        return None if self.changes is None else self.changes / self.seconds

    @property
    def reads_per_change(self) -> float | None:
        """Reads for each change; at least so many, where no change was seen."""
        return None if self.changes is None else self.all_reads / max(1, self.changes)


class Criterion(NamedTuple):
    """When a mode fits, and why, in the words of the figures. `is_fresh` says whether reads must be as of now."""

    mode: Mode
    holds: Callable[[Figures, bool], bool]
    reason: Callable[[Figures], str]


RULES = (
    Criterion(
        "async",
        lambda seen, is_fresh: not is_fresh and seen.failed >= FAILING,
        lambda seen: (
            f"{seen.failed:.0%} of the calls to the owner failed or were not made because it kept failing; "
            "a copy answers without it"
        ),
    ),
    Criterion(
        "async",
        lambda seen, is_fresh: not is_fresh and seen.stale >= STALE,
        lambda seen: (
            f"{seen.stale:.0%} of the reads were stale: the owner is slower than the budget, or silent; "
            "a copy answers without it"
        ),
    ),
    Criterion(
        "hybrid",
        lambda seen, is_fresh: is_fresh and seen.known <= FEW_KNOWN,
        lambda seen: (
            f"reads must be as of now, and only {seen.known:.0%} of them have a document: "
            "the owner is asked for those alone"
        ),
    ),
    Criterion(
        "sync",
        lambda seen, is_fresh: is_fresh,
        lambda seen: (
            f"reads must be as of now, and {seen.known:.0%} of them have a document: "
            "to keep the known keys would spare the owner too little"
        ),
    ),
    Criterion(
        "sync",
        lambda seen, is_fresh: seen.reads_per_s <= FEW_READS_PER_S,
        lambda seen: (
            f"{seen.reads_per_s:.1f} reads a second cost the owner next to nothing, "
            "and show what it has at that moment, with nothing kept"
        ),
    ),
    Criterion(
        "async",
        lambda seen, is_fresh: seen.reads_per_change is not None and seen.reads_per_change >= READS_PER_CHANGE,
        lambda seen: (
            f"there are {seen.reads_per_change:.0f} reads or more for each change: "
            "a copy moves far less than asking does, and the owner is not asked at all"
        ),
    ),
    Criterion(
        "hybrid",
        lambda seen, is_fresh: seen.known <= FEW_KNOWN,
        lambda seen: (
            f"only {seen.known:.0%} of the reads have a document: the owner is asked for those alone, "
            + _without_copy(seen)
        ),
    ),
    Criterion(
        "sync",
        lambda seen, is_fresh: True,
        lambda seen: (
            f"{seen.known:.0%} of the reads have a document, so that to keep the known keys spares little, "
            + _without_copy(seen)
        ),
    ),
)
"""In order: the first that holds decides."""


def _without_copy(seen: Figures) -> str:
    if seen.reads_per_change is None:
        return "and how often it changes could not be learned, so nothing speaks for a copy"
    return f"and with {seen.reads_per_change:.1f} reads for each change a copy would be kept up mostly for nobody"


class Advice(NamedTuple):
    """Which mode fits, None where too little was seen to say; why; and what each mode would cost."""

    mode: Mode | None
    reasons: Sequence[str]
    costs: Mapping[Mode, str]


def advice(seen: Figures, *, is_fresh: bool = False) -> Advice:
    """The mode that the figures speak for. `is_fresh`: reads must show what the owner has at that moment."""
    if seen.all_reads < ENOUGH_READS:
        reason = (
            f"{seen.all_reads} borrowed reads in {seen.seconds:.0f} s are too few to say; "
            f"at least {ENOUGH_READS} are needed: watch for longer (--seconds), or when there is traffic"
        )
        return Advice(None, [reason], {})
    rule = next(rule for rule in RULES if rule.holds(seen, is_fresh))
    return Advice(rule.mode, [rule.reason(seen), *_remarks(seen, rule.mode)], _costs(seen))


def _remarks(seen: Figures, mode: Mode) -> list[str]:
    """The remarks to read before the mode is set."""
    remarks = []
    if mode == "async" and seen.lag is not None and seen.mode == "async":
        remarks.append(f"the copy is {seen.lag} events behind now")
    if mode == "async" and seen.changes is not None and seen.changes < ENOUGH_CHANGES:
        remarks.append(f"only {seen.changes} changes were seen in {seen.seconds:.0f} s; watch for longer to be sure")
    if mode != "async" and seen.failed >= FAILING:
        remarks.append(f"but {seen.failed:.0%} of the calls failed: pages show last known values meanwhile")
    if seen.mode == "sync" and seen.failed >= FAILING and seen.reads.get("absent"):
        remarks.append("while the owner fails, absent also means that it could not be asked")
    return remarks


def _costs(seen: Figures) -> dict[Mode, str]:
    """The cost of each mode at these figures; keys asked for, because calls for several keys at once are one."""
    asked, copying = seen.reads_per_s, _copying(seen)
    return {
        "sync": f"the owner is asked for up to {asked:.1f} keys/s; nothing is kept",
        "hybrid": f"the owner is asked for up to {asked * seen.known:.1f} keys/s; "
        f"the known keys are kept, from the same events ({copying})",
        "async": f"the owner is asked for nothing; the documents are kept ({copying}), and reads are as old as the lag",
    }


def _copying(seen: Figures) -> str:
    if seen.changes is None:
        return "how often they change is not known"
    at_most = "at most " if seen.changes < ENOUGH_CHANGES else ""
    rate = max(1, seen.changes) / seen.seconds if at_most else seen.changes / seen.seconds
    return f"{at_most}{rate:.2g} changes/s, {seen.change_bytes / seen.seconds:,.0f} B/s"


async def show_advice(
    settings: Settings, service: str, share: str | None, *, url: str | None, seconds: float, fresh: bool
) -> None:
    """Watch a running service, and print which mode fits each share that it borrows, or this one.

    Raises SettingsError for a borrow that it does not have, Unavailable when it does not answer.
    """
    settings.check_service(service)
    console = Console()
    async with aiohttp.ClientSession(timeout=TIMEOUT, headers=_shown(settings)) as session:
        at = await _address(session, settings, service, url)
        shares = [share] if share else list(await _borrows(session, at, service))
        if not shares:
            raise SettingsError(f"{service} borrows nothing")
        with Console(stderr=True).status(f"watching {service} at {at} for {seconds:g} s"):
            watched = await asyncio.gather(*(watch(session, settings, service, name, at, seconds) for name in shares))
    for name, seen in zip(shares, watched, strict=True):
        _print(console, service, name, seen, advice(seen, is_fresh=fresh))


async def watch(
    session: aiohttp.ClientSession, settings: Settings, service: str, share: str, at: str, seconds: float
) -> Figures:
    """The figures of a borrow in the next `seconds`, told by the service at `at` and the owner's journal."""
    borrows = await _borrows(session, at, service)
    if share not in borrows:
        raise SettingsError(f"{service} does not borrow {share!r}; it borrows: {', '.join(borrows) or 'nothing'}")
    owner = str(borrows[share]["owner"])
    owner_at = await _owner_address(session, settings, owner, at)
    heads = await _heads(session, owner, owner_at)
    before, start = await _text(session, f"{at}/metrics"), time.monotonic()
    await asyncio.sleep(seconds)
    after, end = await _text(session, f"{at}/metrics"), time.monotonic()
    changed = await _changes(session, owner, owner_at, share, heads)
    labels = {"service": service, "share": share}
    mode = borrows[share]["mode"]
    return Figures(
        mode=mode,
        seconds=end - start,
        reads=_difference("chimera_borrowed", "state", before, after, labels),
        calls=_difference("chimera_owner_calls", "outcome", before, after, labels),
        changes=None if changed is None else len(changed),
        change_bytes=sum(changed or ()),
        lag=await _lag(session, at, service, f"borrow.{share}.{mode}"),
    )


def _difference(counter: str, by: str, before: str, after: str, labels: Mapping[str, str]) -> dict[str, int]:
    """The counts of what came meanwhile. A process that was started again counts from 0: then all that it counted."""
    old, new = counts(before, counter, by, **labels), counts(after, counter, by, **labels)
    restarted = any(new[name] < count for name, count in old.items())
    return {name: count - (0 if restarted else old[name]) for name, count in new.items()}


def _shown(settings: Settings) -> dict[str, str]:
    """What an operator shows to be let in: the first of the operators' keys, where one is set."""
    keys = settings.operators.keys
    return {"Authorization": f"Bearer {keys[0]}"} if keys else {}


async def _address(session: aiohttp.ClientSession, settings: Settings, service: str, url: str | None) -> str:
    """The base URL at which the service answers: `url`, else the common port, else its own."""
    tried = [url.rstrip("/")] if url else [settings.base(service, fleet=fleet) for fleet in (False, True)]
    for base in dict.fromkeys(tried):
        try:
            await _json(session, f"{base}/_chimera/{service}/health/live")
        except Unavailable:
            continue
        return base
    raise Unavailable(
        f"{service} does not answer at {' or '.join(dict.fromkeys(tried))}; start it, or name where it runs with --url"
    )


async def _owner_address(session: aiohttp.ClientSession, settings: Settings, owner: str, at: str) -> str | None:
    """The base URL at which the owner answers: the service's, else as the settings say; None when it does not."""
    if owner in settings.services:
        for base in dict.fromkeys([at, settings.base(owner, fleet=False), settings.base(owner, fleet=True)]):
            try:
                await _json(session, f"{base}/_chimera/{owner}/health/live")
            except Unavailable:
                continue
            return base
    return None


async def _borrows(session: aiohttp.ClientSession, at: str, service: str) -> dict[str, dict[str, Any]]:
    found = await _json(session, f"{at}/_chimera/{service}/borrows")
    return {borrow["name"]: borrow for borrow in found["borrows"]}


async def _heads(session: aiohttp.ClientSession, owner: str, at: str | None) -> dict[str, int] | None:
    if at is None:
        return None
    try:
        return dict((await _json(session, f"{at}/_chimera/{owner}/heads"))["heads"])
    except Unavailable:
        return None


async def _changes(
    session: aiohttp.ClientSession, owner: str, at: str | None, share: str, heads: Mapping[str, int] | None
) -> list[int] | None:
    """The size of each document that changed since `heads`, in bytes; None when the owner can't be asked."""
    if at is None or heads is None:
        return None
    sizes: list[int] = []
    try:
        for partition, head in heads.items():
            after = head
            while True:
                query = f"partition={partition}&after={after}&limit={JOURNAL_PAGE}"
                events = (await _json(session, f"{at}/_chimera/{owner}/journal?{query}"))["events"]
                changed = (event["data"] for event in events if event["type"] == share_type(owner, share))
                sizes += [len(msgspec.json.encode(change["document"])) for change in changed]
                after += len(events)
                if not events:
                    break
    except Unavailable:
        return None
    return sizes


async def _lag(session: aiohttp.ClientSession, at: str, service: str, consumer: str) -> int | None:
    """The lag of a copy, in events; None where there is no copy, or nobody can tell."""
    status = await _json(session, f"{at}/_chimera/{service}/status")
    lags = [row["lag"] for row in status["consumers"] if row["consumer"] == consumer]
    return None if not lags or None in lags else sum(lags)


async def _json(session: aiohttp.ClientSession, address: str) -> Any:
    try:
        return msgspec.json.decode(await _text(session, address))
    except msgspec.DecodeError as error:
        raise Unavailable(f"{address} answered something else than JSON") from error


async def _text(session: aiohttp.ClientSession, address: str) -> str:
    """Raises Unavailable for anything but an answer with 200."""
    try:
        async with session.get(address) as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Unavailable(f"{address} can't be reached: {type(error).__name__} {error}") from error
    if response.status != 200:
        raise Unavailable(f"{address} answered {response.status}")
    return text


def _print(console: Console, service: str, share: str, seen: Figures, given: Advice) -> None:
    figures = Table("figure", "seen", title=f"{service} borrows {share}, now {seen.mode}")
    for name, value in _lines(seen):
        figures.add_row(name, value)
    console.print(figures)
    if given.costs:
        costs = Table("mode", "what it would cost at these figures")
        for mode in MODES:
            costs.add_row(mode, given.costs[mode])
        console.print(costs)
    verdict = "not enough was seen to say" if given.mode is None else f"{given.mode} fits"
    console.print(f"{share}: {verdict}", style="bold", markup=False, highlight=False)
    for reason in given.reasons:
        console.print(f"  - {reason}", markup=False, highlight=False)


def _lines(seen: Figures) -> list[tuple[str, str]]:
    changes = "not known" if seen.changes_per_s is None else f"{seen.changes_per_s:.2f} a second"
    return [
        ("borrowed reads", f"{seen.reads_per_s:.1f} a second"),
        ("absent", f"{1 - seen.known:.0%} of reads"),
        ("stale", f"{seen.stale:.0%} of reads"),
        ("owner calls", f"{seen.calls_per_page:.2f} a read"),
        ("failed or spared", f"{seen.failed:.0%} of calls"),
        ("changes", changes),
        ("the copy's lag", "no copy, or not known" if seen.lag is None else f"{seen.lag} events"),
    ]
