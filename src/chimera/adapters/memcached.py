"""memcached as a cache of last known values. It keeps nothing for sure, and nothing here relies on it.

Keys are hashed, because memcached's own are short and without spaces. What is larger than its limit (1 MiB as it
comes) is not kept, and what was kept under that key is forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from aiomcache import Client
from aiomcache.exceptions import ClientException

from chimera.errors import SettingsError
from chimera.lastknown import TTL_S, WAIT_S, Known, LastKnownStore, Patience, known_at, with_time

_CONNECTIONS = 4
_LONGEST_TTL_S = 30 * 24 * 3600.0


def open_engine(kind: Literal["log", "store", "views", "last_known"], url: str) -> LastKnownStore:
    """Last known values in `memcached://host:port?prefix=chimera&ttl=seconds`.

    `memcached+tls://` is memcached over TLS, with `ssl_ca_certs` naming a file of trusted CAs. Raises SettingsError.
    """
    parts = urlsplit(url)
    name = re.sub(r"//[^/]*@", "//", url.partition("?")[0])
    if parts.scheme not in ("memcached", "memcached+tls") or not parts.hostname:
        raise SettingsError(f"{name} is not an address of memcached; one looks like memcached://host:11211")
    if kind != "last_known":
        raise SettingsError(f"{name}: memcached can't be a {kind}; it can keep last known values")
    options = dict(parse_qsl(parts.query))
    try:
        secure = ssl.create_default_context(cafile=options.get("ssl_ca_certs")) if parts.scheme[9:] else None
        ttl_s = float(options.get("ttl", TTL_S))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: {error}") from error
    place = (parts.hostname, parts.port or 11211)
    return MemcachedLastKnown(*place, prefix=options.get("prefix", "chimera"), ttl_s=ttl_s, secure=secure)


class MemcachedLastKnown:
    """Last known values as items with an expiry, each with the time when it was put at its front."""

    wait_s = WAIT_S

    def __init__(
        self,
        host: str,
        port: int,
        *,
        prefix: str = "chimera",
        ttl_s: float = TTL_S,
        secure: ssl.SSLContext | None = None,
    ) -> None:
        connecting: dict[str, Any] = {"ssl": secure} if secure else {}
        self._client = Client(host, port, pool_size=_CONNECTIONS, conn_args=connecting)
        self._patience = Patience(f"memcached at {host}:{port}")
        self._prefix = prefix
        # Longer than 30 days, memcached would take it for a date; under a second, for no limit.
        self._ttl_s = max(1, round(min(ttl_s, _LONGEST_TTL_S)))

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, Known]:
        if not keys:
            return {}
        items = {key: self._item(key) for key in keys}
        nothing: tuple[bytes | None, ...] = (None,) * len(items)
        values = await self._patience.ask(lambda: self._client.multi_get(*items.values()), nothing)
        return {key: known_at(value) for key, value in zip(items, values, strict=True) if value is not None}

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        if values:
            items = [(self._item(key), None if data is None else with_time(data)) for key, data in values.items()]
            await self._patience.ask(lambda: self._put(items), None)

    async def close(self) -> None:
        await self._patience.close()
        await self._client.close()

    def _item(self, key: str) -> bytes:
        digest = hashlib.blake2b(f"{self._prefix}:{key}".encode(), digest_size=20).hexdigest()
        return f"chimera:{digest}".encode()

    async def _put(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Each connection takes its part of the items, one after another: the client can't send several at once."""
        await asyncio.gather(*(self._put_each(items[at::_CONNECTIONS]) for at in range(_CONNECTIONS)))

    async def _put_each(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        for item, value in items:
            if value is None:
                await self._client.delete(item)
            else:
                await self._put_one(item, value)

    async def _put_one(self, item: bytes, value: bytes) -> None:
        try:
            await self._client.set(item, value, exptime=self._ttl_s)
        except ClientException as error:
            if "too large" not in str(error):
                raise
