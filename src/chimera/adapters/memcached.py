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
from contextlib import suppress
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import emcache

from chimera.adapters.last_known import GIVE_UP_S, TTL_S, WAIT_S, Patience, known_at, with_time
from chimera.errors import SettingsError
from chimera.ports import LastKnown, LastKnownStore

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
    is_secure, authority = parts.scheme == "memcached+tls", options.get("ssl_ca_certs")
    try:
        if is_secure:
            ssl.create_default_context(cafile=authority)  # what is wrong with the file is said now
        ttl_s = float(options.get("ttl", TTL_S))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{name}: {error}") from error
    secure = {"ssl": True, "ssl_extra_ca": authority} if is_secure else {}
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
        secure: Mapping[str, Any] = {},
    ) -> None:
        """`secure` holds the client's options for TLS, none for a plain connection."""
        self._opener = partial(
            emcache.create_client,
            [emcache.MemcachedHostAddress(host, port)],
            timeout=GIVE_UP_S,
            connection_timeout=GIVE_UP_S,
            max_connections=_CONNECTIONS,
            **secure,
        )
        self._client: emcache.Client | None = None
        self._patience = Patience(f"memcached at {host}:{port}")
        self._prefix = prefix
        # Longer than 30 days, memcached would take it for a date; under a second, for no limit.
        self._ttl_s = max(1, round(min(ttl_s, _LONGEST_TTL_S)))

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, LastKnown]:
        if not keys:
            return {}
        items = {self._item(key): key for key in keys}
        nothing: dict[bytes, bytes] = {}
        found = await self._patience.ask(lambda: self._get(list(items)), nothing)
        return {items[item]: known_at(value) for item, value in found.items()}

    async def put_many(self, values: Mapping[str, bytes | None]) -> None:
        if values:
            items = [(self._item(key), None if data is None else with_time(data)) for key, data in values.items()]
            await self._patience.ask(lambda: self._put(items), None)

    async def close(self) -> None:
        await self._patience.close()
        if self._client is not None:
            await self._client.close()

    async def _opened(self) -> emcache.Client:
        """The client; it connects by itself, in the background, and again when it has to."""
        if self._client is None:
            self._client = await self._opener()
        return self._client

    def _item(self, key: str) -> bytes:
        digest = hashlib.blake2b(f"{self._prefix}:{key}".encode(), digest_size=20).hexdigest()
        return f"chimera:{digest}".encode()

    async def _get(self, items: Sequence[bytes]) -> dict[bytes, bytes]:
        found = await (await self._opened()).get_many(items)
        return {key: bytes(item.value) for key, item in found.items()}

    async def _put(self, items: Sequence[tuple[bytes, bytes | None]]) -> None:
        client = await self._opened()
        await asyncio.gather(*(self._put_one(client, item, value) for item, value in items))

    async def _put_one(self, client: emcache.Client, item: bytes, value: bytes | None) -> None:
        if value is None:
            with suppress(emcache.NotFoundCommandError):
                await client.delete(item)
            return
        try:
            await client.set(item, value, exptime=self._ttl_s)
        except emcache.StorageCommandError as error:
            if "too large" not in str(error):
                raise
