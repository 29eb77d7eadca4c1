"""Addresses of engines, as people write them: what is wrong with one is said in one line, with what to type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from chimera.errors import SettingsError

Kind = Literal["log", "store", "views", "last_known"]

_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?")


class Scheme(NamedTuple):
    """An engine's addresses: what it can be, and what one looks like. `database`: it names one, and who logs in."""

    kinds: tuple[Kind, ...]
    looks_like: str
    database: bool = False
    login: bool = False


SCHEMES: dict[str, Scheme] = {
    "sqlite": Scheme(("log", "store", "views"), "sqlite:///{state}/{service}.db"),
    "postgresql": Scheme(("store", "views"), "postgresql://user:password@host:5432/{service}", True, True),
    "mysql": Scheme(("store", "views"), "mysql://user:password@host:3306/{service}", True, True),
    "mongodb": Scheme(("views",), "mongodb://host:27017/{service}", True),
    "mongodb+srv": Scheme(("views",), "mongodb+srv://host/{service}", True),
    "redis": Scheme(("views", "last_known"), "redis://host:6379/0?prefix={service}"),
    "rediss": Scheme(("views", "last_known"), "rediss://host:6379/0?prefix={service}"),
    "rabbitmq": Scheme(("log",), "rabbitmq://user:password@host:5552/"),
    "kafka": Scheme(("log",), "kafka://host:9092"),
    "kafka+ssl": Scheme(("log",), "kafka+ssl://host:9093"),
    "memcached": Scheme(("last_known",), "memcached://host:11211"),
    "memcached+tls": Scheme(("last_known",), "memcached+tls://host:11211"),
}
MEANT = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "rabbit": "rabbitmq",
    "kafkas": "kafka+ssl",
    "kafka+tls": "kafka+ssl",
    "mariadb": "mysql",
    "memcache": "memcached",
    "memcacheds": "memcached+tls",
    "mongo": "mongodb",
    "pg": "postgresql",
    "postgres": "postgresql",
    "psql": "postgresql",
    "redis+ssl": "rediss",
    "redis+tls": "rediss",
    "file": "sqlite",
    "sqlite3": "sqlite",
}
"""The names that engines have elsewhere."""
AMQP_PORTS = {"5672": "5552", "5671": "5551"}
"""The ports that RabbitMQ has for AMQP, and those of its streams in their place."""
STREAMS = "; its port is that of streams (5552, with ?tls=1 5551), not that of AMQP"


def shown(url: str) -> str:
    """An address as people may see it: without password and options, however it is written."""
    login, at, rest = url.rpartition("@")
    scheme = re.match(r"[\w+.-]*://|[\w+.-]*:(?=.*:)|", login, re.DOTALL)
    begun = scheme[0] if scheme else ""
    user, colon, _ = login.removeprefix(begun).partition(":")
    return (f"{begun}{user}{':…' if colon else ''}@{rest}" if at else url).partition("?")[0]


def is_there(url: str) -> bool:
    """False for a file that is not there; only a server knows what it has."""
    scheme, _, path = url.partition(":///")
    return scheme != "sqlite" or Path(path.partition("?tables=")[0]).exists()


def check_address(kind: Kind, url: str, added: Collection[str] = ()) -> None:
    """Raises SettingsError for an address that can't be right. `added`: the schemes that other packages bring."""
    if url.partition(":")[0] in added:
        return
    scheme = url.partition("://" if "://" in url else ":")[0]
    if scheme not in SCHEMES:
        raise SettingsError(_unknown(kind, url, scheme, added))
    known = SCHEMES[scheme]
    if kind not in known.kinds:
        others = ", ".join(sorted(name for name, each in SCHEMES.items() if kind in each.kinds))
        raise SettingsError(f"{shown(url)}: {scheme} can't be {_WORDS[kind]}; what can: {others}")
    if scheme != "sqlite" and (why := _misses(url, known)):
        raise SettingsError(f"{shown(url)} {why}; one looks like {known.looks_like}")


_WORDS: dict[Kind, str] = {
    "log": "a log",
    "store": "a store",
    "views": "a view store",
    "last_known": "a store of last known values",
}


def _unknown(kind: Kind, url: str, scheme: str, added: Collection[str]) -> str:
    if "://" not in url and scheme not in MEANT:
        example = next(each.looks_like for each in SCHEMES.values() if kind in each.kinds)
        return f"{shown(url)!r} is no address of an engine; one looks like {example}"
    base = scheme.partition("+")[0]
    close = difflib.get_close_matches(scheme, [*SCHEMES, *MEANT], 1, 0.75)
    meant = next((name for name in (scheme, base, *close) if name in MEANT or name in SCHEMES), "")
    if meant := MEANT.get(meant, meant):
        written = shown(url).replace(scheme, meant, 1) if meant not in ("rabbitmq", "sqlite") else ""
        typed = written or SCHEMES[meant].looks_like
        note = STREAMS if meant == "rabbitmq" else ""
        return f"{shown(url)}: no engine is called {scheme!r}; it is {meant} here; type: {typed}{note}"
    return f"{shown(url)}: no engine is called {scheme!r}; there are: {', '.join(sorted({*SCHEMES, *added}))}"


def _misses(url: str, known: Scheme) -> str:
    """What an address lacks, in words; empty where it lacks nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "has a host that is none"
    login, at, hosts = parts.netloc.rpartition("@")
    if not at and "@" in url:
        return "has a slash, a question mark or a hash in its password: write %2F, %3F or %23"
    for each in hosts.split(","):
        found = _HOST.fullmatch(each)
        if not found or not found[1]:
            return "names no host" if found else f"has a host that is none, {each!r}"
        port = found[2]
        if port is not None and not (port.isdecimal() and port.isascii() and 0 < int(port) <= 65_535):
            return f"has the port {port!r}, which is no number from 1 to 65535"
        if port in AMQP_PORTS and parts.scheme == "rabbitmq":
            return f"has the port of AMQP; streams have another ({AMQP_PORTS[port]})"
    if known.login and not login.partition(":")[0]:
        return "names no user"
    if known.database and not parts.path.strip("/"):
        return "names no database"
    return ""
