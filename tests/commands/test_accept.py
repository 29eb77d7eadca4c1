"""What can't be held is refused before anything of it is kept: 503, to be tried again."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec
import pytest

from chimera import Invalid, Unavailable
from chimera.commands.accept import Intake
from chimera.core.context import Context
from chimera.core.timing import Doors, Limits
from chimera.errors import Unfit
from chimera.messages import Message
from chimera.ports import Log, Session, Store
from chimera.run.serving import listening
from chimera.testing.broken import NarrowLog, WrappedLog, WrappedStore
from chimera.testing.waiting import eventually
from chimera.web.read_head import ReadHead
from chimera.web.site import Site
from tests.support import PARTITIONS, QUICK, Advise, Ahead, Open, Withdraw, balances, consume, message_of, read_all


class HeldLog(WrappedLog):
    """Confirms nothing until it is let go."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.go_on = asyncio.Event()

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self.go_on.wait()
        await super().append(topic, messages)


@pytest.fixture
def held(context: Context) -> HeldLog:
    return HeldLog(context.log)


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def holding(context: Context, held: HeldLog, limits: Limits) -> Context:
    """The service on the log that is held."""
    return replace(context, log=held, limits=limits)


@pytest.fixture
def head(holding: Context) -> ReadHead:
    return ReadHead(holding)


@pytest.fixture
async def base(head: ReadHead) -> AsyncIterator[str]:
    async with listening(Site([head]), "127.0.0.1", 0) as base:
        yield base


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("limits", [Limits(waiting_commands=10)])
async def test_more_than_can_wait_is_refused_and_what_was_taken_is_answered(holding: Context, held: HeldLog) -> None:
    taken = Intake(holding)
    first = asyncio.ensure_future(taken.append(message_of(Open("first"))))
    await turns()
    waiting = [asyncio.ensure_future(taken.append(message_of(Open(f"k{n}")))) for n in range(25)]
    await turns()
    refused = [each for each in waiting if each.done()]
    assert len(refused) == 15
    for each in refused:
        assert isinstance(each.exception(), Unavailable)
    held.go_on.set()
    await asyncio.gather(first, *(each for each in waiting if each not in refused))
    await consume(holding)
    assert len(await balances(holding)) == 11


async def test_the_bytes_that_wait_are_bounded_and_come_free_again(context: Context) -> None:
    taken = Intake(replace(context, limits=Limits(held_bytes=1000)))
    taken.hold(600)
    with pytest.raises(Unavailable, match="600 bytes"):
        taken.hold(401)
    taken.hold(400)
    taken.let_go(600)
    taken.let_go(400)
    taken.hold(1000)


async def test_the_bytes_of_a_command_that_is_refused_come_free_again(head: ReadHead, base: str) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{base}/accounts", data=b'{"account_id":7}') as answer:
        assert answer.status == 422
    assert head._intake._held == 0


async def post(session: aiohttp.ClientSession, base: str, key: str, fill: str = "", *, chunked: bool = False) -> Any:
    data = f'{{"account_id":"{key}"{" " * len(fill)}}}'.encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield data

    async with session.post(f"{base}/accounts", data=pieces() if chunked else data) as answer:
        return answer.status, dict(answer.headers), await answer.json(content_type=None)


@pytest.mark.parametrize("limits", [Limits(held_bytes=4000)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_over_http_it_is_a_503_that_says_when_to_come_again_and_nothing_is_kept(
    context: Context, held: HeldLog, head: ReadHead, base: str, chunked: bool
) -> None:
    async with aiohttp.ClientSession() as session:
        taken = asyncio.ensure_future(post(session, base, "taken", "x" * 3000))
        await eventually(lambda: head._intake._held > 3000)
        status, headers, problem = await post(session, base, "refused", "x" * 1500, chunked=chunked)
        assert status == 503
        assert headers["Retry-After"] == "1"
        assert headers["Content-Type"] == "application/problem+json"
        assert problem["status"] == 503
        held.go_on.set()
        assert (await taken)[0] == 201
        if not chunked:
            assert (await post(session, base, "later", "x" * 1500))[0] == 201
    await consume(context)
    assert "refused" not in await balances(context)
    assert "taken" in await balances(context)


async def test_more_requests_than_a_process_can_hold_are_refused_but_its_health_is_told(
    context: Context, held: HeldLog, head: ReadHead
) -> None:
    async with (
        listening(Site([head], doors=Doors(requests=10)), "127.0.0.1", 0) as base,
        aiohttp.ClientSession() as session,
    ):
        waiting = [asyncio.ensure_future(post(session, base, f"k{n}")) for n in range(10)]
        await eventually(lambda: sum(each.done() for each in waiting) == 6)
        refused = [each.result() for each in waiting if each.done()]
        assert {(status, headers["Retry-After"]) for status, headers, _ in refused} == {(503, "1")}
        async with session.get(f"{base}/_chimera/accounts/health/live") as answer:
            assert answer.status == 200
        held.go_on.set()
        answered = await asyncio.gather(*(each for each in waiting if not each.done()))
        assert [status for status, _, _ in answered] == [201] * 4
        assert (await post(session, base, "later"))[0] == 201
    await consume(context)
    assert len(await balances(context)) == 5


# The same Idempotency-Key with another payload


@pytest.fixture
async def open_base(context: Context) -> AsyncIterator[str]:
    async with listening(Site([ReadHead(context)]), "127.0.0.1", 0) as base:
        yield base


async def send(base: str, path: str, data: bytes, key: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(base + path, data=data, headers={"Idempotency-Key": key}) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


def is_refused(answer: tuple[int, Any]) -> bool:
    status, problem = answer
    return (status, problem.get("field")) == (409, "header.Idempotency-Key") and "another payload" in problem["detail"]


async def test_a_key_that_comes_again_with_another_payload_is_refused_before_anything_is_kept(
    context: Context, open_base: str
) -> None:
    first = await send(open_base, "/accounts", b'{"account_id":"a"}', "k")
    assert first[0] == 201
    assert is_refused(await send(open_base, "/accounts", b'{"account_id":"b"}', "k"))
    assert await send(open_base, "/accounts", b' {"account_id" : "a"}', "k") == first
    assert (await send(open_base, "/accounts", b'{"account_id":"b"}', "k2"))[0] == 201
    assert sum((await context.log.ends(context.commands_topic)).values()) == 3
    await consume(context)
    assert set(await balances(context)) == {"a", "b"}


async def test_a_direct_command_whose_key_comes_again_with_another_body_or_path_is_refused(
    context: Context, open_base: str
) -> None:
    first = await send(open_base, "/accounts/a/deposits", b'{"amount":5}', "k")
    assert first == (201, {"balance": 5})
    assert is_refused(await send(open_base, "/accounts/a/deposits", b'{"amount":6}', "k"))
    assert is_refused(await send(open_base, "/accounts/b/deposits", b'{"amount":5}', "k"))
    assert await send(open_base, "/accounts/a/deposits", b'{"amount" :5}', "k") == first
    assert (await send(open_base, "/accounts", b'{"account_id":"c"}', "k"))[0] == 201  # of another kind: another key
    assert await balances(context) == {"a": 5}


def keyed(account: str, key: str = "k") -> Message:
    return message_of(Open(account), str(uuid.uuid5(uuid.NAMESPACE_OID, key)))


async def test_another_process_knows_the_payload_of_a_key_once_its_command_is_executed(context: Context) -> None:
    first, other = (message_of(Withdraw("a", -amount), keyed("a").id) for amount in (5, 7))
    await Intake(context).append(first)
    await Intake(context).append(other)  # it can't be known yet: it is accepted, and has no effect
    await consume(context)
    assert await balances(context) == {"a": 5}
    with pytest.raises(Invalid, match="another payload"):
        await Intake(context).append(other)
    await Intake(context).append(first)
    await consume(context)
    assert await balances(context) == {"a": 5}


class NoStore(WrappedStore):
    """A store that answers no look."""

    def __init__(self, store: Store, *, hangs: bool) -> None:
        super().__init__(store)
        self.hangs = hangs

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Session]:
        if self.hangs:
            await asyncio.Event().wait()
        raise Unavailable("the store is down")
        yield


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_command_with_a_key_is_accepted_also_while_the_store_is_down(context: Context, hangs: bool) -> None:
    timing = msgspec.structs.replace(QUICK, reuse_look_s=0.01)
    taken = Intake(replace(context, store=NoStore(context.store, hangs=hangs), timing=timing))
    await asyncio.wait_for(taken.append(keyed("a")), 2)
    await consume(context)
    assert set(await balances(context)) == {"a"}


async def test_a_key_whose_command_could_not_be_appended_is_free_again(holding: Context, held: HeldLog) -> None:
    taken = Intake(holding)
    failing = asyncio.ensure_future(taken.append(keyed("a")))
    await eventually(lambda: bool(taken._reuse._lately))
    with pytest.raises(Invalid, match="another payload"):
        await taken.append(keyed("b"))
    failing.cancel()
    await asyncio.wait([failing])
    held.go_on.set()
    await taken.append(keyed("b"))


async def test_the_keys_that_a_process_knows_by_itself_are_bounded(context: Context) -> None:
    clock = Ahead()
    taken = Intake(replace(context, limits=Limits(reuse_keys=5), clock=clock))
    for n in range(20):
        await taken.append(keyed(f"a{n}", f"k{n}"))
    assert len(taken._reuse._lately) == 5
    clock.ahead_s = context.timing.reuse_s
    await taken.append(keyed("a", "last"))
    assert len(taken._reuse._lately) == 1


async def test_a_command_larger_than_the_log_takes_is_refused_and_those_beside_it_are_kept(context: Context) -> None:
    narrow = replace(context, log=NarrowLog(context.log, lambda: Unfit("it takes 2,000 bytes"), 2000))
    intake = Intake(narrow)
    commands = [message_of(Advise("a", "x" * size)) for size in (10, 3000, 20)]
    found = await asyncio.gather(*map(intake.append, commands), return_exceptions=True)
    assert [type(each) for each in found] == [type(None), Invalid, type(None)]
    assert (found[1].status, found[1].detail) == (413, "a command of 3,028 bytes: it takes 2,000 bytes")  # type: ignore[union-attr]
    in_log = await read_all(context.log, context.commands_topic, dict.fromkeys(range(PARTITIONS), 0))
    assert {record.message.id for record in in_log} == {commands[0].id, commands[2].id}
