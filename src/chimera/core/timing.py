"""Every interval, limit and retry of a process, handed in. A test sets a value; production takes what stands here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec

Days = Annotated[float, msgspec.Meta(ge=0, le=36_500)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals, all in seconds.

    The write head. `collect_s`: what a small batch of commands waits for more. `redrive_s`: between two looks for
    parked messages that are due. `restart_first_s`, `restart_longest_s`: the pause before a work that failed is done
    again. `lease_s`: how long a dead worker's partitions lie idle. `audit_s`: between two audits of a share or a copy,
    0 for none. `finish_s`: what may still be finished once it is to stop. `handler_s`: a handler's limit where no other
    is set. `quick_s`: what a handler may keep others waiting that share its transaction, `quick_store_s` while it waits
    for the store; then it goes on alone. `let_go_s`: what such a one may hold the store without using it. `stands_s`:
    what has failed for so long stands still, and status and readiness say so. `stuck_s`: what has neither moved nor
    failed for so long, with something to do, hangs, and liveness says so.

    The journal. `heads_s`: between two comparisons of a feed with its owner's heads. `heads_kept_s`: how long heads are
    shared within a process. `refetch_s`: the pause before missing events are asked for again.
    `relayed_s`: between two writes of the relay's checkpoint.

    Switches (a borrow's mode, a view's generation). `switch_look_s`: between two looks of a read head at the setting.
    `switch_valid_s`: after a look, a read must be over within this time. `switch_settle_s`: then every read head has
    seen a setting and finished what it read before, budgets apart. `switch_grace_s`: then nothing reads any more what
    is not in force; it may be dropped. `enter_s`: what a read head waits at most for a new generation to have what the
    old one had. `keep_s`: between two looks of a write head at what it is to keep. `meet_s`: what a copy or generation
    is given to reach where the other side was. `alone_s`: for so long all write heads must run the same code before
    what only others ran is given up.

    Borrowing. `call_s`: what a call to an owner takes at most, however small the budget. `absent_s`: how long it is
    believed that a key has no document. `bootstrap_s`: between two tries to fill a copy. `ask_s`: what asking an owner
    for its heads may take meanwhile.

    The read head. `after_s`: what a read waits at most for `Chimera-After`. `drain_s`: what is taken in may take that
    long to finish at the end. `reuse_s`: how long a process knows an Idempotency-Key without the inbox. `reuse_look_s`:
    what a command waits for the inbox because of its key. `check_s`: what the engines may take to show that they are
    ready.

    Retention. `trim_s`: between two looks at what is old in the store; `trim_log_s`: in the log. `trim_pause_s`:
    between two transactions. `floors_s`: how long the consumers' checkpoints are believed. `report_s`: between two
    words to another service of where its consumers are.

    Quiet. What rarely changes is looked at in growing pauses while it does not: up to `quiet_s` where changes are told
    (see `ports.Wakes`), else up to `untold_s`. `heads_quiet_s`: the same for the heads of other services.

    Personal values. `subject_keys_s`: how long a process knows a key. `rewrap_s`: between two looks for keys that an
    older master key has wrapped, and for persons who are being forgotten.

    The command line. `watch_s`: between two looks at what is waited for. `idle_s`: when nobody has worked on it for so
    long, that is said.
    """

    collect_s: float = 0.005
    redrive_s: float = 0.5
    restart_first_s: float = 0.05
    restart_longest_s: float = 5.0
    lease_s: float = 3.0
    audit_s: float = 600.0
    finish_s: float = 3.0
    stands_s: float = 10.0
    stuck_s: float = 300.0
    handler_s: float = 10.0
    quick_s: float = 0.005
    quick_store_s: float = 0.25
    let_go_s: float = 0.005

    heads_s: float = 1.0
    heads_kept_s: float = 0.5
    refetch_s: float = 0.2
    relayed_s: float = 1.0

    switch_look_s: float = 0.5
    switch_valid_s: float = 0.75
    switch_settle_s: float = 1.0
    switch_grace_s: float = 2.0
    enter_s: float = 2.0
    keep_s: float = 0.25
    meet_s: float = 0.25
    alone_s: float = 3.0

    call_s: float = 1.0
    absent_s: float = 0.2
    bootstrap_s: float = 2.0
    ask_s: float = 5.0

    after_s: float = 2.0
    drain_s: float = 3.0
    reuse_s: float = 60.0
    reuse_look_s: float = 0.25
    check_s: float = 5.0

    trim_s: float = 30.0
    trim_log_s: float = 600.0
    trim_pause_s: float = 0.002
    floors_s: float = 1.0
    report_s: float = 10.0

    quiet_s: float = 45.0
    untold_s: float = 2.0
    heads_quiet_s: float = 5.0

    watch_s: float = 0.1
    idle_s: float = 10.0

    subject_keys_s: float = 10.0
    rewrap_s: float = 3600.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that is done, stored or held at once.

    `commands_page`, `events_page`: records of a log in one batch. `journal_page`: events asked of a journal at once.
    `parked_page`: parked events read or folded again at once; `parked_line`: those of one key that a view parks.
    `waiting_commands`, `held_bytes`: commands taken in that are not answered yet, and their bodies. `reuse_keys`,
    `reuse_looks`: Idempotency-Keys known without the inbox, and lookups in it under way. `flights`: keys that wait for
    an owner. `absent_keys`: keys believed to have no document. `ahead_keys`: keys that were shown as their owner has
    them, before the copy has it. `keeps`: answers that wait to be remembered as last known. `apart`: handlers of a
    consumer that run alone at once. `audit_keys`: keys of a copy held at once while it is compared. `trim_page`: rows
    of a transaction that drops what is old. `subject_keys`: keys of personal values that a process knows.
    """

    commands_page: int = 500
    events_page: int = 2_000
    journal_page: int = 500
    parked_page: int = 500
    parked_line: int = 100_000
    waiting_commands: int = 20_000
    held_bytes: int = 64 << 20
    reuse_keys: int = 10_000
    reuse_looks: int = 2_000
    flights: int = 10_000
    absent_keys: int = 50_000
    ahead_keys: int = 50_000
    keeps: int = 1_000
    apart: int = 200
    audit_keys: int = 50_000
    trim_page: int = 500
    subject_keys: int = 10_000


class Doors(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The limits of a process's HTTP side.

    Times, in seconds; whoever takes longer is answered 408, or closed where nothing was asked. `idle_s`: a connection
    without a request. `head_s`: from a request's first byte until its head is there. `body_s`: then until its body is,
    and as long again where 512 KiB of it came in that time. `answer_s`: a client that takes no byte of its answer.

    Numbers; whoever comes beyond them is answered 503 with Retry-After. `connections`: open ones; those without a
    request are closed first. `requests`: requests under way. `body_bytes`: of all requests' bodies, what exceeds 16 KiB
    of each. No service gets all of the last two, nor do its waiting reads, nor does a client (see `Shares`).
    """

    idle_s: Seconds = 30.0
    head_s: Seconds = 10.0
    body_s: Seconds = 30.0
    answer_s: Seconds = 30.0
    connections: Count = 8_192
    requests: Count = 4_096
    body_bytes: Count = 64 << 20

    def within(self, descriptors: int) -> Doors:
        """As a process keeps them that may have so many files and connections open: a gateway needs two a request."""
        room = max(descriptors - SPARE_DESCRIPTORS, 3)
        return msgspec.structs.replace(
            self, connections=min(self.connections, room * 2 // 3), requests=min(self.requests, room // 3)
        )


class PerCaller(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What one caller may ask for: an address where clients come in, and a caller of a service. 0 is no limit.

    `rate`: requests a second; `burst`: so many at once after a pause, as many as in a second where it is not set.
    `requests`: under way at once; `waits`: those among them that wait (`Chimera-After`, `wait=`). Whoever comes beyond
    it is answered 429 with Retry-After. `callers`: so many are known at once; of more, those silent for longest are
    forgotten.
    """

    rate: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    burst: Annotated[int, msgspec.Meta(ge=0, le=10_000_000)] = 0
    requests: Annotated[int, msgspec.Meta(ge=0)] = 0
    waits: Annotated[int, msgspec.Meta(ge=0)] = 0
    callers: Count = 20_000

    @property
    def is_set(self) -> bool:
        """True where there is a limit."""
        return bool(self.rate or self.requests or self.waits)

    @property
    def most_at_once(self) -> int:
        """The requests that may come at once after a pause."""
        return self.burst or max(1, int(self.rate))


SPARE_DESCRIPTORS = 256
"""Files and connections that are left to the engines."""


class Retry(NamedTuple):
    """The tries of a failed message: how many, and the pauses in between, in seconds, doubling.

    As it stands here that is about 20 minutes. `ends`: how many processes may end, one after another, while they handle
    a message. `cuts`: the tries of one that an engine cuts short each time, though it answers others.
    """

    tries: int = 30
    first_s: float = 0.2
    longest_s: float = 60.0
    ends: int = 5
    cuts: int = 5

    def due(self, tries: int, now: datetime, chance: float = 0.0) -> datetime | None:
        """When to try again after so many tries; None when it is a person's turn.

        `chance`, below 1, shortens the pause by up to a quarter: what failed together is not tried together again.
        """
        if tries >= self.tries:
            return None
        return now + timedelta(seconds=pause_s(tries, self.first_s, self.longest_s) * (1 - chance / 4))


class Retention(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The days for which things are kept; 0 is for ever.

    `inbox_days` is how long an Idempotency-Key stands for the same command. `journal_days` and `log_days` are how old
    events and records must be before they are dropped, once every known consumer has them; one that was not heard of
    for `consumer_days` is not known any more. `parked_days`: after which parked messages are given up.
    """

    journal_days: Days = 0.0
    inbox_days: Days = 7.0
    parked_days: Days = 0.0
    log_days: Days = 7.0
    consumer_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 7.0


def pause_s(failures: int, first_s: float, longest_s: float) -> float:
    """The pause after so many failures (1 or more) in a row, in seconds: it doubles, up to the longest."""
    return min(first_s * 2.0 ** min(failures - 1, 32), longest_s)
