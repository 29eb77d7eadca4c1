"""Answers of what an author's functions return, and of what they refuse."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from http import HTTPStatus
from typing import Any, cast

from chimera.commands.inbox import Outcome
from chimera.core.json import tell
from chimera.errors import Invalid, NotYet, Rejected, Unavailable, Unfit
from chimera.forms import json_of
from chimera.replies import Reply, ServerEvent, ServerEvents, Stream, written_headers
from chimera.signature import Page
from chimera.web.wire.http import FAILED, HTML, JSON, ASGIApp, Call, Event, Header, answer_problem, encoded
from chimera.web.wire.routing import NoRoute
from chimera.web.wire.turns import TooMany

logger = logging.getLogger("chimera")


_NO_MORE = object()
_LINE_END = re.compile(r"\r\n|\r|\n")
VARY = (b"vary", b"accept")


class Unauthenticated(Rejected):
    """Nobody knows who asks, or what she shows is wrong. `challenge` is for `WWW-Authenticate`.

    `login`: where she who wants a page is sent to log in; empty where she can't.
    """

    def __init__(self, reason: str, detail: str, challenge: str, login: str = "") -> None:
        super().__init__(reason, detail, status=401)
        self.challenge = challenge
        self.login = login


async def answer_document(call: Call, found: object, page: Page | None, headers: Sequence[Header]) -> None:
    """Answer with what a query returned: a value as JSON, or as a page for who prefers one; a Reply, or a Stream.

    Or an ASGI application, as the responses of frameworks are: it answers.
    """
    if isinstance(found, ServerEvents):
        found = _event_stream(found)
    if isinstance(found, Stream):
        await _answer_stream(call, found, headers)
        return
    if callable(found):
        await _answer_application(call, found, headers)
        return
    status = 200
    if isinstance(found, Reply):
        headers = [*headers, *encoded(found.written())]
        status, found = found.status, found.body
    if page is not None:
        headers = [*headers, VARY]
        if call.wants_html():
            await call.answer(page(found).encode(), status, HTML, headers)
            return
    body = b"" if found is None and status != 200 else tell(found)
    await call.answer(body, status, JSON, headers)


async def answer_rejected(call: Call, refusal: Rejected, headers: Sequence[Header]) -> None:
    """Answer with a refusal."""
    await answer_problem(
        call,
        refusal.status,
        refusal.detail or refusal.reason,
        field=refusal.field,
        reason=refusal.reason,
        errors=refusal.errors,
        headers=headers,
    )


async def answer_refusal(call: Call, outcome: Outcome, headers: Sequence[Header]) -> None:
    """Answer a direct command that was refused, or failed."""
    if outcome.state == "rejected":
        field, faults = (outcome.more.field, outcome.more.errors) if outcome.more else ("", ())
        again = Rejected(outcome.reason, outcome.detail, status=outcome.status, field=field, errors=faults)
        await answer_rejected(call, again, headers)
        return
    come_again = [(b"retry-after", b"1")] if outcome.status == 503 else []
    told = "it failed, and nothing of it was kept; it is in the log"
    await answer_problem(call, outcome.status, told, headers=[*headers, *come_again])


async def answer_error(call: Call, error: Exception) -> None:
    """Answer with the problem document of what went wrong; what nobody has foreseen goes into the log."""
    if isinstance(error, NoRoute):
        allow = [(b"allow", ", ".join(error.allowed).encode())] if error.allowed else []
        detail = (
            f"{call.scope['path'][:200]} does not take {call.scope['method']}"
            if error.allowed
            else f"nothing is served at {call.scope['path'][:200]}"
        )
        await answer_problem(call, error.status, detail, headers=allow)
    elif isinstance(error, Invalid):
        await answer_problem(
            call, error.status, error.detail, field=error.field, errors=error.errors, headers=_close(call)
        )
    elif isinstance(error, Unauthenticated) and error.login and call.wants_html():
        headers = [(b"location", f"{call.root}{error.login}".encode()), VARY, (b"cache-control", b"no-store")]
        await call.answer(b"", HTTPStatus.SEE_OTHER, headers=headers)
    elif isinstance(error, Rejected):
        headers = [(b"www-authenticate", error.challenge.encode())] if isinstance(error, Unauthenticated) else []
        if isinstance(error, TooMany):
            headers = [(b"retry-after", b"%d" % error.after_s)]
        detail = error.detail or error.reason
        await answer_problem(
            call,
            error.status,
            detail,
            field=error.field,
            reason=error.reason,
            errors=error.errors,
            headers=headers,
        )
    elif isinstance(error, Unavailable):
        logger.warning("%s %s: %s", call.scope["method"], call.scope["path"], error)
        await answer_problem(
            call,
            HTTPStatus.SERVICE_UNAVAILABLE,
            str(error) if isinstance(error, NotYet) else "it can't be done now, and nothing was kept; try again",
            headers=[(b"retry-after", b"1"), *_close(call)],
        )
    else:
        logger.error("%s %s failed", call.scope["method"], call.scope["path"], exc_info=error)
        await answer_problem(call, HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)


def _close(call: Call) -> list[Header]:
    return [(b"connection", b"close")] if call.is_unread else []


def not_found(call: Call) -> Rejected:
    """The refusal of what there is not."""
    return Rejected("not_found", f"there is no {call.scope['path'][:200]}", status=404)


def own_headers(outcome: Outcome) -> list[Header]:
    """The headers that a direct command's handler gave its answer."""
    return encoded(outcome.more.headers) if outcome.more else []


async def _answer_stream(call: Call, stream: Stream, headers: Sequence[Header]) -> None:
    """Send the chunks as they come, until there are no more or the client goes away; then its source is closed."""
    described = [(b"content-type", stream.content_type.encode()), *encoded(written_headers([*stream.headers.items()]))]
    gone = asyncio.ensure_future(_until_gone(call))
    try:
        await call.send({"type": "http.response.start", "status": stream.status, "headers": [*described, *headers]})
        async for chunk in _until(stream.chunks, gone):
            await call.send({"type": "http.response.body", "body": chunk, "more_body": True})
        await call.send({"type": "http.response.body", "body": b""})
    finally:
        gone.cancel()


async def _answer_application(call: Call, application: ASGIApp, headers: Sequence[Header]) -> None:
    async def send(event: Event) -> None:
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event.get("headers", ()), *headers]}
        await call.send(event)

    await application(call.scope, call.receive, send)


def _event_stream(events: ServerEvents) -> Stream:
    return Stream(_written(events), "text/event-stream", headers={"cache-control": "no-cache", **events.headers})


async def _written(events: ServerEvents) -> AsyncIterator[bytes]:
    coming: asyncio.Future[Any] | None = None
    async with _closing(events.source):
        try:
            yield b": here\n\n"
            while True:
                coming = coming or asyncio.ensure_future(anext(events.source, _NO_MORE))
                done, _ = await asyncio.wait((coming,), timeout=events.alive_s)
                if not done:
                    yield b": alive\n\n"
                    continue
                if (found := coming.result()) is _NO_MORE:
                    return
                coming = None
                yield _line_by_line(found if isinstance(found, ServerEvent) else ServerEvent(found))
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait((coming,))


def _line_by_line(sent: ServerEvent) -> bytes:
    """The event as it is sent. Raises Unfit for a name or an id of several lines, or what no JSON can be made of."""
    if any(each in text for text in (sent.event, sent.id) for each in "\r\n\0"):
        raise Unfit(f"the event {sent.event[:64]!r} with id {sent.id[:64]!r}: each is one line")
    text = sent.data if isinstance(sent.data, str) else json_of(sent.data, "a server-sent event").decode()
    lines = [f"event: {sent.event}"] if sent.event else []
    lines += [f"id: {sent.id}"] if sent.id else []
    lines += [f"retry: {sent.retry_ms}"] if sent.retry_ms is not None else []
    return "\n".join([*lines, *(f"data: {line}" for line in _LINE_END.split(text)), "", ""]).encode()


async def _until_gone(call: Call) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


async def _until(chunks: AsyncIterator[bytes], gone: asyncio.Future[None]) -> AsyncIterator[bytes]:
    """The chunks, as long as the client is there."""
    async with _closing(chunks):
        while True:
            coming = asyncio.ensure_future(anext(chunks, None))
            try:
                await asyncio.wait((coming, gone), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    return
                if (chunk := coming.result()) is None:
                    return
            finally:
                if not coming.done():
                    coming.cancel()
                    with suppress(asyncio.CancelledError):
                        await coming
            yield chunk


def _closing(chunks: AsyncIterator[bytes]) -> AbstractAsyncContextManager[Any]:
    return aclosing(cast("Any", chunks)) if hasattr(chunks, "aclose") else nullcontext(chunks)
