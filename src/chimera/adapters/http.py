"""An owner reached over HTTP, at what its read head serves under `/_chimera/<service>/`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from chimera.errors import Trimmed, Unavailable
from chimera.messages import CloudEvent, Message, Position
from chimera.ports import BucketDigest, ConsumerAt, Entry, Epoch, Fetched, KnownKey

Answer = TypeVar("Answer", bound=msgspec.Struct)
Result = TypeVar("Result")

KEYS_PER_CALL = 250
CONSUMERS_PER_CALL = 1000
ADDRESS_PER_CALL = 48_000
ANSWER_LIMIT = 32 << 20
TIMEOUT = aiohttp.ClientTimeout(total=10.0, connect=1.0)
GARBAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class JournalAnswer(msgspec.Struct):
    """A page of the journal, as far as it is read; the owner's side is in `web.wire.answers`, as of the others."""

    partition: int
    events: list[CloudEvent]


class HeadsAnswer(msgspec.Struct):
    """The newest numbers, by partition as text."""

    heads: dict[str, int]


class ChainAnswer(msgspec.Struct):
    """The chain of a partition at the number asked for; empty where it is not known."""

    partition: int
    chain: str


class ShareAnswer(msgspec.Struct):
    """A share's documents as they came, by key; `positions` of each key asked for, from an owner that tells them."""

    share: str
    documents: dict[str, msgspec.Raw]
    positions: dict[str, str] = {}


class DigestsAnswer(msgspec.Struct):
    """The digests of a partition's buckets, by bucket."""

    partition: int
    buckets: dict[int, BucketDigest]


class EntriesAnswer(msgspec.Struct):
    """The entries of some of a partition's buckets, by key."""

    partition: int
    entries: dict[str, Entry]


class EpochAnswer(msgspec.Struct):
    """Where a partition's history began anew."""

    partition: int
    number: int
    chain: str
    offset: int


class EpochsAnswer(msgspec.Struct):
    """Where an owner's history began anew."""

    epochs: list[EpochAnswer]


class ConsumersAnswer(msgspec.Struct):
    """The number of reported checkpoints that the owner has stored."""

    kept: int


class SubjectsAnswer(msgspec.Struct):
    """The keys of subjects, each with its id."""

    keys: dict[str, tuple[str, bytes]]


class _Gone(Unavailable):
    """The owner had what it was asked for, and has it no more."""


class _NotFound(Unavailable):
    """The owner does not know the route."""


_MEANING: Mapping[int, type[Unavailable]] = {HTTPStatus.GONE: _Gone, HTTPStatus.NOT_FOUND: _NotFound}


class Transport(Protocol):
    """The way to a service's read head."""

    async def request(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: bytes | None
    ) -> tuple[int, bytes]:
        """The status and the body of the answer. Raises Unavailable when there is none."""

    async def close(self) -> None:
        """Close its connections."""


class HttpTransport:
    """HTTP to `base`, such as `http://orders:8000`. Connections are used again, and bounded. `token` says who asks."""

    def __init__(self, base: str, *, connections: int = 16, token: Callable[[], str] | None = None) -> None:
        self._base = base.rstrip("/")
        self._connections = connections
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: bytes | None
    ) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections), timeout=TIMEOUT, auto_decompress=False
            )
        try:
            headers = {"Authorization": f"Bearer {self._token()}"} if self._token else None
            async with self._session.request(
                method, self._base + path, params=query, data=body, headers=headers
            ) as response:
                return response.status, await _read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self._base}{path} can't be reached: {type(error).__name__} {error}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class HttpOwner:
    """The service `name`, reached by a transport; `base` is its address, such as `http://orders:8000`.

    `token` gives what is shown to it, to be known.
    """

    def __init__(
        self, name: str, base: str, *, transport: Transport | None = None, token: Callable[[], str] | None = None
    ) -> None:
        self._name = name
        self._path = f"/_chimera/{name}"
        self._base = base.rstrip("/") + self._path
        self._transport = transport or HttpTransport(base, token=token)

    async def fetch(self, share: str, keys: Sequence[str]) -> Fetched:
        answers = await _all(
            [self._get(f"/share/{share}", [("key", key) for key in page], ShareAnswer) for page in _pages(keys)]
        )
        documents = {key: bytes(document) for answer in answers for key, document in answer.documents.items()}
        try:
            told = {key: Position.parse(text) for answer in answers for key, text in answer.positions.items()}
        except ValueError as error:
            raise Unavailable(f"{self._base}/share/{share} answered with {error}") from error
        return Fetched(documents, {key: at for key, at in told.items() if at.source == self._name})

    async def digests(self, share: str, partition: int) -> Mapping[int, BucketDigest]:
        answer = await self._get(f"/share/{share}/digests", [("partition", str(partition))], DigestsAnswer)
        self._check_partition(f"/share/{share}/digests", partition, answer.partition)
        return answer.buckets

    async def entries(self, share: str, partition: int, buckets: Collection[int]) -> Mapping[str, Entry]:
        query = [("partition", str(partition)), *(("bucket", str(bucket)) for bucket in buckets)]
        answer = await self._get(f"/share/{share}/entries", query, EntriesAnswer)
        self._check_partition(f"/share/{share}/entries", partition, answer.partition)
        return answer.entries

    async def journal(self, partition: int, after: int, limit: int) -> Sequence[Message]:
        query = [("partition", str(partition)), ("after", str(after)), ("limit", str(limit))]
        try:
            answer = await self._get("/journal", query, JournalAnswer)
        except _Gone as gone:
            raise Trimmed(partition, after, f"the journal at {self._base}") from gone
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

    async def chain(self, at: Mapping[int, int]) -> Mapping[int, str]:
        found = await _all([self._chain_at(*place) for place in at.items()])
        return {partition: chain for partition, chain in zip(at, found, strict=True) if chain}

    async def _chain_at(self, partition: int, number: int) -> str:
        query = [("partition", str(partition)), ("number", str(number))]
        try:
            answer = await self._get("/journal/chain", query, ChainAnswer)
        except _NotFound:  # an earlier release knows of no chains
            return ""
        self._check_partition("/journal/chain", partition, answer.partition)
        return answer.chain

    async def epochs(self) -> Sequence[Epoch]:
        try:
            answer = await self._get("/journal/epochs", [], EpochsAnswer)
        except _NotFound:  # an earlier release knows of none
            return []
        return [Epoch(each.partition, each.number, each.chain, each.offset) for each in answer.epochs]

    async def report(self, consumers: Sequence[ConsumerAt]) -> None:
        for start in range(0, len(consumers), CONSUMERS_PER_CALL):
            body = msgspec.json.encode({"consumers": consumers[start : start + CONSUMERS_PER_CALL]})
            await self._call("PUT", "/consumers", [], ConsumersAnswer, body)

    async def subject_keys(self, subjects: Sequence[str]) -> Mapping[str, KnownKey]:
        asked = [self._get("/subjects", [("key", each) for each in page], SubjectsAnswer) for page in _pages(subjects)]
        answers = await _all(asked)
        return {each: KnownKey(*key) for answer in answers for each, key in answer.keys.items()}

    async def close(self) -> None:
        await self._transport.close()

    def _check_partition(self, path: str, asked: int, answered: int) -> None:
        if asked != answered:
            raise Unavailable(f"{self._base}{path} answered for partition {answered}, not {asked}")

    async def _get(self, path: str, query: list[tuple[str, str]], type_: type[Answer]) -> Answer:
        return await self._call("GET", path, query, type_)

    async def _call(
        self, method: str, path: str, query: list[tuple[str, str]], type_: type[Answer], body: bytes | None = None
    ) -> Answer:
        status, answer = await self._transport.request(method, self._path + path, query, body)
        if status != 200:
            raise _MEANING.get(status, Unavailable)(
                f"{self._base}{path} answered {status}: {answer[:200].decode(errors='replace')}"
            )
        try:
            return msgspec.json.decode(answer, type=type_)
        except GARBAGE as error:
            raise Unavailable(f"{self._base}{path} answered something else than {type_.__name__}: {error}") from error


async def _all(calls: Sequence[Coroutine[Any, Any, Result]]) -> Sequence[Result]:
    """What comes of calls, made at once; a single one, as most are, needs no task."""
    return [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)


def _pages(keys: Sequence[str]) -> list[list[str]]:
    """The keys in calls that an address has room for."""
    pages: list[list[str]] = []
    room = 0
    for key in keys:
        size = len(quote(key, safe="")) + len("&key=")
        if not pages or len(pages[-1]) == KEYS_PER_CALL or size > room:
            pages.append([])
            room = ADDRESS_PER_CALL
        pages[-1].append(key)
        room -= size
    return pages


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, or nothing once it is larger than any answer of ours."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > ANSWER_LIMIT:
            response.close()
            raise Unavailable(f"{response.url.path} answered with more than {ANSWER_LIMIT} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
