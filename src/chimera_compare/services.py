"""The services under comparison: an owner with one share, a page that borrows it, and a monolith's page that joins."""

from __future__ import annotations

from typing import Any

import msgspec

from chimera import Borrowed, Command, Entity, Event, Reader, Reads, Service, Transaction
from chimera.parts import Borrow, Mode

OWNER = "owner"
PAGE = "page"
MONOLITH = "monolith"
SHARE = "shared"

JOIN = 'SELECT p.title, k.version, k.document FROM "pages" p LEFT JOIN "kept" k ON k.key = p.key WHERE p.key = ?'


class KeptRow(Entity, key="key", table="kept"):
    """The owner's row of a key; `document` is JSON."""

    key: str
    version: int
    document: str


class Change(Command, key="key"):
    """Give a key another document."""

    key: str
    document: msgspec.Raw


class Changed(Event, source=OWNER, key="key"):
    """A key has another document, the `version`-th."""

    key: str
    version: int


class Versioned(msgspec.Struct):
    """The shared document: one of the declared type, and its version, which counts its changes from 1."""

    version: int
    document: msgspec.Raw


class PageRow(Entity, key="key", table="pages"):
    """A page's own row."""

    key: str
    title: str


class Shown(msgspec.Struct):
    """A page: its own row, and what it borrows. `certain`: what it shows is, or was, what the owner has.

    A page that shows no document is certain only if it could learn that there is none.
    """

    key: str
    title: str
    state: str
    certain: bool
    version: int | None
    document: Any


def owner_service() -> Service:
    """The owner; each change of a document is a version more."""
    owner = Service(OWNER)
    owner.entity(KeptRow)

    @owner.handle(direct=True)
    async def change(command: Change, tx: Transaction) -> None:
        before = await tx.load(KeptRow, command.key)
        version = before.version + 1 if before else 1
        tx.save(KeptRow(command.key, version, bytes(command.document).decode()))
        tx.emit(Changed(command.key, version))

    @owner.share(SHARE, key="key", changed_by=[Changed])
    async def shared(keys: list[str], read: Reads) -> dict[str, Versioned]:
        found = await read.find(KeptRow, key=keys)
        return {row.key: Versioned(row.version, msgspec.Raw(row.document.encode())) for row in found}

    return owner


def page_service(document: object, mode: Mode, budget: float, max_age: float) -> Service:
    """A page per key: its own row, and what it borrows in this mode."""
    versioned = msgspec.defstruct("Versioned", [("version", int), ("document", document)])
    page = Service(PAGE)
    page.entity(PageRow)
    borrow: Borrow[Any] = page.borrow(SHARE, versioned, mode=mode, budget=budget, max_age=max_age, owner=OWNER)

    @page.get("/pages/{key}")
    async def show(key: str, read: Reader) -> Shown | None:
        row = await read.load(PageRow, key)
        if row is None:
            return None
        found: Borrowed[Any] = await read.borrowed(borrow, key)
        if found.value is None:
            return Shown(key, row.title, found.state, found.age is not None, None, None)
        return Shown(key, row.title, found.state, True, found.value.version, found.value.document)

    return page


def monolith_service() -> Service:
    """The same page in the owner's database: one join, no borrowing."""
    monolith = Service(MONOLITH)
    monolith.entity(PageRow)

    @monolith.get("/pages/{key}")
    async def show(key: str, read: Reader) -> Shown | None:
        rows = await read.execute(JOIN, key)
        if not rows:
            return None
        title, version, document = rows[0]
        return Shown(
            key,
            title,
            "fresh" if version else "absent",
            True,
            version,
            None if document is None else msgspec.Raw(document.encode()),
        )

    return monolith
