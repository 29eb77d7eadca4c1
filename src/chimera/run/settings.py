"""Settings: `chimera.toml`, overridden by environment variables, read once and passed on.

`CHIMERA_PORT=9000` overrides `port`; two underscores go a level deeper and stand for a dash in names:
`CHIMERA_SERVICES__GIG_PAGE__STORE=…` overrides `store` in `[services.gig-page]`. Lists are written as in the file.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from chimera.core.timing import Doors, PerCaller, Retention
from chimera.errors import SettingsError
from chimera.parts import Handling, Mode
from chimera.run.front.identity import read_identity
from chimera.run.front.keys import FleetKeys, Keys, OperatorKeys, PersonalKeys
from chimera.run.front.settings import Http, what_is_wrong_with
from chimera.web.identity.people import People
from chimera.web.identity.settings import Identity

PREFIX = "CHIMERA_"
NAMES_FILE = "names.toml"
CONFIG = "CHIMERA_CONFIG"
Place = tuple[str, ...]
"""The keys that lead to a setting, from the outermost table on."""
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ServiceSettings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One service: its declaration (`app = "module:attribute"`), and what differs from the defaults.

    `port` is its own port when it runs by itself; `url` is the base URL by which others reach it. `handling`: how its
    handlers run; `handlers`: how single ones do, by the name of a command or a reaction. `http`: what stands in front
    of its own port.
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
    http: Http = Http()


class Settings(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be set. In URLs, `{state}` and `{service}` are filled in.

    `last_known` stores what owners last answered, for the time when they don't: in the process where it is not set.
    `audit_s`: shares and their copies are compared with what they should be every so many seconds; 0 is never.
    `names`: the file with the names that are pinned; beside the settings' own file, as `names.toml`, unless it is set.
    `limits`: what one caller may ask for. `process_ends`: a message is parked when so many processes, one after
    another, have ended while handling it.
    `handling`: how handlers run, for all services that don't say otherwise. `http`: what stands in front of the port
    where clients come in. `fleet`: the keys by which services know each other; `operators`: those of operators.
    `identity`: how services that do not tell themselves know who asks. `issuer`: whom one can log in as, where an
    issuer for development is served. `personal`: the master keys of personal values. `dev`: this machine needs no key,
    as with `chimera up --dev`. `open`: no rule is asked, with `dev` only.
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
    limits: PerCaller = PerCaller()
    process_ends: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    handling: Handling = Handling()
    http: Http = Http()
    fleet: FleetKeys = FleetKeys()
    operators: OperatorKeys = OperatorKeys()
    identity: Identity = Identity()
    personal: PersonalKeys = PersonalKeys()
    issuer: People = People()
    dev: bool = False
    open: bool = False

    def engine_url(self, kind: str, service: str) -> str:
        """The URL of a service's log, store, views or last known values; empty for those in the process."""
        url = getattr(self.services[service], kind) or getattr(self, kind)
        return str(url).replace("{state}", str(Path(self.state).absolute())).replace("{service}", service)

    def named(self, kind: str, service: str) -> str:
        """The setting that says where a service's engine is, as it is written."""
        own = getattr(self.services[service], kind)
        return f"[services.{service}] {kind}" if own else f"{kind} (CHIMERA_{kind.upper()})"

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
        scheme = "https" if (self.services[service].http if fleet else self.http).certificate else "http"
        return self.services[service].url or f"{scheme}://{self.host}:{port}"


def read_settings(
    path: Path, environment: Mapping[str, str], overrides: Mapping[str, object] | None = None
) -> Settings:
    """Read the file, then the environment, then `overrides` (those that are not None). Raises SettingsError."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = '; text stands in quotes, as in: app = "shop:shop"' if "Invalid value" in str(error) else ""
        raise SettingsError(f"{path} is not valid TOML: {error}{hint}") from error
    overriding = {name: value for name, value in environment.items() if name.startswith(PREFIX) and name != CONFIG}
    variables: dict[Place, str] = {}
    for name, value in overriding.items():
        variables[_override(values, name.removeprefix(PREFIX).lower().split("__"), value, name)] = name
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        wrong = what_is_wrong(values, error)
        where = variables.get(wrong.place) or _only_by_variable(path, variables, wrong.place[:-1]) or path
        raise SettingsError(f"{where}: {wrong.words}") from error
    names, http = str(path.parent / (settings.names or NAMES_FILE)), settings.http.beside(path.parent)
    settings = msgspec.structs.replace(settings, names=names, http=http)
    if not settings.services:
        raise SettingsError(f'{path} lists no service; add [services.NAME] with app = "module:attribute"')
    settings = _with_identity(path, _with_keys(path, settings))
    _check_http(path, "[http]", settings.http)
    for name, own in settings.services.items():
        _check_retention(path, name, settings.retention_of(name))
        own.http = own.http.beside(path.parent)
        _check_http(path, f"[services.{name}.http]", own.http)
        if (own.http.certificate or own.http.socket) and not own.url:
            raise SettingsError(
                f"{path}: [services.{name}.http]: others do not find {name} at its host and port; "
                f'add url = "https://…" to [services.{name}]'
            )
    return settings


def _with_keys(path: Path, settings: Settings) -> Settings:
    """The settings, with the keys that files hold. Raises SettingsError."""
    read: dict[str, Keys] = {}
    for table in ("fleet", "operators", "personal"):
        keys: Keys = getattr(settings, table)
        try:
            read[table] = msgspec.structs.replace(keys, keys=list(keys.read(path.parent)))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: [{table}] keys (CHIMERA_{table.upper()}__KEYS): {error}") from error
    return msgspec.structs.replace(settings, **read)


def _with_identity(path: Path, settings: Settings) -> Settings:
    """The settings, with the secrets of `[identity]` that files hold. Raises SettingsError."""
    fronts = [settings.http, *(each.http for each in settings.services.values())]
    try:
        identity = read_identity(settings.identity, fronts, path.parent)
    except OSError as error:
        raise SettingsError(f"{path}: [identity] {error.filename} can't be read ({error.strerror})") from error
    except ValueError as error:
        raise SettingsError(f"{path}: [identity] {error}") from error
    return msgspec.structs.replace(settings, identity=identity)


def _check_http(path: Path, table: str, http: Http) -> None:
    """Raises SettingsError for what can't be meant."""
    if wrong := what_is_wrong_with(http):
        raise SettingsError(f"{path}: {table} {wrong}")


def _only_by_variable(path: Path, variables: Mapping[Place, str], table: Place) -> str:
    """The variable that made a table which is not in the file; empty where it is there."""
    made = next((name for place, name in variables.items() if table and place[: len(table)] == table), "")
    try:
        written: Any = tomllib.loads(path.read_text())
        for key in table:
            written = written[key]
    except (KeyError, TypeError):
        return made
    return ""


def _check_retention(path: Path, service: str, retention: Retention) -> None:
    """Raises SettingsError when the log could repeat what the inbox no longer knows."""
    if 0 < retention.inbox_days < retention.log_days:
        raise SettingsError(
            f"{path}: the inbox of {service} keeps {retention.inbox_days:g} days and the log {retention.log_days:g}: "
            "what the log may repeat would be executed twice; in [retention], set inbox_days to at least log_days"
        )


def _override(values: dict[str, Any], path: list[str], value: str, name: str) -> Place:
    """Put a variable's value where it belongs; returns where that is."""
    table, place, places = values, "", list[str]()
    for part in path[:-1]:
        place = _key(table, part, place)
        places.append(place)
        table = table.setdefault(place, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{name}: {place} is not a table of settings")
    last = _key(table, path[-1], place)
    table[last] = _listed(value) if value.startswith("[") else value
    return (*places, last)


def _listed(value: str) -> Any:
    """A list as it is written in the file; any other text as it is."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _key(table: Mapping[str, object], part: str, place: str) -> str:
    """The key that a variable means: names of services and shares have dashes and never an underscore."""
    known = next((key for key in table if key.replace("-", "_") == part), None)
    return known or (part.replace("_", "-") if place in ("services", "borrows") else part)


class Wrong(NamedTuple):
    """A setting that is wrong: its place, and what is said of it."""

    place: Place
    words: str


def what_is_wrong(values: Mapping[str, Any], error: msgspec.ValidationError) -> Wrong:
    """What a person has to change, and where, for an error that has no names of tables."""
    said, _, path = str(error).partition(" - at `$")
    place, type_ = _place(values, path.rstrip("`"))
    if (found := _UNKNOWN.fullmatch(said)) is not None:
        fields = [field.name for field in msgspec.structs.fields(type_)]
        close = difflib.get_close_matches(found[1], fields, 1)
        told = f"did you mean {close[0]}?" if close else f"there are: {', '.join(fields)}"
        return Wrong((*place, found[1]), f"{_written((*place, found[1]))}: there is no such setting; {told}")
    if (found := _MISSING.fullmatch(said)) is not None:
        lacks = (
            f"{_written(place)} has no {found[1]}; add" if place else "no service is listed; add [services.NAME] with"
        )
        typed = f'{found[1]} = "…"' if place[:1] == ("identity",) else 'app = "module:attribute"'
        return Wrong((*place, found[1]), f"{lacks} {typed}")
    if said.startswith("Invalid enum value"):
        said = f"must be one of {', '.join(typing.get_args(type_))}, and not {said.removeprefix('Invalid enum value ')}"
    for name, word in _WORDS.items():
        said = said.replace(f"Expected `{name}", f"must be {word}`").replace(f"got `{name}`", f"not {word}")
    item = found[0] if (found := re.search(r"\[\d+\]", path)) else ""
    return Wrong(place, f"{_written(place)}{item} {said.replace('`', '').replace(' | null', '')}")


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
}


def _place(values: Any, path: str) -> tuple[Place, Any]:
    """The place of a path as msgspec tells it, `.services[...].port`, with its keys, and the type of what is there."""
    place, type_ = list[str](), typing.cast("Any", Settings)
    for part in re.findall(r"\.\w+|\[\.\.\.\]|\[\d+\]", path):
        if part[1:-1].isdigit():
            values, type_ = values[int(part[1:-1])], typing.get_args(type_)[0]
            continue
        if part == "[...]":
            type_ = typing.get_args(type_)[1]
            key = next(key for key, value in values.items() if not _fits(value, type_))
        else:
            type_, key = _bare(typing.get_type_hints(type_)[part[1:]]), part[1:]
        place.append(key)
        values = values[key]
    return tuple(place), type_


def _bare(type_: Any) -> Any:
    """A type without its None."""
    kinds = [each for each in typing.get_args(type_) if each is not type(None)]
    return kinds[0] if type(None) in typing.get_args(type_) else type_


def _fits(value: object, type_: Any) -> bool:
    try:
        msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _written(place: Place) -> str:
    """A place as it is written in the file: `[services.shop] store`."""
    if not place:
        return "the file"
    is_table = place[0] == "services" and len(place) == 2
    table = place if is_table else place[:-1]
    return " ".join([*([f"[{'.'.join(table)}]"] if table else []), *([] if is_table else [place[-1]])])
