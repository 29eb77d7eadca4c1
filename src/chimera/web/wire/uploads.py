"""The body of an upload, a chunk at a time, and the parts of a form (multipart/form-data)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser, parse_options_header

from chimera.caller import FormPart, Upload
from chimera.errors import Invalid
from chimera.web.wire.http import Call, too_large

Event = Any
"""The head of a part (MultipartSegment), a chunk of it, or None at its end."""
MOST_PARTS = 128
"""Parts that a form may have."""


def upload_of(call: Call, limit: int) -> Upload:
    """The body of a request, of `limit` bytes at most. Raises Invalid (413) where it is known to have more."""
    length = call.header(b"content-length") or ""
    size = int(length) if length.isdigit() else None
    if size is not None and size > limit:
        call.is_unread = True
        raise too_large(limit)
    content_type = call.header(b"content-type") or ""
    chunks = _chunks(call, limit)
    return Upload(content_type, size, chunks, _parts(content_type, size, chunks))


async def _chunks(call: Call, limit: int) -> AsyncIterator[bytes]:
    """Raises Invalid for a body over the limit (413), and where the client goes away before its end."""
    call.is_unread, came = True, 0
    while True:
        event = await call.receive()
        if event["type"] == "http.disconnect":
            raise Invalid("the client went away before the body was complete", status=400)
        came += len(chunk := event.get("body", b""))
        if came > limit:
            raise too_large(limit)
        if chunk:
            yield chunk
        if not event.get("more_body"):
            call.is_unread = False
            return


async def _parts(content_type: str, size: int | None, chunks: AsyncIterator[bytes]) -> AsyncIterator[FormPart]:
    """Raises Invalid for a body that is no form, or one of too many parts."""
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise Invalid(
            "the body is no form; send it as multipart/form-data, with its boundary",
            field="header.Content-Type",
            status=415,
        )

    events = _events(options["boundary"], size, chunks)
    async for event in events:
        if isinstance(event, MultipartSegment):
            part = FormPart(event.name or "", event.filename or "", event.content_type or "", _of_part(events))
            yield part
            async for _ in part:  # what was not read of it
                pass


async def _events(boundary: str, size: int | None, chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """The heads of parts, and what follows each: its chunks, and None at its end."""

    async def read(_: int) -> bytes:
        return await anext(chunks, b"")

    try:
        with PushMultipartParser(
            boundary, content_length=-1 if size is None else size, max_segment_count=MOST_PARTS
        ) as parser:
            async for event in parser.parse_async(read):
                yield event
    except ParserLimitReached as error:
        raise Invalid(f"the form has too many parts or too long a head: {error}", status=413) from error
    except MultipartError as error:
        raise Invalid(f"the form can't be read: {error}", status=400) from error
    async for _ in chunks:  # what comes behind the form
        pass


async def _of_part(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        if event is None:
            return
        yield bytes(event)
