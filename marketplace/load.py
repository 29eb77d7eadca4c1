"""Loads a marketplace through its public HTTP API: `python -m marketplace.load --base URL [--data DIR]`."""

import asyncio
import sys
import time
import uuid
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
import msgspec
import stamina
import stamina.instrumentation
import uvloop

from chimera.errors import ChimeraError
from chimera_issuer.shell import token_of
from marketplace.account import Account
from marketplace.olist import Olist
from marketplace.progress import Display
from marketplace.requests import PHASES, Kind, Request, Skip, Source
from marketplace.seed import Seed

Report = Callable[[Account], None]

SERVICES = ("orders", "analytics", "top-clients", "gig-page", "user-page", "search")
_ASKED_AT_ONCE = 100
_QUEUED = 32
_POLL_S = 0.05
_REPORT_S = 0.25


class Busy(Exception):  # noqa: N818 - an answer that will be different soon
    """The service can't answer now (503 or another 5xx)."""


_AWAY = (Busy, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError)


class Unexpected(Exception):  # noqa: N818 - an answer that waiting won't change
    """The service answered a question about itself with something else than 200."""


class Answer(NamedTuple):
    status: int
    body: bytes


class Accepted(msgspec.Struct):
    """An asynchronous command's answer; a direct one's has no `command_id`."""

    command_id: str | None = None


class Problem(msgspec.Struct):
    reason: str = ""
    title: str = ""


class CommandState(msgspec.Struct):
    state: str
    reason: str | None = None


class CommandStates(msgspec.Struct):
    commands: dict[str, CommandState]


class Heads(msgspec.Struct):
    heads: dict[str, int]


class Consumed(msgspec.Struct):
    consumer: str
    source: str
    partition: int
    checkpoint: int


class Status(msgspec.Struct):
    consumers: list[Consumed]


class Waiting(NamedTuple):
    service: str
    kind: Kind
    command_id: str


class Api:
    """HTTP to the services; waits out a restart for up to `patience` seconds."""

    def __init__(self, session: aiohttp.ClientSession, bases: Mapping[str, str], patience: float) -> None:
        self._session = session
        self._bases = {service: base.rstrip("/") for service, base in bases.items()}
        self._retry = stamina.AsyncRetryingCaller(
            attempts=None, timeout=patience, wait_initial=0.1, wait_max=2.0, wait_jitter=0.2
        ).on(_AWAY)

    async def send(self, request: Request, idempotency_key: str) -> Answer:
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        url = self._bases[request.service] + request.path
        return await self._patiently(request.method, url, msgspec.json.encode(request.body), headers)

    async def get(self, service: str, path: str) -> bytes:
        answer = await self._patiently("GET", self._bases[service] + path, None, {})
        if answer.status != 200:
            raise Unexpected(f"GET {path[:200]} of {service} answered {answer.status}: {answer.body[:500]!r}")
        return answer.body

    async def _patiently(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            return await self._ask(method, url, body, headers)
        except _AWAY:
            return await self._retry(self._ask, method, url, body, headers)

    async def _ask(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        async with self._session.request(method, url, data=body, headers=headers) as response:
            answer = Answer(response.status, await response.read())
        if answer.status >= 500:
            raise Busy(f"{method} {url} answered {answer.status}: {answer.body[:500]!r}")
        return answer


class Loader:
    """Sends everything, then waits until it has settled. `stall` is how long nothing may change before it gives up."""

    def __init__(self, api: Api, account: Account, workers: int, stall: float) -> None:
        self._api = api
        self._account = account
        self._workers = workers
        self._stall = stall
        self._waiting: deque[Waiting] = deque()
        self._all_sent = False

    async def run(self, source: Source) -> None:
        before = await self._orders_heads()
        async with asyncio.TaskGroup() as tasks:
            settling = tasks.create_task(self._settle())
            started = await self._send(source)
            self._all_sent = True
            self._account.doing = "waiting for commands"
            await settling
        self._account.settled_after = time.monotonic() - started
        self._account.doing = "waiting for dashboards"
        await self._await_dashboards(before, started)

    async def _send(self, source: Source) -> float:
        """Returns when the last phase, that of the orders, began."""
        queues: list[asyncio.Queue[tuple[Request, str]]] = [asyncio.Queue(_QUEUED) for _ in range(self._workers)]
        phase: tuple[Kind, ...] = ()
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(self._work(queue)) for queue in queues]
            for number, item in enumerate(source):
                if item.kind not in phase:
                    await _join(queues)
                    phase, started = _phase_of(item.kind), time.monotonic()
                    self._account.doing = f"sending {' and '.join(f'{kind}s' for kind in phase)}"
                self._account.read[item.kind] += 1
                if isinstance(item, Skip):
                    self._account.skipped[item.kind, item.reason] += 1
                else:
                    queue = queues[zlib.crc32(item.key.encode()) % self._workers]
                    await queue.put((item, _idempotency_key(source.name, number, item)))
            await _join(queues)
            for worker in workers:
                worker.cancel()
        return started

    async def _work(self, queue: asyncio.Queue[tuple[Request, str]]) -> None:
        while True:
            request, idempotency_key = await queue.get()
            self._note(request, await self._api.send(request, idempotency_key))
            queue.task_done()

    def _note(self, request: Request, answer: Answer) -> None:
        kind = request.kind
        self._account.sent[kind] += 1
        if answer.status >= 300:
            self._account.refused[kind, _refusal(answer)] += 1
        elif command_id := msgspec.json.decode(answer.body, type=Accepted).command_id:
            self._waiting.append(Waiting(request.service, kind, command_id))
        else:
            self._account.applied[kind] += 1

    async def _settle(self) -> None:
        """Asks for the outcomes of what was accepted, oldest first, while sending goes on."""
        changed_at = time.monotonic()
        while self._waiting or not self._all_sent:
            asked = [self._waiting.popleft() for _ in range(min(_ASKED_AT_ONCE, len(self._waiting)))]
            open_still = await self._outcomes(asked)
            self._waiting.extend(open_still)
            if len(open_still) < len(asked) or not self._all_sent:
                changed_at = time.monotonic()
            elif time.monotonic() - changed_at > self._stall:
                self._account.unsettled.update(waiting.kind for waiting in self._waiting)
                return
            if open_still or len(asked) < _ASKED_AT_ONCE:
                await asyncio.sleep(_POLL_S)

    async def _outcomes(self, asked: Sequence[Waiting]) -> list[Waiting]:
        """Counts those that are settled and returns the others."""
        by_service: dict[str, list[Waiting]] = defaultdict(list)
        for waiting in asked:
            by_service[waiting.service].append(waiting)
        open_still: list[Waiting] = []
        for service, group in by_service.items():
            ids = "&".join(f"id={waiting.command_id}" for waiting in group)
            answer = await self._api.get(service, f"/_chimera/{service}/commands?{ids}")
            states = msgspec.json.decode(answer, type=CommandStates).commands
            open_still += [each for each in group if not self._count(each.kind, states.get(each.command_id))]
        return open_still

    def _count(self, kind: Kind, state: CommandState | None) -> bool:
        match state:
            case CommandState(state="done"):
                self._account.applied[kind] += 1
            case CommandState(state="rejected", reason=reason):
                self._account.refused[kind, reason or "no reason"] += 1
            case CommandState(state="parked", reason=reason):
                self._account.parked[kind, reason or "no cause"] += 1
            case _:
                return False
        return True

    async def _await_dashboards(self, before: Mapping[int, int], started: float) -> None:
        heads, seen, changed_at = await self._orders_heads(), -1, time.monotonic()
        self._account.events = sum(heads.values()) - sum(before.values())
        while time.monotonic() - changed_at < self._stall:
            status = msgspec.json.decode(await self._api.get("analytics", "/_chimera/analytics/status"), type=Status)
            consumed = [place for place in status.consumers if place.source == "orders"]
            if caught_up(heads, consumed):
                self._account.dashboards_after = time.monotonic() - started
                return
            if (now_seen := sum(place.checkpoint for place in consumed)) != seen:
                seen, changed_at = now_seen, time.monotonic()
            await asyncio.sleep(_POLL_S)

    async def _orders_heads(self) -> dict[int, int]:
        heads = msgspec.json.decode(await self._api.get("orders", "/_chimera/orders/heads"), type=Heads).heads
        return {int(partition): number for partition, number in heads.items()}


def caught_up(heads: Mapping[int, int], consumed: Sequence[Consumed]) -> bool:
    """Whether every consumer has all that the journal held when its heads were asked for."""
    reached: dict[str, dict[int, int]] = defaultdict(dict)
    for place in consumed:
        reached[place.consumer][place.partition] = place.checkpoint
    if not reached:
        return not any(heads.values())
    return all(at.get(partition, 0) >= head for at in reached.values() for partition, head in heads.items())


async def load(
    source: Source,
    bases: Mapping[str, str],
    report: Report = lambda account: None,
    *,
    workers: int = 64,
    patience: float = 60.0,
    stall: float = 120.0,
    token: str = "",
) -> Account:
    """Send all of a source to the services at `bases` and wait until they have settled it.

    `token`: an operator's, where rules are asked.
    """
    account, began = Account(expected=source.total()), time.monotonic()
    connections = aiohttp.TCPConnector(limit=workers + 4)
    timeout, shown = aiohttp.ClientTimeout(total=15), {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(connector=connections, timeout=timeout, headers=shown) as session:
        reporting = asyncio.create_task(_report(account, report))
        try:
            await Loader(Api(session, bases, patience), account, workers, stall).run(source)
        finally:
            reporting.cancel()
            with suppress(asyncio.CancelledError):
                await reporting
    account.notes = source.notes
    account.seconds = time.monotonic() - began
    account.doing = "finished"
    report(account)
    return account


async def _report(account: Account, report: Report) -> None:
    while True:
        report(account)
        await asyncio.sleep(_REPORT_S)


async def _join(queues: Sequence[asyncio.Queue[Any]]) -> None:
    for queue in queues:
        await queue.join()


def _phase_of(kind: Kind) -> tuple[Kind, ...]:
    return next(kinds for kinds in PHASES if kind in kinds)


def _idempotency_key(source: str, number: int, request: Request) -> str:
    """The same for the same request of the same load, so that sending it all again changes nothing."""
    body = msgspec.json.encode(request.body).decode()
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}/{number}/{request.method} {request.path} {body}"))


def _refusal(answer: Answer) -> str:
    try:
        problem = msgspec.json.decode(answer.body, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem()
    return problem.reason or f"{answer.status} {problem.title}".strip()


def _cause(failed: BaseExceptionGroup[BaseException]) -> str:
    first: BaseException = failed
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return f"{type(first).__name__} {first}"


def _service_bases(base: str, exceptions: Sequence[str]) -> dict[str, str]:
    bases = dict.fromkeys(SERVICES, base)
    for exception in exceptions:
        service, equals, url = exception.partition("=")
        if not equals or service not in SERVICES:
            known = ", ".join(SERVICES)
            raise click.BadParameter(f"{exception!r} should look like orders=http://127.0.0.1:8001; services: {known}")
        bases[service] = url
    return bases


@click.command()
@click.option("--base", required=True, help="Where the services are, such as http://127.0.0.1:8000")
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="The Olist files.")
@click.option("--service-base", multiple=True, metavar="NAME=URL", help="Where one service is, if it is elsewhere.")
@click.option("--workers", default=64, show_default=True, type=click.IntRange(1, 1024), help="Requests at once.")
@click.option("--patience", default=60.0, show_default=True, help="Seconds to wait for a service that is away.")
@click.option("--stall", default=120.0, show_default=True, help="Seconds without progress before giving up.")
@click.option("--as", "who", help="Whom to log in as at the issuer of --base: an operator. Without it nobody is said.")
def main(
    base: str,
    data: Path | None,
    service_base: tuple[str, ...],
    workers: int,
    patience: float,
    stall: float,
    who: str | None,
) -> None:
    """Load a marketplace through its public API: the Olist orders of --data, or a small synthetic one."""
    source: Source = Olist(data) if data else Seed()
    bases = _service_bases(base, service_base)
    stamina.instrumentation.set_on_retry_hooks([])

    async def logged_in(report: Report) -> Account:
        token = await token_of(base, who) if who else ""
        return await load(source, bases, report, workers=workers, patience=patience, stall=stall, token=token)

    try:
        with Display() as display:
            account = uvloop.run(logged_in(display))
    except* (Busy, Unexpected, ChimeraError, aiohttp.ClientError, TimeoutError) as failed:
        raise click.ClickException(f"gave up: {_cause(failed)}") from failed
    click.echo("\n".join(account.lines()))
    sys.exit(0 if account.balances else 1)


if __name__ == "__main__":
    main()
