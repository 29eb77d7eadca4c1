"""Personal values in answers: they are revealed here, for whoever may have the answer, and nowhere before."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from chimera.core.context import Context
from chimera.core.json import collector_of, tell
from chimera.core.keys.personal import is_personal_in
from chimera.errors import Unavailable
from chimera.forms import decoder_of
from chimera.personal import Forgotten, Personal, holds_personal
from chimera.replies import Reply
from chimera.web.wire.http import Header

WITHHELD = b"chimera-withheld"
"""The header with the services whose keys can't be had now, so that what only they open is null."""


class Answers:
    """Reveals what is in answers of a service; of one without personal values nothing is looked at."""

    def __init__(self, context: Context) -> None:
        self._keys = context.personal
        self._is_on = is_personal_in(context.service)

    async def open(self, found: object) -> list[Header]:
        """Let what is in it be shown. Where a key can't be had, it is withheld; the headers say so."""
        if not self._is_on:
            return []
        values: dict[str, list[Personal[Any]]] = {}
        for each in _personal_in(found.body if isinstance(found, Reply) else found):
            values.setdefault(each.parts.service if each.parts else "", []).append(each)
        away = [service for service, some in values.items() if not await self._show(some)]
        return [(WITHHELD, ",".join(sorted(away)).encode())] if away else []

    async def told(self, type_: Any, data: bytes) -> tuple[bytes, list[Header]]:
        """What is stored of a document, as it is told to who may have it."""
        if not self._is_on or not holds_personal(type_):
            return data, []
        document = decoder_of(type_).decode(data)
        headers = await self.open(document)
        return tell(document), headers

    async def page(self, type_: Any, page: Any) -> list[Header]:
        """Put documents as they are told into the place of those of a page, as they are stored."""
        if not self._is_on or not holds_personal(type_):
            return []
        documents = [decoder_of(type_).decode(each) for each in page.items]
        headers = await self.open(documents)
        page.items = [msgspec.Raw(tell(each)) for each in documents]
        return headers

    async def result(self, type_: Any, body: bytes) -> tuple[bytes, list[Header]]:
        """As `told`, of what a handler has returned that says so."""
        if typing.get_origin(type_) is Reply:
            [type_] = typing.get_args(type_)
        return await self.told(type_, body)

    async def _show(self, values: Sequence[Personal[Any]]) -> bool:
        try:
            shown: list[Any] = await self._keys.reveal(values)
            is_known = True
        except Unavailable:
            shown, is_known = [Forgotten()] * len(values), False
        for each, value in zip(values, shown, strict=True):
            each.show(value)
        return is_known


def _personal_in(found: object) -> list[Personal[Any]]:
    """The personal values in what is to be sent as JSON; none in what is not."""
    values: list[Personal[Any]] = []
    try:
        collector_of(values).encode(found)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return values
    return values
