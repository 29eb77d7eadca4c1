"""The composition root: from settings to services with engines. The only place that knows which engines exist."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any, Literal, cast

from chimera.body import Body
from chimera.endings import Process
from chimera.errors import DeclarationError, SettingsError
from chimera.lastknown import LastKnownStore
from chimera.metrics import Metrics
from chimera.parking import Retry
from chimera.ports import Log, Owner, Store, ViewStore
from chimera.service import Mode, Service
from chimera.settings import Settings

logger = logging.getLogger("chimera")

Kind = Literal["log", "store", "views", "last_known"]

ADAPTERS = {
    "sqlite": "chimera.adapters.sqlite",
    "postgresql": "chimera.adapters.postgresql",
    "mysql": "chimera.adapters.mysql",
    "mongodb": "chimera.adapters.mongodb",
    "mongodb+srv": "chimera.adapters.mongodb",
    "redis": "chimera.adapters.redis",
    "rediss": "chimera.adapters.redis",
    "rabbitmq": "chimera.adapters.rabbitmq",
    "kafka": "chimera.adapters.kafka",
    "kafka+ssl": "chimera.adapters.kafka",
    "memcached": "chimera.adapters.memcached",
    "memcached+tls": "chimera.adapters.memcached",
    "memory": "chimera.testing.memory",
    "faulty": "chimera.testing.faults.engine",
}


class Engines:
    """The engines of a process, opened once per URL, and the services built on them."""

    def __init__(self, settings: Settings, *, fleet: bool) -> None:
        self._settings = settings
        self._fleet = fleet
        self._open: dict[tuple[str, str], Any] = {}
        self.metrics = Metrics()
        self._process = Process()

    def body(self, name: str) -> Body:
        """A service with its engines. Raises SettingsError or DeclarationError."""
        self._settings.check_service(name)
        service = load_service(self._settings.services[name].app)
        if service.name != name:
            raise SettingsError(f"[services.{name}] loads a service that calls itself {service.name!r}; use one name")
        return Body(
            service,
            log=cast("Log", self._engine("log", name)),
            store=cast("Store", self._engine("store", name)),
            views=cast("ViewStore", self._engine("views", name)),
            last_known=cast("LastKnownStore | None", self._last_known(name)),
            owner_of=self._owner,
            metrics=self.metrics,
            retry=Retry(ends=self._settings.process_ends),
            process=self._process,
            modes=self._modes(service),
            retention=self._settings.retention_of(name),
        )

    async def close(self) -> None:
        """Close every engine, also when one of them fails to."""
        closed = await asyncio.gather(*(engine.close() for engine in self._open.values()), return_exceptions=True)
        for (kind, _), failed in zip(self._open, closed, strict=True):
            if isinstance(failed, BaseException):
                logger.warning("a %s engine did not close: %r", kind, failed)

    def _modes(self, service: Service) -> dict[str, Mode]:
        modes = self._settings.services[service.name].borrows
        for share in modes:
            if share not in service.borrows:
                raise SettingsError(
                    f"[services.{service.name}] borrows: it does not borrow {share!r}; "
                    f"it borrows: {', '.join(service.borrows) or 'nothing'}"
                )
        return modes

    def _last_known(self, service: str) -> Any:
        return self._engine("last_known", service) if self._settings.engine_url("last_known", service) else None

    def _engine(self, kind: Kind, service: str) -> Any:
        url = self._settings.engine_url(kind, service)
        if (kind, url) not in self._open:
            self._open[kind, url] = open_engine(kind, url)
        return self._open[kind, url]

    def _owner(self, name: str) -> Owner:
        if name not in self._settings.services:
            raise SettingsError(
                f"events or shares of {name!r} are used, but there is no [services.{name}] with its url"
            )
        from chimera.adapters.http import HttpOwner

        return HttpOwner(name, self._settings.base(name, fleet=self._fleet))


def open_engine(kind: Kind, url: str) -> Any:
    """An engine by its URL. Raises SettingsError for one that is not known or not installed."""
    scheme = url.partition(":")[0]
    if scheme not in ADAPTERS:
        raise SettingsError(
            f"{url.partition('@')[2] or url}: no engine is called {scheme!r}; there are: {', '.join(ADAPTERS)}"
        )
    return importlib.import_module(ADAPTERS[scheme]).open_engine(kind, url)


def about(app: str) -> str:
    """What the module of a service says about it, in its first line."""
    written = importlib.import_module(app.partition(":")[0]).__doc__ or ""
    return written.strip().partition("\n")[0]


def load_service(app: str) -> Service:
    """The service at `module:attribute`. Raises SettingsError that says what is missing."""
    module, colon, attribute = app.partition(":")
    if not colon:
        raise SettingsError(f"app = {app!r} must look like module:attribute")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise SettingsError(f"app = {app!r}: {error}; is it installed, or below the current folder?") from error
    except AttributeError as error:
        raise SettingsError(f"app = {app!r}: {error}") from error
    if not isinstance(found, Service):
        raise DeclarationError(f"{app} is a {type(found).__name__}, not a Service")
    return found
