"""A fleet as data: its services, where they find each other, and the engines they need. Both outputs are made of it."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

import msgspec

from chimera.errors import SettingsError
from chimera.journal.consumers import other_sources
from chimera.run.engines import ADAPTERS, load_service
from chimera.run.settings import PREFIX, ServiceSettings, Settings
from chimera_deploy.engines import ENGINES, KINDS, STACKS, Kind, Stack, engine_of

PORT = 8080
GATEWAY = "gateway"
FLEET_KEYS, OPERATORS_KEYS = "CHIMERA_FLEET__KEYS", "CHIMERA_OPERATORS__KEYS"
"""The variables with the keys by which services know each other, and operators are known."""
GATEWAY_COMMAND = ["chimera", "gateway", "--port", str(PORT)]
GATEWAY_HEALTH = "/openapi.json"

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 57
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[a-zA-Z0-9][\w.-]*(:\d+(?=/))?(/[\w.-]+)*(:[\w.-]+)?(@\w+:[0-9a-f]+)?", re.ASCII)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command line. `workers` is the number of write heads of each service in Kubernetes."""

    image: str | None = None
    workers: int = 2
    namespace: str | None = None
    stack: Stack = "rabbitmq"


class Need(NamedTuple):
    """An engine, as what it is needed, and whether it takes the place of one that is embedded in chimera.toml."""

    kind: Kind
    engine: str
    embedded: bool


class Member(msgspec.Struct, frozen=True):
    """A service of the fleet. `owners` are the other services that it asks.

    `needs` gives for each variable with an engine's URL what engine that is.
    """

    name: str
    partitions: int
    owners: list[str]
    needs: dict[str, Need]

    @property
    def engines(self) -> list[str]:
        """The names of the engines that it needs, each once."""
        return distinct_engines(self.needs)

    def command(self, head: str) -> list[str]:
        """The command line that runs a read or write head: `head` is `read` or `write`."""
        return ["chimera", "run", self.name, f"--{head}", "--port", str(PORT)]

    def health(self, what: str) -> str:
        """The path that says whether a read or write head is `live`, or `ready`."""
        return f"/_chimera/{self.name}/health/{what}"


class PlannedFleet(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `build` is the folder with the Dockerfile, if there is one, seen from the Compose file's.

    `command` is the command line that makes it.
    """

    name: str
    image: str
    build: str | None
    namespace: str | None
    workers: int
    members: list[Member]
    command: str

    @property
    def needs(self) -> dict[str, Need]:
        """The needs of all members: variable to engine."""
        return {name: need for member in self.members for name, need in member.needs.items()}

    @property
    def engines(self) -> list[str]:
        """The names of the engines that the fleet needs, each once."""
        return distinct_engines(self.needs)


def distinct_engines(needs: dict[str, Need]) -> list[str]:
    """The names of the engines, each once."""
    return list(dict.fromkeys(need.engine for need in needs.values()))


def planned(settings: Settings, options: Options, build: str | None) -> PlannedFleet:
    """The fleet of these settings. Raises SettingsError for names that can't be deployed."""
    for name in settings.services:
        _check_name(name)
    for name in ("certificate", "socket"):
        if getattr(settings.http, name):
            raise SettingsError(
                f"[http] {name}: in a deployment that is for what stands before the gateway; leave it out, and set "
                f"{variable('http', name)} where it is meant"
            )
    if options.namespace is not None and not _NAMESPACE.fullmatch(options.namespace):
        raise SettingsError(f"--namespace {options.namespace!r}: use lower case letters, digits and dashes")
    if options.image is not None and not _IMAGE.fullmatch(options.image):
        raise SettingsError(f"--image {options.image!r} does not name an image; one looks like name:tag")
    name = re.sub(r"[^a-z0-9]+", "-", settings.title.lower())[:50].strip("-") or "chimera"
    return PlannedFleet(
        name=name,
        image=options.image or f"{name}:latest",
        build=build,
        namespace=options.namespace,
        workers=options.workers,
        members=[_member(settings, service, options.stack) for service in settings.services],
        command=_command(options),
    )


def variable(*path: str) -> str:
    """The environment variable that overrides a setting."""
    return PREFIX + "__".join(part.replace("-", "_").upper() for part in path)


def urls(services: list[str]) -> dict[str, str]:
    """The variables that tell where services are."""
    return {variable("services", name, "url"): f"http://{name}:{PORT}" for name in services}


def _needs(urls: Settings | ServiceSettings, stack: Stack, *path: str) -> dict[str, Need]:
    """The engines of these URLs, which are the settings of all services, or of the one at `path`."""
    found = {kind: _need(kind, getattr(urls, kind), stack, path) for kind in KINDS}
    return {variable(*path, kind): need for kind, need in found.items() if need}


def _need(kind: Kind, url: str | None, stack: Stack, path: tuple[str, ...]) -> Need | None:
    if not url and path:
        return None
    engine = engine_of(url or "")
    where = f"[{'.'.join(path)}] {kind}" if path else kind
    if url and url.partition(":")[0] not in ADAPTERS:
        raise SettingsError(f"{where}: its URL names no engine; there are: {', '.join(ADAPTERS)}")
    if engine and kind not in ENGINES[engine].paths:
        raise SettingsError(f"{where}: {engine} can't be that; it can be: {', '.join(ENGINES[engine].paths)}")
    if engine:
        return Need(kind, engine, embedded=False)
    if kind not in STACKS[stack]:
        return None
    return Need(kind, STACKS[stack][kind], embedded=bool(url))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise SettingsError(
            f"[services.{name}] can't be deployed by this name: use at most {_LONGEST_NAME} lower case letters and "
            "digits with single dashes between them, the first a letter"
        )
    if name == GATEWAY:
        raise SettingsError(f"[services.{name}] has the name of the fleet's own gateway; choose another")


def _member(settings: Settings, name: str, stack: Stack) -> Member:
    own = settings.services[name]
    service = load_service(own.app)
    if service.name != name:
        raise SettingsError(f"[services.{name}] loads a service that calls itself {service.name!r}; use one name")
    owners = other_sources(service)
    for owner in owners:
        if owner not in settings.services:
            raise SettingsError(f"[services.{name}] uses events or shares of {owner!r}; add [services.{owner}]")
    needs = _needs(settings, stack) | _needs(own, stack, "services", name)
    return Member(name, service.partitions, owners, needs)


def _command(options: Options) -> str:
    """The command line that writes the same files."""
    default = Options()
    given = [
        f"--{name} {shlex.quote(str(getattr(options, name)))}"
        for name in options.__struct_fields__
        if getattr(options, name) != getattr(default, name)
    ]
    return " ".join(["chimera deploy", *given])
