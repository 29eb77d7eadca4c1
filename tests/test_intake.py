"""What can't be held is refused before anything of it is kept: 503, to be tried again."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from chimera import Invalid, Unavailable, intake
from chimera.body import Body
from chimera.intake import Intake
from chimera.messages import Message
from chimera.read_head import ReadHead
from chimera.serving import listening
from chimera.testing.broken import WrappedLog, WrappedStore
from chimera.web import site
from chimera.web.site import Site
from tests.support import Open, Withdraw, balances, consume, eventually, message_of


class HeldLog(WrappedLog):
    """Confirms nothing until it is let go."""

    def __init__(self, log: Any) -> None:
        super().__init__(log)
        self.go_on = asyncio.Event()

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await self.go_on.wait()
        await super().append(topic, messages)


@pytest.fixture
async def held(body: Body) -> HeldLog:
    body.log = HeldLog(body.log)
    return body.log


@pytest.fixture
def head(body: Body, held: HeldLog) -> ReadHead:
    return ReadHead(body)


@pytest.fixture
async def base(head: ReadHead) -> AsyncIterator[str]:
    async with listening(Site([head]), "127.0.0.1", 0) as base:
        yield base


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_more_than_can_wait_is_refused_and_what_was_taken_is_answered(
    body: Body, held: HeldLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "WAITING_LIMIT", 10)
    taken = Intake(body)
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
    await consume(body)
    assert len(await balances(body)) == 11


async def test_the_bytes_that_wait_are_bounded_and_come_free_again(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "HELD_BYTES", 1000)
    taken = Intake(body)
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


@pytest.mark.parametrize("chunked", [False, True])
async def test_over_http_it_is_a_503_that_says_when_to_come_again_and_nothing_is_kept(
    body: Body, held: HeldLog, head: ReadHead, base: str, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(intake, "HELD_BYTES", 4000)
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
    await consume(body)
    assert "refused" not in await balances(body)
    assert "taken" in await balances(body)


async def test_more_requests_than_a_process_can_hold_are_refused_but_its_health_is_told(
    body: Body, held: HeldLog, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "MOST_REQUESTS", 3)
    async with aiohttp.ClientSession() as session:
        waiting = [asyncio.ensure_future(post(session, base, f"k{n}")) for n in range(10)]
        await eventually(lambda: sum(each.done() for each in waiting) == 7)
        refused = [each.result() for each in waiting if each.done()]
        assert {(status, headers["Retry-After"]) for status, headers, _ in refused} == {(503, "1")}
        async with session.get(f"{base}/_chimera/accounts/health/live") as answer:
            assert answer.status == 200
        held.go_on.set()
        answered = await asyncio.gather(*(each for each in waiting if not each.done()))
        assert [status for status, _, _ in answered] == [201] * 3
        assert (await post(session, base, "later"))[0] == 201
    await consume(body)
    assert len(await balances(body)) == 4


# The same Idempotency-Key with another payload


@pytest.fixture
async def open_base(body: Body) -> AsyncIterator[str]:
    async with listening(Site([ReadHead(body)]), "127.0.0.1", 0) as base:
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
    body: Body, open_base: str
) -> None:
    first = await send(open_base, "/accounts", b'{"account_id":"a"}', "k")
    assert first[0] == 201
    assert is_refused(await send(open_base, "/accounts", b'{"account_id":"b"}', "k"))
    assert await send(open_base, "/accounts", b' {"account_id" : "a"}', "k") == first
    assert (await send(open_base, "/accounts", b'{"account_id":"b"}', "k2"))[0] == 201
    assert sum((await body.log.ends(body.commands_topic)).values()) == 3
    await consume(body)
    assert set(await balances(body)) == {"a", "b"}


async def test_a_direct_command_whose_key_comes_again_with_another_body_or_path_is_refused(
    body: Body, open_base: str
) -> None:
    first = await send(open_base, "/accounts/a/deposits", b'{"amount":5}', "k")
    assert first == (201, {"balance": 5})
    assert is_refused(await send(open_base, "/accounts/a/deposits", b'{"amount":6}', "k"))
    assert is_refused(await send(open_base, "/accounts/b/deposits", b'{"amount":5}', "k"))
    assert await send(open_base, "/accounts/a/deposits", b'{"amount" :5}', "k") == first
    assert (await send(open_base, "/accounts", b'{"account_id":"c"}', "k"))[0] == 201  # of another kind: another key
    assert await balances(body) == {"a": 5}


def keyed(account: str, key: str = "k") -> Message:
    return message_of(Open(account), str(uuid.uuid5(uuid.NAMESPACE_OID, key)))


async def test_another_process_knows_the_payload_of_a_key_once_its_command_is_executed(body: Body) -> None:
    first, other = (message_of(Withdraw("a", -amount), keyed("a").id) for amount in (5, 7))
    await Intake(body).append(first)
    await Intake(body).append(other)  # it can't be known yet: it is accepted, and has no effect
    await consume(body)
    assert await balances(body) == {"a": 5}
    with pytest.raises(Invalid, match="another payload"):
        await Intake(body).append(other)
    await Intake(body).append(first)
    await consume(body)
    assert await balances(body) == {"a": 5}


class NoStore(WrappedStore):
    """A store that answers no look."""

    def __init__(self, store: Any, *, hangs: bool) -> None:
        super().__init__(store)
        self.hangs = hangs

    @asynccontextmanager
    async def snapshot(self, *, once: bool = False) -> AsyncIterator[Any]:
        if self.hangs:
            await asyncio.Event().wait()
        raise Unavailable("the store is down")
        yield


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_command_with_a_key_is_accepted_also_while_the_store_is_down(
    body: Body, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(intake, "LOOK_S", 0.01)
    taken = Intake(body)
    body.store, store = NoStore(body.store, hangs=hangs), body.store
    await asyncio.wait_for(taken.append(keyed("a")), 2)
    body.store = store
    await consume(body)
    assert set(await balances(body)) == {"a"}


async def test_a_key_whose_command_could_not_be_appended_is_free_again(body: Body, held: HeldLog) -> None:
    taken = Intake(body)
    failing = asyncio.ensure_future(taken.append(keyed("a")))
    await eventually(lambda: bool(taken._reuse._lately))
    with pytest.raises(Invalid, match="another payload"):
        await taken.append(keyed("b"))
    failing.cancel()
    await asyncio.wait([failing])
    held.go_on.set()
    await taken.append(keyed("b"))


async def test_the_keys_that_a_process_knows_by_itself_are_bounded(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LATELY_KEYS", 5)
    taken = Intake(body)
    for n in range(20):
        await taken.append(keyed(f"a{n}", f"k{n}"))
    assert len(taken._reuse._lately) == 5
    monkeypatch.setattr(intake, "LATELY_S", -1.0)
    await taken.append(keyed("a", "last"))
    assert len(taken._reuse._lately) == 1
