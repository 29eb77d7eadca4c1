"""Settings: `chimera.toml`, overridden by environment variables, read once and passed on.

`CHIMERA_PORT=9000` overrides `port`; two underscores go a level deeper and stand for a dash in names:
`CHIMERA_SERVICES__GIG_PAGE__STORE=…` overrides `store` in `[services.gig-page]`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from chimera.core.timing import Doors, Retention
from chimera.errors import SettingsError
from chimera.parts import Handling, Mode

PREFIX = "CHIMERA_"
NAMES_FILE = "names.toml"
CONFIG = "CHIMERA_CONFIG"
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ServiceSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One service: its declaration (`app = "module:attribute"`), and what differs from the defaults.

    `port` is its own port when it runs by itself; `url` is the base URL by which others reach it. `handling`: how its
    handlers run; `handlers`: how single ones do, by the name of a command or a reaction.
    """

    app: str
    port: Port | None = None
    url: str | None = None
    log: str | None = None
    store: str | None = None
    views: str | None = None
    last_known: str | None = None
    borrows: dict[str, Mode] = {}
    retention: Retention | None = None
    handling: Handling = Handling()
    handlers: dict[str, Handling] = {}


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set. In URLs, `{state}` and `{service}` are filled in.

    `last_known` stores what owners last answered, for the time when they don't: in the process where it is not set.
    `audit_s`: shares and their copies are compared with what they should be every so many seconds; 0 is never.
    `names`: the file with the names that are pinned; beside the settings' own file, as `names.toml`, unless it is set.
    `process_ends`: a message is parked when so many processes, one after another, have ended while handling it.
    `handling`: how handlers run, for all services that don't say otherwise.
    """

    services: dict[str, ServiceSettings]
    title: str = "Chimera"
    host: str = "127.0.0.1"
    port: Port = 8000
    state: str = ".state"
    log: str = "sqlite:///{state}/log"
    store: str = "sqlite:///{state}/{service}.db"
    views: str = "sqlite:///{state}/{service}-views.db"
    last_known: str = ""
    names: str = ""
    audit_s: Annotated[float, msgspec.Meta(ge=0, le=2_592_000)] = 600.0
    retention: Retention = Retention()
    doors: Doors = Doors()
    process_ends: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    handling: Handling = Handling()

    def engine_url(self, kind: str, service: str) -> str:
        """The URL of a service's log, store, views or last known values; empty for those in the process."""
        url = getattr(self.services[service], kind) or getattr(self, kind)
        return str(url).replace("{state}", str(Path(self.state).absolute())).replace("{service}", service)

    def retention_of(self, service: str) -> Retention:
        """The retention of a service: its own table in whole, else the one for all."""
        return self.services[service].retention or self.retention

    def handling_of(self, service: str) -> dict[str, Handling]:
        """How the handlers of a service run, by name; under the empty name, all that are not named."""
        own = self.services[service]
        return {**own.handlers, "": own.handling.over(self.handling)}

    def check_service(self, name: str) -> None:
        """Raises SettingsError for a service that is not listed."""
        if name not in self.services:
            raise SettingsError(f"there is no service {name!r}; there are: {', '.join(self.services)}")

    def own_port(self, service: str) -> int:
        """The port of a service that runs by itself: as set, else counted up from `port`."""
        return self.services[service].port or self.port + 1 + list(self.services).index(service)

    def base(self, service: str, *, fleet: bool) -> str:
        """The base URL by which others reach a service: on its own port in a fleet, else on the one of all services."""
        port = self.own_port(service) if fleet else self.port
        return self.services[service].url or f"http://{self.host}:{port}"


def read_settings(
    path: Path, environment: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read the file, then the environment, then `overrides` (those that are not None). Raises SettingsError."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error
    overriding = {name: value for name, value in environment.items() if name.startswith(PREFIX) and name != CONFIG}
    for name, value in overriding.items():
        _override(values, name.removeprefix(PREFIX).lower().split("__"), value, name)
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        where = f"{path}, overridden by {', '.join(sorted(overriding))}" if overriding else str(path)
        raise SettingsError(f"{where}: {error}") from error
    settings = msgspec.structs.replace(settings, names=str(path.parent / (settings.names or NAMES_FILE)))
    if not settings.services:
        raise SettingsError(f'{path} lists no service; add [services.NAME] with app = "module:attribute"')
    for name in settings.services:
        _check_retention(path, name, settings.retention_of(name))
    return settings


def _check_retention(path: Path, service: str, retention: Retention) -> None:
    """Raises SettingsError when the log could repeat what the inbox no longer knows."""
    if 0 < retention.inbox_days < retention.log_days:
        raise SettingsError(
            f"{path}: the inbox of {service} keeps {retention.inbox_days:g} days and the log {retention.log_days:g}: "
            "what the log may repeat would be executed twice; in [retention], set inbox_days to at least log_days"
        )


def _override(values: dict[str, Any], path: list[str], value: str, name: str) -> None:
    table, place = values, ""
    for part in path[:-1]:
        place = _key(table, part, place)
        table = table.setdefault(place, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{name}: {place} is not a table of settings")
    table[_key(table, path[-1], place)] = value


def _key(table: Mapping[str, object], part: str, place: str) -> str:
    """The key that a variable means: names of services and shares have dashes and never an underscore."""
    known = next((key for key in table if key.replace("-", "_") == part), None)
    return known or (part.replace("_", "-") if place in ("services", "borrows") else part)
