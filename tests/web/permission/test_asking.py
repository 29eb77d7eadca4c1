"""Who asks, resources, and answers of every kind, through HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest
from httpx import ASGITransport, AsyncClient, Response

from chimera import (
    Caller,
    Command,
    Cookie,
    DeclarationError,
    Entity,
    Event,
    FieldError,
    NewId,
    Problem,
    Reader,
    Rejected,
    Reply,
    Request,
    Service,
    Stream,
    Transaction,
    Work,
    redirect,
)
from chimera.core.context import Context
from chimera.run.engines import context_of
from chimera.run.write_head import WriteHead
from chimera.testing.memory import MemoryLog, MemoryStore, MemoryViews
from chimera.testing.waiting import running
from chimera.web.read_head import ReadHead
from chimera.web.site import Site


class Mailer:
    """A resource that is opened and closed."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.is_open = False


class Clerk(NamedTuple):
    """A resource that is made for each call."""

    name: str


class Note(Entity, key="note_id"):
    note_id: str
    text: str
    by: str = ""


class Write(Command, key="note_id"):
    note_id: Annotated[str, NewId]
    text: Annotated[str, msgspec.Meta(min_length=1)]
    stars: int = 0


class Written(Event, source="notes", key="note_id"):
    note_id: str
    text: str


class Queue(Command, key="note_id"):
    note_id: str


class Shout(Command, key="note_id"):
    note_id: str


def nobody(name: str) -> Any:
    raise LookupError(name)


mailer = Mailer()
seen: list[str] = []


@asynccontextmanager
async def open_mailer() -> AsyncIterator[Mailer]:
    mailer.is_open = True
    yield mailer
    mailer.is_open = False


def service_with() -> Service:  # noqa: C901 - many small functions
    notes = Service("notes")
    notes.entity(Note)
    notes.provide(Mailer, open_mailer)

    async def clerk(caller: Caller | None, request: Request) -> Clerk:
        return Clerk(f"{caller.subject if caller else 'nobody'} at {request.path}")

    notes.provide(Clerk, clerk, per="call")

    @notes.authenticate(challenge="Token")
    async def who(request: Request) -> Caller | None:
        token = request.headers.get("authorization", "")
        if token == "Token expired":
            raise Rejected("expired", status=401)
        return Caller(token.removeprefix("Token "), frozenset({"writer"}), tenant="t") if token else None

    @notes.handle("POST /notes", direct=True, body="note")
    async def write(command: Write, caller: Caller, tx: Transaction, clerk: Clerk, mail: Mailer) -> Reply[Note]:
        if command.text == "bad":
            raise Rejected("unfit", "no", status=422, errors=[FieldError("text", "is bad"), FieldError("stars", "few")])
        note = Note(command.note_id, command.text, caller.subject)
        tx.save(note)
        tx.emit(Written(command.note_id, command.text))
        mail.sent.append(clerk.name)
        return Reply(note, 201, {"X-Clerk": clerk.name}, [Cookie("last", command.note_id, max_age_s=60)])

    @notes.handle("POST /queue")
    async def queue(command: Queue, tx: Transaction, caller: Caller) -> None:
        if command.note_id == "broken":
            raise ValueError("not now")
        tx.save(Note(command.note_id, "queued", caller.subject))

    @notes.handle("POST /shout", direct=True)
    async def shout(command: Shout, tx: Transaction) -> Reply[None]:
        return Reply(None, 204)

    @notes.on(Written)
    async def hear(event: Written, tx: Transaction, caller: Caller | None) -> None:
        seen.append(f"{event.text} by {caller.subject if caller else 'nobody'} of {caller.tenant if caller else ''}")

    @notes.get("/notes/{note_id}")
    async def note(note_id: str, read: Reader, caller: Caller | None) -> Any:
        found = await read.load(Note, note_id)
        return None if found is None else {"text": found.text, "by": found.by, "mine": bool(caller)}

    @notes.get("/old/{note_id}")
    async def old(note_id: str) -> Reply[None]:
        return redirect(f"/notes/{note_id}", 308)

    @notes.get("/stream")
    async def stream(parts: int = 3) -> Stream:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(parts):
                yield b"%d," % number

        return Stream(chunks(), "text/plain", headers={"X-Parts": str(parts)})

    @notes.get("/me")
    async def me(caller: Caller) -> Any:
        return {"subject": caller.subject, "roles": sorted(caller.roles)}

    @notes.errors
    def shaped(problem: Problem) -> Reply[Any]:
        fields = problem.errors or [FieldError(problem.field or "body", problem.detail)]
        return Reply({"errors": {each.field.rpartition(".")[2]: [each.detail] for each in fields}}, problem.status)

    return notes


class Running(NamedTuple):
    client: AsyncClient
    context: Context

    async def ask(self, method: str, path: str, body: object = None, token: str = "", **headers: str) -> Response:
        given = {"authorization": f"Token {token}", **headers} if token else headers
        return await self.client.request(method, path, json=body, headers=given)


@pytest.fixture
async def shop() -> AsyncIterator[Running]:
    async with served(service_with()) as running_one:
        yield running_one


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[Running]:
    seen.clear()
    mailer.sent.clear()
    context = context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), nobody)
    await context.prepare()
    head = ReadHead(context)
    await context.resources.open()
    await head.start()
    async with running(WriteHead(context, "w").run()):
        transport = ASGITransport(Site([head]))
        async with AsyncClient(transport=transport, base_url="http://notes") as client:
            yield Running(client, context)
    await head.stop()
    await context.resources.close()
    assert not mailer.is_open


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await look():  # noqa: ASYNC110 - heads work meanwhile
            await asyncio.sleep(0.005)


async def test_a_handler_is_told_who_asks_and_given_its_resources(shop: Running) -> None:
    written = await shop.ask("POST", "/notes", {"note": {"note_id": "n", "text": "hi"}}, token="ann")
    assert (written.status_code, written.json()) == (201, {"note_id": "n", "text": "hi", "by": "ann"})
    assert written.headers["x-clerk"] == "ann at /notes"
    assert written.headers["set-cookie"] == "last=n; Path=/; SameSite=Lax; Max-Age=60; Secure; HttpOnly"
    assert mailer.sent == ["ann at /notes"]
    assert mailer.is_open
    assert (await shop.ask("GET", "/notes/n")).json() == {"text": "hi", "by": "ann", "mine": False}
    assert (await shop.ask("GET", "/notes/n", token="bob")).json()["mine"] is True


async def test_whom_nobody_knows_is_not_let_in_where_the_caller_is_needed(shop: Running) -> None:
    for method, path, body in (("GET", "/me", None), ("POST", "/queue", {"note_id": "q"})):
        refused = await shop.ask(method, path, body)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Token"
    expired = await shop.ask("GET", "/me", token="expired")
    assert (expired.status_code, expired.json()) == (401, {"errors": {"body": ["expired"]}})
    assert (await shop.ask("GET", "/me", token="ann")).json() == {"subject": "ann", "roles": ["writer"]}


async def test_who_asked_travels_with_the_command_and_with_its_events(shop: Running) -> None:
    await shop.ask("POST", "/queue", {"note_id": "q"}, token="ann")

    async def is_there() -> bool:
        return (await shop.ask("GET", "/notes/q")).status_code == 200

    await until(is_there)
    assert (await shop.ask("GET", "/notes/q")).json()["by"] == "ann"
    await shop.ask("POST", "/notes", {"note": {"text": "hi"}}, token="bob")

    async def is_heard() -> bool:
        return bool(seen)

    await until(is_heard)
    assert seen == ["hi by bob of t"]


async def test_one_key_of_two_callers_is_two_commands(shop: Running) -> None:
    ask = partial(shop.ask, "POST", "/notes", {"note": {"text": "hi"}}, **{"idempotency-key": "k"})
    first, again, other = await ask(token="ann"), await ask(token="ann"), await ask(token="bob")
    assert first.json() == again.json() != other.json()
    assert (again.status_code, again.headers["x-clerk"]) == (201, "ann at /notes")
    assert again.headers["set-cookie"] == first.headers["set-cookie"]
    assert other.json()["by"] == "bob"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"note": {"text": ""}}, {"text": ["Expected `str` of length >= 1"]}),
        (
            {"note": {"text": "", "stars": "many", "colour": 1}},
            {"text": ["Expected `str` of length >= 1"], "stars": ["Expected `int`, got `str`"], "colour": ["unknown"]},
        ),
        ({"note": {"text": "bad"}}, {"text": ["is bad"], "stars": ["few"]}),
        ({}, {"note": ["the fields are in an object 'note', which is missing"]}),
        ({"text": "hi"}, {"text": ["unknown beside note: text"]}),
    ],
)
async def test_errors_have_the_shape_of_the_service_and_name_each_field(
    shop: Running, body: object, errors: object
) -> None:
    refused = await shop.ask("POST", "/notes", body, token="ann")
    assert (refused.status_code, refused.json()) == (422, {"errors": errors})
    assert (await shop.ask("GET", "/nowhere")).json()["errors"].keys() == {"body"}
    assert (await shop.ask("GET", "/_chimera/notes/commands/none")).headers[
        "content-type"
    ] == "application/problem+json"


async def test_a_key_that_is_not_made_has_to_be_given(shop: Running) -> None:
    refused = await shop.ask("POST", "/queue", {}, token="ann")
    assert (refused.status_code, refused.json()) == (
        422,
        {"errors": {"note_id": ["Object missing required field `note_id`"]}},
    )


async def test_answers_without_a_body_elsewhere_and_in_parts(shop: Running) -> None:
    silent = await shop.ask("POST", "/shout", {"note_id": "n"})
    assert (silent.status_code, silent.content) == (204, b"")
    moved = await shop.ask("GET", "/old/n")
    assert (moved.status_code, moved.headers["location"]) == (308, "/notes/n")
    parts = await shop.ask("GET", "/stream?parts=4")
    assert (parts.text, parts.headers["content-type"], parts.headers["x-parts"]) == ("0,1,2,3,", "text/plain", "4")


async def test_another_resource_for_a_test_is_one_line() -> None:
    notes, fake = service_with(), Mailer()
    with notes.replacing(Mailer, lambda: fake):
        context = context_of(notes, MemoryLog(), MemoryStore(), MemoryViews(), nobody)
        assert await context.resources.get(notes.provided[Mailer]) is fake
    assert notes.provided[Mailer].factory is open_mailer


def _wrong_service(declare: Callable[[Service], Any]) -> None:
    service = Service("wrong")
    declare(service)
    context_of(service, MemoryLog(), MemoryStore(), MemoryViews(), nobody)


async def needs_mail(command: Queue, mail: Mailer) -> None: ...


async def needs_caller(command: Queue, caller: Caller) -> None: ...


async def needs_request(command: Queue, request: Request) -> None: ...


async def reacts(event: Written, caller: Caller) -> None: ...


async def needs_word(command: Queue, word: str) -> None: ...


async def loop(mail: Mailer) -> Mailer:
    return mail


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (
            lambda s: s.handle()(needs_mail),
            r"test_asking.py:\d+: needs_mail: nobody provides its parameter 'mail'; add: service.provide\(Mailer",
        ),
        (
            lambda s: s.handle()(needs_caller),
            r"needs_caller needs the Caller, and nobody tells who that is; add: @service.authenticate",
        ),
        (
            lambda s: s.handle()(needs_request),
            r"needs_request: it needs the Request, and runs later, in a write head: make it direct=True",
        ),
        (
            lambda s: s.on(Written)(reacts),
            r"it can't need Caller: an event may have come from nobody; write: caller: Caller \| None",
        ),
        (
            lambda s: s.handle()(needs_word),
            r"nobody can supply its parameter 'word', str; what comes with a request is a field",
        ),
        (lambda s: s.provide(Mailer, loop), r"loop: Mailer needs Mailer; one of them has to do without"),
        (
            lambda s: [s.provide(Mailer), s.provide(Mailer)],
            r"Mailer is provided already, at .*; to have another one in a test",
        ),
    ],
)
def test_what_nobody_supplies_is_told_before_anything_starts(declare: Callable[[Service], Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        _wrong_service(declare)


async def test_what_surrounds_handlers_and_folds_sees_each_and_starts_and_stops_are_told() -> None:
    notes, told = service_with(), list[str]()

    class Count(msgspec.Struct):
        note_id: str
        times: int = 0

    counts = notes.view(Count, key="note_id", path="/counts/{note_id}")

    @counts.on(Written)
    def written(count: Count, event: Written) -> None:
        count.times += 1

    @notes.around
    async def outer(work: Work, go_on: Callable[[], Awaitable[Any]], mail: Mailer) -> Any:
        told.append(f"{work.kind} {work.name} by {work.caller.subject if work.caller else 'nobody'} {mail.is_open}")
        return await go_on()

    @notes.around
    async def inner(work: Work, go_on: Callable[[], Awaitable[Any]]) -> Any:
        found = await go_on()
        if work.kind == "command" and isinstance(found, Reply):
            return found._replace(headers={**found.headers, "x-inner": work.name})
        return found

    @notes.on_start
    async def begun(mail: Mailer) -> None:
        told.append("start")

    @notes.on_stop
    async def ended() -> None:
        told.append(f"stop {mailer.is_open}")

    async with served(notes) as shop:
        written_one = await shop.ask("POST", "/notes", {"note": {"note_id": "n", "text": "hi"}}, token="ann")
        assert written_one.headers["x-inner"] == "Write"

        async def is_counted() -> bool:
            return (await shop.ask("GET", "/counts/n")).status_code == 200

        await until(is_counted)
    assert told[0] == "start"
    assert told[-1] == "stop True"
    assert {"command Write by ann True", "reaction hear by ann True", "fold count by nobody True"} <= set(told)
