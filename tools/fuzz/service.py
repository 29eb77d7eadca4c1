"""The service whose doors are tried: keys in paths and bodies, lists, a share, an upload, queries, who asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from chimera import Caller, Command, Entity, Event, Reader, Reads, Rejected, Request, Service, Transaction, Upload


class Kind(StrEnum):
    """A kind of thing."""

    FEW = "few"
    MANY = "many"


class Part(Struct):
    """A part of a thing."""

    name: Annotated[str, Meta(max_length=50)]
    weight: float = 0.0
    parts: list[Part] = []


class Put(Command, key="thing"):
    """Put a thing."""

    thing: str
    kind: Kind
    number: int
    price: Decimal | None = None
    at: datetime | None = None
    day: date | None = None
    id: UUID | None = None
    parts: Sequence[Part] = ()
    notes: Mapping[str, str | int | None] = {}


class Count(Command, key="number"):
    """Count a number."""

    number: int
    day: date
    by: Annotated[int, Meta(ge=1, le=9)] = 1


class Filed(Command, key="thing"):
    """A file came for a thing."""

    thing: str
    sizes: list[int]


class WasPut(Event, source="fuzzed", key="thing"):
    """A thing was put."""

    thing: str
    kind: Kind
    number: int


class Thing(Entity, key="thing", table="things"):
    """A thing."""

    thing: str
    number: int = 0


class Shown(Struct):
    """A thing as it is shown."""

    thing: str
    kind: str = ""
    number: int = 0


def fuzzed() -> Service:  # noqa: C901 - many small functions
    """The service."""
    service = Service("fuzzed", partitions=4)
    service.entity(Thing)
    service.carries("campaign")

    @service.authenticate
    async def who(request: Request) -> Caller | None:
        name = request.headers.get("authorization", "").removeprefix("Bearer ")
        if name == "expired":
            raise Rejected("expired", status=401)
        return Caller(name[:100], frozenset(request.cookies), tenant=request.query.get("team", "")) if name else None

    @service.handle("PUT /things/{thing}")
    async def put(command: Put, tx: Transaction) -> None:
        tx.save(Thing(command.thing, command.number % 1000))
        tx.emit(WasPut(command.thing, command.kind, command.number % 1000))

    @service.handle("POST /counts/{number}/{day}", direct=True)
    async def count(command: Count, tx: Transaction, caller: Caller | None) -> dict[str, str]:
        if command.by == 7:
            raise Rejected("seven", "no", status=422)
        return {"by": caller.subject if caller else ""}

    @service.handle()
    async def filed(command: Filed, tx: Transaction) -> None: ...

    @service.upload("POST /things/{thing}/files", limit=64 << 10)
    async def files(upload: Upload, thing: str, tag: list[str], at: int = 0) -> Filed:
        if upload.content_type.startswith("multipart/"):
            return Filed(thing, [len(await part.read()) for part in [each async for each in upload.parts()]])
        return Filed(thing, [len(await upload.read())])

    @service.get("/things/{thing}")
    async def thing(thing: str, read: Reader, day: date | None = None, number: int = 0, tag: list[str] = []) -> Thing:  # noqa: B006
        return await read.load(Thing, thing) or Thing(thing)

    shown = service.view(Shown, key="thing", path="/shown/{thing}", absent="empty")
    shown.list("by_kind", where=["kind"], order=["-number"], path="/shown/by/{kind}")

    @shown.on(WasPut)
    def was_put(document: Shown, event: WasPut) -> None:
        document.kind, document.number = event.kind, event.number

    @service.share("things", key="thing", changed_by=[WasPut])
    async def shared(things: list[str], tx: Reads) -> dict[str, Shown]:
        return {each.thing: Shown(each.thing, "", each.number) for each in await tx.find(Thing, thing=things)}

    return service


served = fuzzed()
"""The service as settings name it."""
