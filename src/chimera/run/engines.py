"""The composition root: from settings to services with engines. The only place that knows which engines exist."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, cast

from chimera.borrow.lagging import lagging
from chimera.borrow.last_known import MemoryLastKnown
from chimera.caller import Caller, Request, Upload
from chimera.core.aio.resources import Resources
from chimera.core.clock import Clock
from chimera.core.context import Callers, Context, Owners, Process, Reach
from chimera.core.keys.ciphers import Masters
from chimera.core.keys.personal import check_personal, is_personal_in
from chimera.core.keys.seals import Seals
from chimera.core.keys.subjects import SubjectKeys
from chimera.core.metrics import Metrics
from chimera.core.timing import Limits, Retry, Timing
from chimera.errors import ChimeraError, DeclarationError, SettingsError, Unavailable
from chimera.journal.consumers import consumers_of, declared_at
from chimera.parts import Handling, Mode
from chimera.ports import LastKnownStore, Log, Owner, Store, ViewStore
from chimera.reader import Lagging, Reader
from chimera.reads import Reads
from chimera.run.addresses import Kind, check_address, is_there, shown
from chimera.run.front.issuers import Identifying
from chimera.run.front.personal import master_keys
from chimera.run.pins import check_pinned
from chimera.run.settings import Settings
from chimera.service import Service
from chimera.share.owner import OwnerBeside, OwnStore
from chimera.transaction import Transaction
from chimera.upkeep.admission.marks import check_apart, check_store, was_used
from chimera.upkeep.admission.naming import admit
from chimera.upkeep.tables.store import with_generations
from chimera.web.permission.groups import is_loopback
from chimera.web.permission.passages import check_rules
from chimera.web.permission.tokens import bearing

logger = logging.getLogger("chimera")

Engine = Log | Store | ViewStore | LastKnownStore

PREPARED = 16
"""Services whose engines are prepared at once: each waits for a disk or a network."""

OWNER = "chimera.adapters.http"
"""The module of the owners that are other services."""

ADAPTERS: dict[str, str] = {
    "sqlite": "chimera.adapters.sqlite",
    "postgresql": "chimera.adapters.relational.postgresql",
    "mysql": "chimera.adapters.relational.mysql",
    "mongodb": "chimera.adapters.mongodb",
    "mongodb+srv": "chimera.adapters.mongodb",
    "redis": "chimera.adapters.redis",
    "rediss": "chimera.adapters.redis",
    "rabbitmq": "chimera.adapters.rabbitmq",
    "kafka": "chimera.adapters.kafka",
    "kafka+ssl": "chimera.adapters.kafka",
    "memcached": "chimera.adapters.memcached",
    "memcached+tls": "chimera.adapters.memcached",
}


class Engines:
    """The engines of a process, opened once per URL, and the services built on them."""

    def __init__(self, settings: Settings, *, fleet: bool, beside: Collection[str] = (), used: bool = False) -> None:
        self._settings = settings
        self._fleet = fleet
        self._beside = beside
        self._open: dict[tuple[str, str], Engine] = {}
        self.metrics = Metrics()
        self._process = Process()
        self._reach = reach_of(settings)
        self._seals = Seals(tuple(settings.fleet.keys), takes_unsealed=settings.fleet.unsealed == "taken")
        self._used = used
        self.clock = Clock()
        self.identifying = Identifying(settings, self.clock)

    def context(self, name: str) -> Context:
        """A service with its engines. Raises SettingsError or DeclarationError."""
        settings = self._settings
        service = load_named(settings, name)
        context = context_of(
            service,
            cast("Log", self._engine("log", name)),
            cast("Store", self._engine("store", name)),
            cast("ViewStore", self._engine("views", name)),
            partial(self._owner, service),
            clock=self.clock,
            timing=Timing(audit_s=settings.audit_s),
            last_known=self._last_known(name),
            callers=self.identifying.callers,
            masters=self._master_keys(service),
        )
        return supplied(
            replace(
                context,
                modes=self._modes(service),
                metrics=self.metrics,
                per_caller=settings.limits,
                retry=Retry(ends=settings.process_ends),
                retention=settings.retention_of(name),
                handling=self._handling(service),
                process=self._process,
                reach=self._reach,
                seals=self._seals,
            )
        )

    async def close(self) -> None:
        """Close every engine, also when one of them fails to."""
        await self.identifying.close()
        closed = await asyncio.gather(*(engine.close() for engine in self._open.values()), return_exceptions=True)
        for (kind, _), failed in zip(self._open, closed, strict=True):
            if isinstance(failed, BaseException):
                logger.warning("a %s engine did not close: %r", kind, failed)

    def _keys(self, service: Service, store: Store) -> SubjectKeys:
        """The keys of a service that is beside, and asks nobody else for any."""
        masters, timing = Masters(self._master_keys(service)), Timing()
        return SubjectKeys(service.name, store, self.clock, masters, lambda name: None, timing.subject_keys_s, 0)

    def _master_keys(self, service: Service) -> Sequence[str]:
        settings = self._settings
        return master_keys(settings, used=self._used) if is_personal_in(service) else settings.personal.keys

    def _modes(self, service: Service) -> dict[str, Mode]:
        modes = self._settings.services[service.name].borrows
        for share in modes:
            if share not in service.borrows:
                raise SettingsError(
                    f"[services.{service.name}] borrows: it does not borrow {share!r}; "
                    f"it borrows: {', '.join(service.borrows) or 'nothing'}"
                )
        return modes

    def _handling(self, service: Service) -> dict[str, Handling]:
        handlers = [*service.handlers, *service.reactions]
        for name in self._settings.services[service.name].handlers:
            if name not in handlers:
                raise SettingsError(
                    f"[services.{service.name}.handlers]: there is no command or reaction {name!r}; "
                    f"there are: {', '.join(handlers) or 'none'}"
                )
        return self._settings.handling_of(service.name)

    def _last_known(self, service: str) -> LastKnownStore | None:
        if not self._settings.engine_url("last_known", service):
            return None
        return cast("LastKnownStore", self._engine("last_known", service))

    def _engine(self, kind: Kind, service: str) -> Engine:
        url = self._settings.engine_url(kind, service)
        if (kind, url) not in self._open:
            try:
                self._open[kind, url] = open_engine(kind, url)
            except SettingsError as error:
                raise SettingsError(f"{self._settings.named(kind, service)}: {error}") from error
        return self._open[kind, url]

    def _owner(self, asking: Service, name: str) -> Owner:
        if name not in self._settings.services:
            raise SettingsError(
                f"events or shares of {name!r} are used, but there is no [services.{name}] with its url"
            )
        if name in self._beside:
            service, store = load_service(self._settings.services[name].app), self._engine("store", name)
            beside = OwnerBeside(service, cast("Store", store), self.clock)
            beside.keys = self._keys(service, cast("Store", store))
            return beside
        base = self._settings.base(name, fleet=self._fleet)
        token = bearing(asking, name, self._reach.fleet, self.clock)
        opened: Owner = importlib.import_module(OWNER).HttpOwner(name, base, token=token)
        return opened


def reach_of(settings: Settings) -> Reach:
    """Who may reach what, as it is set. Raises SettingsError for `dev` on a host that others reach as well."""
    if settings.dev and not (settings.http.socket or is_loopback(settings.host)):
        raise SettingsError(
            f"dev = true (--dev) is for this machine, and host = {settings.host!r} is reached by others: leave one out"
        )
    return Reach(
        is_open=False,
        fleet=tuple(settings.fleet.keys or filter(None, [settings.fleet.passing])),
        operators=tuple(settings.operators.keys),
        role=settings.operators.role,
        dev=settings.dev,
        rules=not settings.open,
    )


def context_of(
    service: Service,
    log: Log,
    store: Store,
    views: ViewStore,
    open_owner: Callable[[str], Owner],
    *,
    clock: Clock | None = None,
    timing: Timing = Timing(),
    last_known: LastKnownStore | None = None,
    callers: Callers | None = None,
    masters: Sequence[str] = (),
) -> Context:
    """A service on engines that are open. `open_owner` opens other services as owners, by name.

    `masters`: the master keys of personal values, without which a service that has any is refused.

    All else has its default; `dataclasses.replace` gives it another value.
    """
    clock = clock or Clock()
    store = with_generations(service, store)
    check_functions(service, knows=callers is not None)
    check_personal(service, masters)
    resources = Resources(service)
    own = OwnStore(service, store, clock, resources)
    owners = Owners({service.name: own}, open_owner, clock, timing)
    remembered = last_known or MemoryLastKnown(clock)
    keys = SubjectKeys(
        service.name, store, clock, Masters(masters), owners.__getitem__, timing.subject_keys_s, Limits().subject_keys
    )
    own.keys = keys
    context = Context(
        service=service,
        personal=keys,
        log=log,
        store=store,
        views=views,
        owners=owners,
        resources=resources,
        last_known=remembered,
        clock=clock,
        timing=timing,
        callers=callers,
    )
    return supplied(context)


def supplied(context: Context) -> Context:
    """The same context, whose functions are given what Chimera makes of it."""
    context.resources.offer(Lagging, partial(lagging, context))
    return context


def check_functions(service: Service, *, knows: bool = False) -> None:
    """Raises DeclarationError where nobody supplies what a function needs. `knows`: the settings tell who asks."""
    known = (Caller,) if knows else ()
    service.check_provided(known)
    for handler in service.handlers.values():
        service.check_supplied(handler.signature, (Transaction, Lagging, Request, *known))
    for reaction in service.reactions.values():
        service.check_supplied(reaction.signature, (Transaction, Lagging, Caller))
    for query in service.queries.values():
        service.check_supplied(query.signature, (Reader, Request, *known))
    for uploading in service.uploads.values():
        service.check_supplied(uploading.signature, (Upload, Request, *known))
        if uploading.command not in [handler.command for handler in service.handlers.values()]:
            raise DeclarationError(
                f"{uploading.signature.at}: {service.name} handles no {uploading.command.__name__}; add: "
                f"@{service.name}.handle() async def …(command: {uploading.command.__name__}, tx: Transaction)"
            )
    for share in service.shares.values():
        service.check_supplied(share.signature, (Reads,))
    if service.authenticator is not None:
        service.check_supplied(service.authenticator.signature, (Reader, Request))
    check_rules(service, knows=knows)


@asynccontextmanager
async def opened(
    settings: Settings,
    names: Sequence[str],
    *,
    fleet: bool = False,
    beside: Collection[str] = (),
    used: bool = False,
) -> AsyncIterator[list[Context]]:
    """The services with their engines open; `fleet`: each service runs on a port of its own.

    `beside`: those that are asked within this process, as owners, whatever their address is. `used`: raises
    SettingsError where none of them has ever run there, and makes no files.
    """
    engines = Engines(settings, fleet=fleet, beside=beside, used=used)
    try:
        contexts, failed = _made(engines, names)
        _raise_first(failed)
        if used and not any(is_there(settings.engine_url("store", name)) for name in names):
            raise _unused(settings, names)
        _raise_first((await _prepared(contexts))[1])
        if used and not any([await was_used(context.store) for context in contexts]):
            raise _unused(settings, names)
        try:
            for context in contexts:
                await context.resources.open()
            yield contexts
        finally:
            for context in contexts:
                await context.resources.close()
                await context.owners.close()
    finally:
        await engines.close()


@asynccontextmanager
async def probed(settings: Settings, names: Sequence[str]) -> AsyncIterator[tuple[list[Context], list[ChimeraError]]]:
    """The services whose engines can be had, open, and what is wrong with the others."""
    engines = Engines(settings, fleet=False)
    try:
        contexts, failed = _made(engines, names)
        ready, away = await _prepared(contexts)
        try:
            yield ready, [*failed, *away]
        finally:
            for context in contexts:
                await context.owners.close()
    finally:
        await engines.close()


def _made(engines: Engines, names: Sequence[str]) -> tuple[list[Context], list[ChimeraError]]:
    """The services as data; none where they can't be together."""
    contexts, failed = list[Context](), list[ChimeraError]()
    for name in names:
        try:
            contexts.append(engines.context(name))
        except ChimeraError as error:
            failed.append(error)
    try:
        check_apart(contexts)
    except ChimeraError as error:
        return [], [*failed, error]
    return contexts, failed


async def _prepared(contexts: Sequence[Context]) -> tuple[list[Context], list[ChimeraError]]:
    """Those whose engines have been prepared, and what kept the others."""
    together = asyncio.Semaphore(PREPARED)
    preparing = (_prepare(context, together) for context in contexts)
    ended = await asyncio.gather(*preparing, return_exceptions=True)
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, ChimeraError):
            raise error
    ready = [context for context, error in zip(contexts, ended, strict=True) if error is None]
    return ready, [error for error in ended if isinstance(error, ChimeraError)]


def _unused(settings: Settings, names: Sequence[str]) -> SettingsError:
    return SettingsError(
        f"{names[0] if len(names) == 1 else 'no service'} has {'never ' if len(names) == 1 else ''}run on "
        f"{shown(settings.engine_url('store', names[0]))}; say where: --state FOLDER, or --url store=URL"
    )


def _raise_first(failed: Sequence[ChimeraError]) -> None:
    for error in failed:
        raise error


async def _prepare(context: Context, together: asyncio.Semaphore) -> None:
    async with together:
        try:
            await check_store(context)
            await context.prepare()
        except Unavailable as error:
            error.args = (f"{context.service.name}: {error}; does it run, is its address right? See: chimera check",)
            raise


def check_owners(settings: Settings, service: Service) -> None:
    """Raises SettingsError where a service uses what no service in the settings owns."""
    for consumer in consumers_of(service):
        if consumer.kind in ("commands", "relay") or consumer.source in settings.services:
            continue
        raise SettingsError(
            f"{declared_at(service, consumer)}: {service.name} uses what {consumer.source!r} has, and no service is "
            f"called so; there are: {', '.join(settings.services)}; name one of them (source=, owner=), or add "
            f"[services.{consumer.source}] with its app and url"
        )


async def admit_all(settings: Settings, contexts: Sequence[Context]) -> None:
    """Let services start. Raises SettingsError or DeclarationError where names don't fit what is pinned or stored."""
    if settings.names:
        check_pinned(Path(settings.names), [context.service for context in contexts])
    for context in contexts:
        check_owners(settings, context.service)
        await admit(context)


ENTRY_POINTS = "chimera.engines"
"""The group of entry points by which other packages add engines: a URL's scheme, and a module with `open_engine`."""


def open_engine(kind: Kind, url: str) -> Any:
    """An engine of this kind by its URL. Raises SettingsError for one that is not known or not installed."""
    scheme = url.partition(":")[0]
    if scheme in ADAPTERS:
        check_address(kind, url)
        return _adapter(scheme).open_engine(kind, url)
    added = entry_points(group=ENTRY_POINTS)
    check_address(kind, url, added.names)
    return added[scheme].load().open_engine(kind, url)


def _adapter(scheme: str) -> ModuleType:
    """The module of an engine that comes with Chimera. Raises SettingsError where its driver is not installed."""
    try:
        return importlib.import_module(ADAPTERS[scheme])
    except ModuleNotFoundError as error:
        extra = {"rediss": "redis"}.get(scheme, scheme.partition("+")[0])
        raise SettingsError(
            f"{scheme}: needs {error.name}, which is not installed; type: pip install 'chimera-kit[{extra}]'"
        ) from error


def about(app: str) -> str:
    """The first line of the docstring of a service's module, `app` being `module:attribute`; empty without one."""
    written = importlib.import_module(app.partition(":")[0]).__doc__ or ""
    return written.strip().partition("\n")[0]


def load_named(settings: Settings, name: str) -> Service:
    """The service of a name in the settings. Raises as `load_service`, and where it has another name."""
    settings.check_service(name)
    service = load_service(settings.services[name].app)
    if service.name != name:
        raise SettingsError(
            f"[services.{name}] loads a service that calls itself {service.name!r}; type: [services.{service.name}], "
            f'or Service("{name}")'
        )
    return service


def load_service(app: str) -> Service:
    """The service at `module:attribute`. Raises SettingsError or DeclarationError, which say what to change."""
    module, _, attribute = app.partition(":")
    if not module or not attribute:
        raise SettingsError(f"app = {app!r} must look like module:attribute, as in: shop:shop")
    loaded = load_module(f"app = {app!r}", module)
    found = getattr(loaded, attribute, None)
    if isinstance(found, Service):
        return found
    there = [name for name, value in vars(loaded).items() if isinstance(value, Service)]
    typed = f'type: app = "{module}:{there[0]}"' if there else f'write there: {attribute} = Service("{attribute}")'
    if found is None:
        raise SettingsError(f"app = {app!r}: {module} has no {attribute!r}; {typed}")
    raise DeclarationError(f"{app} is a {type(found).__name__}, not a Service; {typed}")


def load_module(typed: str, module: str) -> ModuleType:
    """A module that a setting, as it is `typed`, names. Raises SettingsError that says where it fails in there."""
    try:
        return importlib.import_module(module)
    except ChimeraError:
        raise
    except ModuleNotFoundError as error:
        raise SettingsError(f"{typed}: {error}; is it installed, or beside the settings?") from error
    except SyntaxError as error:
        where = f"{Path(error.filename or module).name}:{error.lineno}"
        raise SettingsError(f"{where}: {error.msg}; {typed} can't be loaded") from error
    except Exception as error:  # whatever an author's module does while it is loaded
        raise SettingsError(
            f"{_raised_at(error, module)}: {type(error).__name__}: {error}; {typed} can't be loaded"
        ) from error


def _raised_at(error: Exception, module: str) -> str:
    """The file and line of an author's code where it was raised: the last one outside of installed packages."""
    frames = [each for each in extract_tb(error.__traceback__) if "importlib" not in each.filename]
    own = [each for each in frames if "site-packages" not in each.filename]
    chimeras = str(Path(__file__).parents[1])
    own = [each for each in own if not each.filename.startswith(chimeras)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else module
