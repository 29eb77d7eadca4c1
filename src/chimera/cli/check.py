"""The check of a deployment: everything is loaded, every engine asked, and what would be in force is printed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from chimera.borrow.modes import read_mode
from chimera.cli.names import check_names
from chimera.commands.apart.rules import HandlerRule, rule_of
from chimera.core.context import Context
from chimera.core.timing import PerCaller, Retention
from chimera.errors import ChimeraError
from chimera.forms import AnyDocument
from chimera.parts import Borrow, Handler
from chimera.run.addresses import shown
from chimera.run.engines import load_named, probed
from chimera.run.front.chain import check_front
from chimera.run.front.settings import Http
from chimera.run.pins import read_pinned
from chimera.run.settings import Settings
from chimera.service import Service
from chimera.upkeep.admission.naming import misfits
from chimera.upkeep.drift.unique import RuleStanding, rules_standing
from chimera.web.permission.passages import check_rules, has_rules, passages

WIDTH = 80
LABEL = 14
ENGINES = ("log", "store", "views", "last_known")

Row = tuple[str, str]
"""A label, and what is said of it."""


async def check_all(settings: Settings, config: str, *, offline: bool) -> bool:
    """Print what would be in force, then what is wrong, a line each; says whether nothing is.

    `offline`: without any engine, by the code and the files alone. Raises SettingsError for a file of names that can't
    be read.
    """
    found = [*check_names(settings), *_wrong_in_front(settings)]
    loaded = [name for name in settings.services if _loads(settings, name)]
    if offline:
        found += _wrong_rules(settings, loaded)
    else:
        _say([("settings", config), *_of_all(settings)])
        async with probed(settings, loaded) as (contexts, failed):
            found += [str(error) for error in failed if str(error) not in found]
            for context in contexts:
                click.echo(f"\n{context.service.name}: {settings.services[context.service.name].app}")
                rules = await rules_standing(context)
                _say([*await _of_service(settings, context), *map(_unique, rules)])
                found += [line for line in await misfits(context) if line not in found]
                found += [f"{context.service.name}: {rule.refusal}" for rule in rules if rule.refusal]
        click.echo()
    for line in found:
        click.echo(f"chimera: {line}", err=True)
    if not found:
        click.echo(_well(settings, offline=offline))
    return not found


def _well(settings: Settings, *, offline: bool) -> str:
    path = Path(settings.names)
    more = "" if read_pinned(path) else f"; chimera names pins them in {path.name}"
    return f"all names are well{more}" if offline else f"all engines answer\nall names are well, and as stored{more}"


def _wrong_in_front(settings: Settings) -> Iterator[str]:
    tables = {f"[services.{name}.http]": own.http for name, own in settings.services.items()}
    for table, http in {"[http]": settings.http, **tables}.items():
        try:
            check_front(http, table)
        except ChimeraError as error:
            yield str(error)


def _loads(settings: Settings, name: str) -> bool:
    try:
        load_named(settings, name)
    except ChimeraError:
        return False
    return True


def _of_all(settings: Settings) -> Iterator[Row]:
    doors = settings.doors
    scheme = "https" if settings.http.certificate else "http"
    where = f"unix:{settings.http.socket}" if settings.http.socket else f"{scheme}://{settings.host}:{settings.port}"
    yield "serves", f"{where} as {settings.title!r}"
    if settings.http.wraps:
        yield "in front", _in_front(settings.http)
    yield "known", _known(settings)
    yield "state", str(Path(settings.state).absolute())
    most = f"{doors.connections:,} connections, {doors.requests:,} requests, {doors.body_bytes >> 20:,} MiB of bodies"
    times = f"idle {doors.idle_s:g}, head {doors.head_s:g}, body {doors.body_s:g}, answer {doors.answer_s:g}"
    yield "doors", f"{most}; seconds: {times}"
    if settings.limits.is_set:
        yield "one caller", _per_caller(settings.limits)
    audits = f"every {settings.audit_s:g} s" if settings.audit_s else "never"
    yield "audits", f"{audits}; a message that ends {settings.process_ends} processes is parked"


def _known(settings: Settings) -> str:
    """The ways in which callers are known, where a service does not tell itself."""
    identity = settings.identity
    ways = [f"tokens of {each.issuer} for {each.audience}" for each in identity.issuers]
    ways += [f"sessions of {each.issuer} as {each.client_id}" for each in identity.issuers if each.client_id]
    if names := sorted({each.name for each in identity.api_keys}):
        ways.append(f"API keys of {', '.join(names)}")
    if (found := identity.certificates) is not None:
        ways.append(f"certificates, by {found.subject}{f', in {found.header}' if found.header else ''}")
    return "; ".join(ways) or "nobody, but where a service tells itself; add [identity]"


def _per_caller(limits: PerCaller) -> str:
    told = (
        f"{limits.rate:g} requests a second, {limits.most_at_once:,} at once after a pause" if limits.rate else "",
        f"{limits.requests:,} requests under way" if limits.requests else "",
        f"{limits.waits:,} that wait" if limits.waits else "",
    )
    return "; ".join(filter(None, told))


def _in_front(http: Http) -> str:
    """What stands in front, the outermost first."""
    parts = [
        f"proxies {', '.join(http.proxies)}" if http.proxies else "",
        f"access log as {http.access_log}" if http.access_log != "off" else "",
        f"origins {', '.join(http.cors.origins)}" if http.cors else "",
        f"gzip from {http.compress_from:,} bytes" if http.compress else "",
        *http.middleware,
    ]
    return "; ".join(part for part in parts if part)


async def _of_service(settings: Settings, context: Context) -> list[Row]:
    service, own = context.service, settings.services[context.service.name]
    rows: list[Row] = [(kind.replace("_", " "), _engine(settings, kind, service.name)) for kind in ENGINES]
    rows += [("command", _command(context, handler)) for handler in service.handlers.values()]
    rows += [
        ("reaction", f"{each.name}, {_limits(rule_of(context, each.name, each.handling))}")
        for each in service.reactions.values()
    ]
    rows += [("query", query.route) for query in service.queries.values()]
    rows += [("upload", f"{each.route}, {each.limit >> 20} MiB") for each in service.uploads.values()]
    rows += [("view", f"{view.name}, GET {view.path}" if view.path else view.name) for view in service.views.values()]
    rows += [
        ("list", f"{each.name} of {view.name}, GET {each.path}" if each.path else f"{each.name} of {view.name}")
        for view in service.views.values()
        for each in view.lists.values()
    ]
    if settings.identity.is_set and service.authenticator is not None:
        rows.append(("known", f"as it tells itself, {service.authenticator.signature.at}"))
    rows += _may(service)
    rows += [("share", share.name) for share in service.shares.values()]
    rows += [("borrow", await _borrow(context, borrow)) for borrow in service.borrows.values()]
    rows.append(("keeps", _keeps(context.retention)))
    return [*rows, ("url", own.url)] if own.url else rows


def _may(service: Service) -> list[Row]:
    """Who may take each route."""
    if not has_rules(service):
        return [("may", "anyone, all routes: no rule is declared; add allow=")]
    return [("may", f"{each.route}: {each.allow}") for each in passages(service)]


def _wrong_rules(settings: Settings, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            check_rules(load_named(settings, name), knows=settings.identity.is_set)
        except ChimeraError as error:
            yield str(error)


def _unique(rule: RuleStanding) -> Row:
    if rule.is_in_force:
        return "unique", rule.name
    what = "refuses: rows have the same" if rule.refusal else "looks through the rows that there are"
    return "unique", f"{rule.name}, not in force yet: the next start {what}"


def _engine(settings: Settings, kind: str, service: str) -> str:
    url = settings.engine_url(kind, service)
    return shown(url).replace(f"{Path.cwd()}/", "") if url else "in the process"


def _command(context: Context, handler: Handler) -> str:
    name = handler.command.__names__[0]
    at = f", {handler.route}" if handler.route else ""
    return f"{name}{at}{', direct' if handler.direct else ''}, {_limits(rule_of(context, name, handler.handling))}"


def _limits(rule: HandlerRule) -> str:
    retry = rule.retry
    return f"{rule.limit_s:g} s, {retry.tries} tries, pauses {retry.first_s:g} to {retry.longest_s:g} s"


async def _borrow(context: Context, borrow: Borrow[AnyDocument]) -> str:
    setting = await read_mode(context, borrow)
    mode = setting.mode if setting.wanted == setting.mode else f"{setting.mode}, to be {setting.wanted}"
    return f"{borrow.name} of {borrow.owner}, {mode}, budget {borrow.budget:g} s, stale after {borrow.max_age:g} s"


def _keeps(retention: Retention) -> str:
    kept = {
        "journal": retention.journal_days,
        "inbox": retention.inbox_days,
        "log": retention.log_days,
        "parked": retention.parked_days,
    }
    return ", ".join(f"{what} {f'{days:g} days' if days else 'for ever'}" for what, days in kept.items())


def _say(rows: Iterable[Row]) -> None:
    """Print rows within 80 columns; what is longer goes on below."""
    for label, words in rows:
        first, rest = f"  {label:<{LABEL}}", " " * (LABEL + 2)
        click.echo(textwrap.fill(words, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False))
