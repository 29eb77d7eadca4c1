"""An owner reached over HTTP, at what its read head serves under `/_chimera/<service>/`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeVar

import aiohttp
import msgspec

from chimera.errors import Unavailable
from chimera.messages import CloudEvent, Message

Answer = TypeVar("Answer", bound=msgspec.Struct)

KEYS_PER_CALL = 250
ANSWER_LIMIT = 32 << 20
TIMEOUT = aiohttp.ClientTimeout(total=10.0, connect=1.0)
GARBAGE = (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError)


class JournalAnswer(msgspec.Struct):
    partition: int
    events: list[CloudEvent]


class HeadsAnswer(msgspec.Struct):
    heads: dict[str, int]


class ShareAnswer(msgspec.Struct):
    share: str
    documents: dict[str, msgspec.Raw]


class HttpOwner:
    """The service `name` at `base`, such as `http://orders:8000`. Connections are kept and bounded."""

    def __init__(self, name: str, base: str, *, connections: int = 16) -> None:
        self._name = name
        self._base = f"{base.rstrip('/')}/_chimera/{name}"
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, share: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        pages = [keys[start : start + KEYS_PER_CALL] for start in range(0, len(keys), KEYS_PER_CALL)]
        answers = await asyncio.gather(
            *(self._get(f"/share/{share}", [("key", key) for key in page], ShareAnswer) for page in pages)
        )
        return {key: bytes(document) for answer in answers for key, document in answer.documents.items()}

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        query = [("partition", str(partition)), ("after", str(after)), ("limit", str(limit))]
        answer = await self._get("/journal", query, JournalAnswer)
        events = [event.to_message() for event in answer.events]
        if any(event.source != self._name or event.partition != partition for event in events):
            raise Unavailable(f"{self._base}/journal answered with events of another journal")
        return events

    async def heads(self) -> Mapping[int, int]:
        answer = await self._get("/heads", [], HeadsAnswer)
        try:
            return {int(partition): number for partition, number in answer.heads.items()}
        except ValueError as error:
            raise Unavailable(f"{self._base}/heads answered with {error}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, path: str, query: list[tuple[str, str]], type_: type[Answer]) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections), timeout=TIMEOUT, auto_decompress=False
            )
        try:
            async with self._session.get(self._base + path, params=query) as response:
                body = await response.content.read(-1) if (response.content_length or 0) <= ANSWER_LIMIT else b""
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self._base}{path} can't be reached: {type(error).__name__} {error}") from error
        if status != 200:
            raise Unavailable(f"{self._base}{path} answered {status}: {body[:200].decode(errors='replace')}")
        try:
            return msgspec.json.decode(body, type=type_)
        except GARBAGE as error:
            raise Unavailable(f"{self._base}{path} answered something else than {type_.__name__}: {error}") from error
