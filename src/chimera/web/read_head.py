"""The read head: answers queries from views and the source of truth, and takes commands in."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from urllib.parse import quote

import msgspec

from chimera.borrow.reads import BorrowedReads
from chimera.caller import NOBODY, AskedBy, Upload
from chimera.commands.accept import Accepted, CommandDecoder, Intake, Misfit
from chimera.commands.inbox import Outcome
from chimera.commands.reuse import key_reused
from chimera.commands.states import CommandStates
from chimera.core.context import Context
from chimera.core.json import invalid
from chimera.errors import ChimeraError, Invalid, Rejected
from chimera.folds import View
from chimera.forms import AnyDocument, decoder_of, encode, form_of
from chimera.messages import Position
from chimera.parts import Handler, Query, Uploading, path_parameters
from chimera.personal import holds_personal
from chimera.ports import Session
from chimera.reader import POSITIONS_LIMIT, Notes, Reader
from chimera.views.documents import Documents, ProjectedTables, Waiting
from chimera.views.generations import GenerationReads
from chimera.web.admin import Admin
from chimera.web.lists import list_routes
from chimera.web.permission.asking import CALLER, Asking, is_asked_for
from chimera.web.permission.gate import Gate
from chimera.web.permission.groups import Groups
from chimera.web.permission.revealing import Answers
from chimera.web.probes import Probes
from chimera.web.replying import (
    VARY,
    answer_document,
    answer_error,
    answer_refusal,
    answer_rejected,
    not_found,
    own_headers,
)
from chimera.web.snapshots import Snapshots
from chimera.web.wire import openapi
from chimera.web.wire.http import HTML, JSON, Call, Header
from chimera.web.wire.middleware import OwnMiddleware
from chimera.web.wire.parameters import Parameters
from chimera.web.wire.routing import Route
from chimera.web.wire.uploads import upload_of

logger = logging.getLogger("chimera")

Take = Callable[[Call, bytes, Mapping[str, str], AskedBy], Awaitable[None]]
"""Takes a command of a body and of parameters of the path, and answers the call."""
_POSITION = re.compile(openapi.POSITION)
DEFAULT_STATUS = {"POST": 201, "PUT": 200, "PATCH": 200, "DELETE": 200}


class ReadHead:
    """The HTTP side of a service: routes for a Site, and what runs while they are served."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.states = CommandStates(context)
        self._generations = GenerationReads(context)
        self._documents = Documents(context, self._generations)
        self._tables = ProjectedTables(context)
        self._snapshots = Snapshots(context.store)
        self.borrows = {
            name: BorrowedReads(context, borrow, self._documents) for name, borrow in context.service.borrows.items()
        }
        self._intake = Intake(context)
        self._asking = Asking(context, self._snapshots, self._reader)
        self._gate = Gate(context, self._asking, self._snapshots, self._reader)
        groups = Groups(context, self._asking)
        self.probes = Probes(context, groups=groups)
        self._admin = Admin(context, self.states, self.borrows, groups)
        self._answers = Answers(context)
        self._middleware = OwnMiddleware(context.service, answer_error)
        self.works: dict[str, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Learn the modes in force, and follow them from now on: `works` end only when they fail."""
        await self._middleware.start()
        for borrow_name, borrow in self.borrows.items():
            self.context.owners[
                self.context.service.borrows[borrow_name].owner
            ]  # loaded now, not while a page waits for it
            await borrow.look()
            name = f"{self.context.service.name}'s look at how it borrows {borrow_name}"
            self.works[name] = asyncio.ensure_future(borrow.keep_looking())

    def leave(self) -> None:
        """Hold back no answer any longer: the process is about to stop."""
        self.states.leave()

    async def stop(self) -> None:
        """Finish the commands that were taken in, unless their log does not answer any more; end the works."""
        try:
            async with asyncio.timeout(self.context.timing.drain_s):
                await self._intake.drain()
        except TimeoutError:
            logger.warning("%s: commands that are not done yet are given up", self.context.service.name)
        await self._intake.close()
        for work in self.works.values():
            work.cancel()
        await asyncio.gather(*self.works.values(), return_exceptions=True)
        await self._middleware.stop()

    def routes(self) -> Sequence[Route]:
        """The service's own routes, then those that Chimera adds."""
        service = self.context.service
        routes = [self._command_route(handler) for handler in service.handlers.values() if handler.route]
        routes += [self._upload_route(uploading) for uploading in service.uploads.values()]
        routes += [self._query_route(query) for query in service.queries.values()]
        routes += [self._view_route(view, view.path) for view in service.views.values() if view.path]
        routes += list_routes(self.context, self._documents, self._gate, self._answers, _after, _said)
        routes = [route._replace(render=service.renderer) for route in routes]
        every = [*self._middleware.around(routes), *self._admin.routes(), *self.probes.routes()]
        return [route._replace(service=service.name) for route in every]

    def _command_route(self, handler: Handler) -> Route:
        method, _, template = (handler.route or "").partition(" ")

        async def endpoint(call: Call) -> None:
            _expect_no_query(call)
            asked = NOBODY
            if call.asked is not None:
                asked = call.asked
                self._asking.admit(asked, handler.signature)
            elif matters or CALLER in call.scope:
                asked = await self._asking(call)
                self._asking.admit(asked, handler.signature)
            await take(call, await call.body(), call.path, asked)

        matters = self._asking.is_known or is_asked_for(self.context.service, handler.signature)
        take = self._taking(handler, method, path_parameters(template))
        describe = partial(openapi.command, self.context.service, handler, template)
        return self._gate.of_command(Route(method, template, endpoint, describe), handler)

    def _taking(self, handler: Handler, method: str, path_fields: Sequence[str]) -> Take:
        """What makes a command of a body, and answers with what becomes of it."""
        decoder = CommandDecoder(self.context, handler, path_fields)
        answer = self._answer_direct if handler.direct else self._answer_async

        async def take(call: Call, body: bytes, path: Mapping[str, str], asked: AskedBy) -> None:
            idempotency_key = _idempotency_key(call)
            self._intake.hold(size := len(body))
            try:
                traceparent, metadata = call.header(b"traceparent"), self._asking.travels(call, asked)
                accepted = decoder.decode(body, path, idempotency_key, traceparent, asked.caller, metadata)
                if call.pending is not None:
                    await self._gate.settle(call.pending, asked, accepted.command)
                if decoder.is_personal:
                    accepted = await self._intake.conceal(accepted)
                await answer(call, handler, method, accepted, asked)
            except Misfit as misfit:
                raise await self._intake.refusal(misfit) from misfit
            finally:
                self._intake.let_go(size)

        return take

    def _upload_route(self, uploading: Uploading) -> Route:
        method, _, template = uploading.route.partition(" ")
        service, signature = self.context.service, uploading.signature
        handler = service.handlers[uploading.command.__names__[0]]._replace(wrapped="")
        parameters, calling = Parameters(signature), self.context.resources.calling(signature, Upload)
        take = self._taking(handler, method, ())

        async def endpoint(call: Call) -> None:
            arguments = parameters.read(call)
            asked = await self._asking(call)
            for needing in (signature, handler.signature):
                self._asking.admit(asked, needing)
            upload = upload_of(call, uploading.limit)
            command = await calling(own={Upload: upload}, asked=asked, plain=arguments)
            if not isinstance(command, uploading.command):
                raise ChimeraError(f"{signature.at} returned {command!r:.100}, no {uploading.command.__name__}")
            await take(call, form_of(uploading.command).encode(command), {}, asked)

        describe = partial(openapi.upload, service, uploading, handler, parameters.declared)
        route = Route(method, template, endpoint, describe)
        return self._gate.of_upload(route, uploading.allow, parameters.values, handler)

    async def _answer_async(
        self, call: Call, handler: Handler, method: str, accepted: Accepted, asked: AskedBy
    ) -> None:
        await self._intake.append(accepted.message)
        await call.answer_json(_taken(accepted), 201, _location(call, handler, accepted))

    async def _answer_direct(
        self, call: Call, handler: Handler, method: str, accepted: Accepted, asked: AskedBy
    ) -> None:
        outcome = await self._intake.execute(accepted.message, asked.request)
        if outcome.state == "reused":
            raise key_reused()
        headers = [*_position(outcome), (b"chimera-command", accepted.message.id.encode()), *own_headers(outcome)]
        if outcome.state != "done":
            await answer_refusal(call, outcome, headers)
            return
        body = outcome.body or msgspec.json.encode(_taken(accepted))
        status = outcome.status or DEFAULT_STATUS[method]
        if outcome.body:
            body, withheld = await self._answers.result(handler.result, body)
            headers += withheld
        await call.answer(
            body, status, JSON, [*headers, *(_location(call, handler, accepted) if status == 201 else ())]
        )

    def _reader(self, session: Session, waiting: Waiting | None = None) -> Reader:
        context = self.context
        waiting = waiting or Waiting(context, self._documents, Notes(), context.timing.after_s)
        return Reader(
            context.service, session, self._documents, self.borrows, waiting, context.clock.now, context.personal
        )

    def _query_route(self, query: Query) -> Route:
        signature, service = query.signature, self.context.service
        parameters = Parameters(signature)
        calling = self.context.resources.calling(signature, Reader)
        needs_reader, is_asked = signature.needs_any((Reader,)), is_asked_for(service, signature)

        async def ask(arguments: dict[str, object], asked: AskedBy, waiting: Waiting, session: Session) -> object:
            waiting.notes.begin()
            try:
                found = await calling(own={Reader: self._reader(session, waiting)}, asked=asked, plain=arguments)
            except Rejected:
                await waiting.cover_tables(session)
                raise
            await waiting.cover_tables(session)
            return found

        async def endpoint(call: Call) -> None:
            arguments = parameters.read(call)
            asked = await self._asking(call) if is_asked else NOBODY
            self._asking.admit(asked, signature)
            notes = Notes(_after(call))
            waiting = Waiting(self.context, self._documents, notes, self.context.timing.after_s, self._tables)
            try:
                if needs_reader:
                    found = await self._snapshots.look(partial(ask, arguments, asked, waiting))
                else:
                    found = await calling(asked=asked, plain=arguments)
                if found is None:
                    raise not_found(call)
            except Rejected as refusal:  # what it says may come from views that are behind
                await answer_rejected(call, refusal, _said(notes))
                return
            withheld = await self._answers.open(found)
            await answer_document(call, found, query.page, [*_said(notes), *withheld])

        method, _, template = query.route.partition(" ")
        describe = partial(openapi.query, service, query, parameters.declared, waits=needs_reader)
        return self._gate.of_address(Route(method, template, endpoint, describe), query.allow, parameters.values)

    def _view_route(self, view: View[AnyDocument], template: str) -> Route:
        name, key_type = view.name, view.key_type
        documents, setting_aside = self._documents, self.context.process.setting_aside
        is_personal = holds_personal(view.document)
        path, _, own_query = template.partition("?")
        paths = [other.path.partition("?") for other in self.context.service.views.values() if other.path]
        literals = [query for other, _, query in paths if other == path and query]

        def key_of(call: Call) -> str:
            return call.path[view.key] if key_type is str else _convert(call.path[view.key], key_type, view.key)

        async def endpoint(call: Call) -> None:
            if not own_query:
                _expect_no_query(call, literals)
            key = key_of(call)
            headers: Sequence[Header] = ()
            after = _after(call)
            data = None if after else await documents(name, key)
            if after or name in setting_aside:
                notes = Notes(after)
                waiting = Waiting(self.context, documents, notes, self.context.timing.after_s)
                await waiting.reach(name, view.sources)
                await waiting.look_aside(name, key)
                data = await documents(name, key)
                await waiting.cover(name)
                headers = _said(notes)
            if data is None:
                if view.absent == "404":
                    await answer_rejected(call, not_found(call), headers)
                    return
                data = encode(view.new(key))
            if view.page is not None:
                headers = [*headers, VARY]
                if call.wants_html():
                    document = decoder_of(view.document).decode(data)
                    withheld = await self._answers.open(document)
                    await call.answer(view.page(document).encode(), 200, HTML, [*headers, *withheld])
                    return
            if is_personal:
                data, withheld = await self._answers.told(view.document, data)
                headers = [*headers, *withheld]
            await call.answer(data, 200, JSON, headers)

        route = Route("GET", template, endpoint, partial(openapi.view, self.context.service, view, key_type))
        return self._gate.of_address(route, view.allow, lambda call: {view.key: key_of(call)}.__getitem__)


def _expect_no_query(call: Call, literals: Sequence[str] = ()) -> None:
    """Raises Invalid for a query; `literals` are those that are served beside none."""
    if not call.scope["query_string"]:
        return
    known = [literal.partition("=") for literal in literals]
    for name in call.query():
        if values := [value for other, _, value in known if other == name]:
            raise Invalid(f"{name} must be {' or '.join(values)}, and nothing beside it", field=f"query.{name}")
        raise Invalid(f"unknown in the query: {name[:64]}", field=f"query.{name[:64]}")
    raise Invalid("the query must be empty", field="query")


def _convert(text: str, type_: object, name: str) -> str:
    try:
        return str(msgspec.convert(text, type_, strict=False))
    except msgspec.ValidationError as error:
        raise invalid(error, f"path.{name}") from error


def _after(call: Call) -> list[Position]:
    given = call.headers_of(b"chimera-after")
    if not given:
        return []
    texts = [text.strip(" \t") for text in ",".join(given).split(",")]
    for text in texts:
        if not _POSITION.fullmatch(text):
            raise Invalid(
                f"{text[:100]!r} is not a position; a position looks like orders/3@1042",
                field="header.Chimera-After",
                status=400,
            )
    if len(texts) > POSITIONS_LIMIT:
        raise Invalid(f"at most {POSITIONS_LIMIT} positions", field="header.Chimera-After", status=400)
    return [Position.parse(text) for text in texts]


def _idempotency_key(call: Call) -> str | None:
    given = call.headers_of(b"idempotency-key")
    if len(given) > 1:
        raise Invalid("an Idempotency-Key comes once", field="header.Idempotency-Key", status=400)
    return given[0] if given else None


def _said(notes: Notes) -> list[Header]:
    """The headers that say what the answer's document does not."""
    found = (("chimera-behind", notes.behind), ("chimera-lacks", notes.lacking), ("chimera-position", notes.seen))
    return [(name.encode(), ",".join(map(str, said)).encode()) for name, said in found if said]


def _position(outcome: Outcome) -> list[Header]:
    return [(b"chimera-position", outcome.positions.encode())] if outcome.positions else []


def _taken(accepted: Accepted) -> dict[str, object]:
    """What is told of a command that was taken: its id, and its key, whole."""
    told: dict[str, object] = {"command_id": accepted.message.id}
    for name in accepted.command.__key_fields__:
        if "." in name:
            told[name.rpartition(".")[2]] = attrgetter(name)(accepted.command)
        else:
            told[name] = getattr(accepted.command, name)
    return told


def _location(call: Call, handler: Handler, accepted: Accepted) -> list[Header]:
    if handler.location is None:
        return []
    fields = {name: quote(str(getattr(accepted.command, name)), safe="") for name in path_parameters(handler.location)}
    return [(b"location", (call.root + handler.location.format(**fields)).encode())]
