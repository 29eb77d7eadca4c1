"""Redis behind the port of views, and as a cache of last known values.

A write is one script, and a script's effects reach the append-only file as one transaction. With `appendonly yes`
and `appendfsync everysec` a restarted server has lost nothing that was confirmed, a crashed one the last second or
two. That is enough for views: documents and checkpoints fall back together, and the projector folds on from that
checkpoint. Without the file, or when a replica takes over, they fall back further, still together. Revisions follow
the clock, so that one from a lost future never becomes valid again.

Redis 7.0 replays the file with the rights of the user `default`, and skips every transaction that those do not cover:
where that user is off, leave it the rights (`user default off ~* &* +@all`).
Redis must not evict: `create` refuses a policy that would take documents and leave their checkpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import hiredis
import redis.exceptions as failures
from redis.asyncio.connection import Connection, parse_url

from chimera.adapters.last_known import TTL_S, WAIT_S, Patience, known_at, with_time
from chimera.errors import CutShort, SettingsError, Unavailable
from chimera.ports import Checkpoint, Document, Features, LastKnown, LastKnownStore, Listing, Move, ViewStore

Word = str | bytes | int
Command = tuple[Any, ...]  # of words; hiredis takes them as a tuple of one

_CONNECTIONS = 16
_TRUSTED_S = 1.0
_BACKOFF_S = (0.02, 0.1, 0.4)
_OPTIONS = {"socket_timeout": 10.0, "socket_connect_timeout": 2.0, "socket_keepalive": True, "protocol": 2}

_REFUSED = (failures.AuthenticationError, failures.NoPermissionError, failures.AuthorizationError)
_OUT_OF_REACH = (failures.ConnectionError, failures.TimeoutError, OSError)
_BUSY = re.compile(r"MISCONF|BUSY|NOREPLICAS|UNKILLABLE")
_NOT_NOW = (failures.OutOfMemoryError, failures.ClusterDownError, failures.TryAgainError, failures.ReadOnlyError)
"""A full server, too: a script is refused before its first write, so that nothing of it was done."""

# KEYS: the revision; a hash and its sorted keys, in turn. The first hash is of checkpoints; beside it is one of chains.
# ARGV, for each hash: how many fields, how many of them are put, fields, expected numbers, values of those put.
# The revision is set even where only checkpoints move: an effect of one command would not be a transaction in the file.
# A value is "number rest"; those of documents get the new revision in front. Behind them in ARGV are the chains.
# At the end are lists: in KEYS a sorted set for each view; in ARGV how many of its members go, how many come, and they.
# ARGV begins with how many pairs of a hash and its sorted keys there are.
_WRITE = """
local CHUNK = 1000
local groups, at = {}, 2
local lists = 2 + 2 * tonumber(ARGV[1])
for index = 2, lists - 1, 2 do
  local count, puts = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  groups[#groups + 1] = {hash = KEYS[index], keys = KEYS[index + 1], count = count, puts = puts, first = at + 2}
  at = at + 2 + 2 * count + puts
end
for _, group in ipairs(groups) do
  local last = group.first + group.count - 1
  for start = group.first, last, CHUNK do
    local stop = math.min(start + CHUNK - 1, last)
    local kept = redis.call('HMGET', group.hash, unpack(ARGV, start, stop))
    for index = start, stop do
      local value, expected = kept[index - start + 1], ARGV[index + group.count]
      if not value then
        if expected ~= '0' then return 0 end
      elseif string.sub(value, 1, #expected + 1) ~= expected .. ' ' then
        return 0
      end
    end
  end
end
local now = redis.call('TIME')
local clock = tonumber(now[1]) * 1000000 + tonumber(now[2])
local revision = string.format('%.0f', math.max(tonumber(redis.call('GET', KEYS[1]) or 0) + 1, clock))
redis.call('SET', KEYS[1], revision)
for order, group in ipairs(groups) do
  local prefix = order > 1 and revision .. ' ' or ''
  local last, values = group.first + group.puts - 1, group.first + 2 * group.count
  for start = group.first, last, CHUNK do
    local pairs, new = {}, {}
    for index = start, math.min(start + CHUNK - 1, last) do
      pairs[#pairs + 1] = ARGV[index]
      pairs[#pairs + 1] = prefix .. ARGV[values + index - group.first]
      if ARGV[index + group.count] == '0' then
        new[#new + 1] = 0
        new[#new + 1] = ARGV[index]
      end
    end
    redis.call('HSET', group.hash, unpack(pairs))
    if order == 1 then
      for index = 1, #pairs, 2 do pairs[index + 1] = ARGV[at + start - group.first + (index - 1) / 2] end
      redis.call('HSET', group.keys, unpack(pairs))
    end
    if order > 1 and #new > 0 then redis.call('ZADD', group.keys, unpack(new)) end
  end
  for start = last + 1, group.first + group.count - 1, CHUNK do
    local stop = math.min(start + CHUNK, group.first + group.count) - 1
    redis.call('HDEL', group.hash, unpack(ARGV, start, stop))
    redis.call('ZREM', group.keys, unpack(ARGV, start, stop))
  end
end
at = at + groups[1].puts
for index = lists, #KEYS do
  local come = at + 2 + tonumber(ARGV[at])
  local last = come + tonumber(ARGV[at + 1]) - 1
  for start = at + 2, come - 1, CHUNK do
    redis.call('ZREM', KEYS[index], unpack(ARGV, start, math.min(start + CHUNK, come) - 1))
  end
  for start = come, last, CHUNK do
    local added = {}
    for member = start, math.min(start + CHUNK - 1, last) do
      added[#added + 1] = 0
      added[#added + 1] = ARGV[member]
    end
    redis.call('ZADD', KEYS[index], unpack(added))
  end
  at = last + 1
end
return revision
"""
_CHECKPOINTS = """
local found, all = redis.call('HGETALL', KEYS[1]), {}
for index = 1, #found, 2 do
  all[#all + 1] = found[index]
  all[#all + 1] = found[index + 1]
  all[#all + 1] = redis.call('HGET', KEYS[2], found[index]) or ''
end
return all
"""
_SCAN = """
local keys = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local values = {}
for start = 1, #keys, 1000 do
  local stop = math.min(start + 999, #keys)
  for _, value in ipairs(redis.call('HMGET', KEYS[1], unpack(keys, start, stop))) do values[#values + 1] = value end
end
return {keys, values}
"""


def open_engine(kind: Literal["log", "store", "views", "last_known"], url: str) -> ViewStore | LastKnownStore:
    """The engine of `redis://[[user]:password@]host:port/db?prefix=chimera`; `rediss://` is Redis over TLS.

    For last known values also `ttl`, in seconds. All other options are redis-py's own. Raises SettingsError.
    """
    server, options = _parse(url)
    prefix, ttl = options.get("prefix", "chimera"), options.get("ttl", f"{TTL_S:g}")
    match kind:
        case "views":
            return RedisViews(server, prefix=prefix)
        case "last_known":
            try:
                return RedisLastKnown(server, prefix=prefix, ttl_s=float(ttl))
            except ValueError:
                raise SettingsError(f"{_public(url)}: ttl={ttl} is not a number of seconds") from None
    raise SettingsError(f"{_public(url)}: Redis can't be a {kind}; it can keep views")


class RedisViews:
    """A hash of documents and sorted sets of keys and of lists per view; hashes of checkpoints and chains per consumer.

    A document is stored as its revision, a space and its bytes, so that one read returns both.
    """

    features = Features(durable=True, shared=True, poll_s=0.01)

    def __init__(self, url: str, *, prefix: str = "chimera", connections: int = _CONNECTIONS) -> None:
        self._server = _Server(url, connections)
        self._prefix = prefix

    async def create(self) -> None:
        """Raises SettingsError when the server would evict documents."""
        memory = (await self._server.read("INFO", "memory")).decode()
        if policy := re.search(r"^maxmemory_policy:(allkeys-\S+)", memory, re.MULTILINE):
            raise SettingsError(
                f"{self._server.name} has maxmemory-policy {policy[1]} and would lose documents; set it to noeviction"
            )

    async def get(self, view: str, keys: Sequence[str]) -> Mapping[str, Document]:
        if not keys:
            return {}
        values = await self._server.read("HMGET", self._documents(view), *keys)
        return _documents(view, keys, values)

    async def write(
        self, consumer: str, documents: Sequence[Document], moves: Sequence[Move], listings: Sequence[Listing] = ()
    ) -> int:
        by_view: dict[str, list[Document]] = {}
        for document in documents:
            by_view.setdefault(document.view, []).append(document)
        keys = [f"{self._prefix}:revision", self._checkpoints(consumer), self._chains(consumer)]
        arguments = [1 + len(by_view), *_moved(moves)]
        for view, group in by_view.items():
            keys += [self._documents(view), self._keys(view)]
            arguments += _written(group)
        arguments += [move.after.stands_on for move in moves]
        for view in dict.fromkeys(listing.view for listing in listings):
            keys.append(self._lists(view))
            arguments += _changed([listing for listing in listings if listing.view == view])
        return int(await self._server.write_script(_WRITE, keys, arguments))

    async def checkpoints(self, consumer: str) -> Mapping[tuple[str, int], Checkpoint]:
        flat = await self._server.read_script(_CHECKPOINTS, [self._checkpoints(consumer), self._chains(consumer)], [])
        return dict(map(_checkpoint, flat[::3], flat[1::3], flat[2::3]))

    async def scan(self, view: str, after: str = "", limit: int = 500) -> Sequence[Document]:
        keys = [self._documents(view), self._keys(view)]
        found, values = await self._server.read_script(_SCAN, keys, ["(" + after if after else "-", limit])
        return list(_documents(view, [key.decode() for key in found], values).values())

    async def listed(
        self, view: str, within: bytes, after: bytes = b"", limit: int = 500, skip: int = 0
    ) -> Sequence[bytes]:
        start = b"(" + within + after if after else b"[" + within
        found = await self._server.read("ZRANGEBYLEX", self._lists(view), start, _end(within), "LIMIT", skip, limit)
        return [member[len(within) :] for member in found]

    async def drop(self, consumer: str, views: Sequence[str]) -> None:
        names = [name for view in views for name in (self._documents(view), self._keys(view), self._lists(view))]
        await self._server.write(("UNLINK", self._checkpoints(consumer), self._chains(consumer), *names))

    def removal(self, topics: Sequence[str]) -> str:
        """As `ports.Removable`."""
        keys = f"redis-cli --scan --pattern '{self._prefix}:*'"
        return f"in {self._server.name}: {keys} | xargs -d '\\n' redis-cli unlink"

    async def close(self) -> None:
        await self._server.close()

    def _documents(self, view: str) -> str:
        return f"{self._prefix}:documents:{view}"

    def _keys(self, view: str) -> str:
        return f"{self._prefix}:keys:{view}"

    def _lists(self, view: str) -> str:
        return f"{self._prefix}:lists:{view}"

    def _checkpoints(self, consumer: str) -> str:
        return f"{self._prefix}:checkpoints:{consumer}"

    def _chains(self, consumer: str) -> str:
        return f"{self._prefix}:chains:{consumer}"


class RedisLastKnown:
    """Last known values as strings with an expiry, each with the time when it was put at its front."""

    wait_s = WAIT_S

    def __init__(self, url: str, *, prefix: str = "chimera", ttl_s: float = TTL_S, connections: int = 4) -> None:
        self._server = _Server(url, connections)
        self._patience = Patience(self._server.name)
        self._prefix = f"{prefix}:known:"
        self._ttl_ms = round(ttl_s * 1000)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        if not keys:
            return {}
        command = ["MGET", *(self._prefix + key for key in keys)]
        nothing: list[bytes | None] = [None] * len(keys)
        values = await self._patience.ask(lambda: self._server.read(*command), nothing)
        return {key: known_at(value) for key, value in zip(keys, values, strict=True) if value is not None}

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        if values:
            commands = [self._put(self._prefix + key, data) for key, data in values.items()]
            nothing: list[Any] = []
            await self._patience.ask(lambda: self._server.write(*commands), nothing)

    async def close(self) -> None:
        await self._patience.close()
        await self._server.close()

    def _put(self, key: str, data: bytes | None) -> Command:
        return ("DEL", key) if data is None else ("SET", key, with_time(data), "PX", self._ttl_ms)


class _Server:
    """A bounded pool of connections. redis-py's client would take as long again around each command as the command.

    Reads are tried again when a connection breaks, with backoff; writes are not, for they may have happened.
    """

    def __init__(self, url: str, connections: int) -> None:
        self.name = _public(url)
        try:
            options: dict[str, Any] = {**_OPTIONS, **parse_url(url)}
            self._timeout = float(options.pop("socket_timeout"))
            self._connection_class: type[Connection] = options.pop("connection_class", Connection)
            # A timeout given to redis-py costs a task per command; ours covers sending and reading.
            self._options = {**options, "socket_timeout": None}
            self._new_connection()
        except (ValueError, TypeError, failures.RedisError) as error:
            option = re.search(r"unexpected keyword argument ('.*')", str(error))
            why = f"there is no option {option[1]}; there are prefix, ttl, and those of redis-py" if option else error
            raise SettingsError(f"{self.name}: {why}") from error
        self._room = asyncio.Semaphore(connections)
        self._idle: list[tuple[Connection, float]] = []
        self._is_closed = False

    async def read(self, *command: Word) -> Any:
        """The answer to a command that may run twice."""
        for pause in _BACKOFF_S:
            try:
                return (await self._run([command]))[0]
            except Unavailable as error:
                if self._is_closed or not isinstance(error.__cause__, failures.ConnectionError):
                    raise
            await asyncio.sleep(pause)
        return (await self._run([command]))[0]

    async def write(self, *commands: Command) -> list[Any]:
        """The answers to commands that must not run twice, in one round trip."""
        return await self._run(commands, once=True)

    async def read_script(self, script: str, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """The answer of a script that may run twice; it is sent whole only to a server that does not know it."""
        try:
            return await self.read("EVALSHA", _digest(script), len(keys), *keys, *arguments)
        except failures.NoScriptError:
            return await self.read("EVAL", script, len(keys), *keys, *arguments)

    async def write_script(self, script: str, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """The answer of a script that must not run twice."""
        try:
            return (await self.write(("EVALSHA", _digest(script), len(keys), *keys, *arguments)))[0]
        except failures.NoScriptError:
            return (await self.write(("EVAL", script, len(keys), *keys, *arguments)))[0]

    async def close(self) -> None:
        self._is_closed = True
        await self._drop_idle()

    async def _run(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        if self._is_closed:
            raise Unavailable(f"{self.name} was closed")
        async with self._room:
            connection, used_at = self._idle.pop() if self._idle else (self._new_connection(), 0.0)
            try:
                async with asyncio.timeout(self._timeout):
                    if once and time.monotonic() - used_at > _TRUSTED_S:
                        connection = await self._living(connection)
                    replies = await _ask(connection, commands)
            except BaseException as error:
                await self._give_back(connection, error)
                self._tell(error, CutShort if once else Unavailable)
                raise
            await self._give_back(connection)
            return replies

    async def _living(self, connection: Connection) -> Connection:
        """This connection if it still answers, else a new one: one that broke while idle must not fail a write."""
        try:
            await _ask(connection, [("PING",)])
        except (failures.ConnectionError, OSError):
            await connection.disconnect(nowait=True)
            await self._drop_idle()
            connection = self._new_connection()
        return connection

    async def _give_back(self, connection: Connection, error: BaseException | None = None) -> None:
        if self._is_closed or not (error is None or isinstance(error, failures.NoScriptError)):
            await connection.disconnect(nowait=True)
            if isinstance(error, failures.ConnectionError):
                await self._drop_idle()
        else:
            self._idle.append((connection, time.monotonic()))

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop()[0].disconnect(nowait=True)

    def _new_connection(self) -> Connection:
        return self._connection_class(**self._options)

    def _tell(self, error: BaseException, kind: type[Unavailable]) -> None:
        """Raise the error in our words, if it is one of reach or of settings. A write may be the cause of its end."""
        text = " ".join(str(error).split())
        if isinstance(error, _REFUSED) or text == "Invalid Database":
            raise SettingsError(f"{self.name}: {text}") from error
        if isinstance(error, TimeoutError):
            raise kind(f"{self.name} did not answer within {self._timeout:g} s") from error
        if isinstance(error, _NOT_NOW) or (isinstance(error, failures.ResponseError) and _BUSY.match(text)):
            raise Unavailable(f"{self.name}: {text}") from error
        if isinstance(error, _OUT_OF_REACH):
            raise kind(f"{self.name}: {text}") from error


async def _ask(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    packed = [hiredis.pack_command(command) for command in commands]
    await connection.send_packed_command(packed, check_health=False)
    return [await connection.read_response() for _ in commands]


def _moved(moves: Sequence[Move]) -> list[Word]:
    """The checkpoints' part of the script's arguments."""
    places = [f"{move.source}/{move.partition}" for move in moves]
    numbers = [f"{move.after.number} {move.after.offset}" for move in moves]
    return [len(moves), len(moves), *places, *(move.before for move in moves), *numbers]


def _written(documents: Sequence[Document]) -> list[Word]:
    """One view's part of the script's arguments."""
    puts = [document for document in documents if document.data is not None]
    group = [*puts, *(document for document in documents if document.data is None)]
    fields, revisions = [document.key for document in group], [document.revision for document in group]
    return [len(group), len(puts), *fields, *revisions, *(document.data or b"" for document in puts)]


def _end(within: bytes) -> bytes:
    """The end of the members that begin with these bytes."""
    start = within.rstrip(b"\xff")
    return b"(" + start[:-1] + bytes([start[-1] + 1]) if start else b"+"


def _changed(listings: Sequence[Listing]) -> list[Word]:
    """One view's lists' part of the script's arguments."""
    gone, come = ([each.within + each.at for each in listings if each.is_gone is gone] for gone in (True, False))
    return [len(gone), len(come), *gone, *come]


def _documents(view: str, keys: Sequence[str], values: Sequence[bytes | None]) -> dict[str, Document]:
    found = {}
    for key, value in zip(keys, values, strict=True):
        if value is not None:
            revision, _, data = value.partition(b" ")
            found[key] = Document(view, key, data, int(revision))
    return found


def _checkpoint(place: bytes, value: bytes, chain: bytes) -> tuple[tuple[str, int], Checkpoint]:
    source, _, partition = place.decode().rpartition("/")
    number, offset = value.split()
    return (source, int(partition)), Checkpoint.standing(int(number), int(offset), chain.decode())


@cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _parse(url: str) -> tuple[str, dict[str, str]]:
    """The URL without our options, and our options."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise SettingsError(
            f"{_public(url)} is not an address of Redis; one looks like redis://host:6379/0?prefix=name"
        )
    options = dict(parse_qsl(parts.query))
    own: dict[str, str] = {name: options.pop(name) for name in ("prefix", "ttl") if name in options}
    return parts._replace(query=urlencode(options)).geturl(), own


def _public(url: str) -> str:
    """The URL as people may see it."""
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0])
