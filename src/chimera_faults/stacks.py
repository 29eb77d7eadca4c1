"""The stacks that the rig knows: which engines, at which URLs, and how what it made there is taken away."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from chimera.errors import SettingsError
from chimera_faults.scenario import EMBEDDED, EVERY_STACK, OWN

POOL = 4
"""Connections to a database per process and engine, so that several fleets at once find some."""
STARTED = Path(os.environ.get("CHIMERA_SERVICES", ".services")) / "urls.json"


class Stack(NamedTuple):
    """Engines by kind, as plain URLs; `{service}` is filled in. `tag` is in every name made on their servers."""

    name: str
    tag: str
    urls: Mapping[str, str]

    def environment(self, *, faulty: bool) -> dict[str, str]:
        """The settings that choose these engines, with crash points or without."""
        prefix = "faulty:" if faulty else ""
        return {f"CHIMERA_{kind.upper()}": f"{prefix}{url}" for kind, url in self.urls.items()}

    def through(self, port: int) -> Stack:
        """The same stack, its store and views reached through a port on loopback."""
        place = urlsplit(self.urls["store"]).netloc.rpartition("@")[2]
        moved = {
            kind: _at_port(url, port) if kind != "log" and place in url else url for kind, url in self.urls.items()
        }
        return self._replace(urls=moved)

    def as_user(self, name: str) -> Stack:
        """The same stack, its store and views reached as another user, whose password is its name."""
        moved = {kind: self.urls[kind] if kind == "log" else _as_user(self.urls[kind], name) for kind in self.urls}
        return self._replace(urls=moved)

    def with_views(self, engine: str) -> Stack:
        """The same stack, its views in another engine."""
        url = urlsplit(url_of(engine))._replace(path=f"/{self.tag}-{{service}}").geturl()
        return self._replace(urls={**self.urls, "views": url})


def _as_user(url: str, name: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:{name}@{parts.netloc.rpartition('@')[2]}").geturl()


def _at_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{port}").geturl()


def stack_of(name: str, tag: str, own: Mapping[str, str] = MappingProxyType({})) -> Stack:
    """A stack by its name. Raises SettingsError when an engine's URL is not known.

    `own`: the URLs of the stack `own` by the kind of engine, with `{tag}` and `{service}`; else it is embedded.
    """
    if name in (EMBEDDED, OWN):
        kinds = {"log": "log", "store": "{service}.db", "views": "{service}-views.db"}
        urls = {kind: f"sqlite:///{{state}}/{path}" for kind, path in kinds.items()}
        return Stack(name, tag, urls | {kind: url.replace("{tag}", tag) for kind, url in own.items()})
    if name == "rabbitmq-mysql":
        server = urlsplit(url_of("mysql"))._replace(path=f"/{tag}-{{service}}", query=f"pool={POOL}").geturl()
        return Stack(name, tag, {"log": f"{url_of('rabbitmq_stream')}?prefix={tag}-", "store": server, "views": server})
    if name == "kafka-postgresql":
        # without TLS, so that the proxy sees what passes
        postgresql = f"{url_of('postgresql')}?sslmode=disable&pool={POOL}&schema={tag}-{{service}}"
        return Stack(
            name,
            tag,
            {"log": f"{url_of('kafka')}?prefix={tag}-", "store": postgresql, "views": f"{postgresql}-views"},
        )
    raise SettingsError(f"there is no stack {name!r}; there are: {', '.join(EVERY_STACK)}")


def url_of(engine: str) -> str:
    """An engine's URL: from CHIMERA_TEST_<ENGINE>, else as `make services` has started it. Raises SettingsError."""
    started = json.loads(STARTED.read_text())["urls"] if STARTED.exists() else {}
    url = os.environ.get(f"CHIMERA_TEST_{engine.upper()}") or started.get(engine)
    if not url:
        raise SettingsError(f"{engine} is not there; run: make services, or set CHIMERA_TEST_{engine.upper()}")
    return str(url)
