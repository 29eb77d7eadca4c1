"""The issuer for development, where it is set: what serves it, and the settings that believe it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from chimera.core.clock import Clock
from chimera.errors import SettingsError
from chimera.run.front.keys import kept_secret
from chimera.run.settings import Settings
from chimera.web.identity.people import AUDIENCE, CLIENT, PATH
from chimera.web.identity.settings import Identity, Issuer
from chimera.web.permission.groups import is_loopback
from chimera.web.site import SitePart

logger = logging.getLogger("chimera")

ENTRY_POINTS = "chimera.issuers"
"""The group of entry points of what serves an issuer: a function of the people, the state's folder, base and clock."""
SESSIONS = "sessions.key"


class Issuing(NamedTuple):
    """Settings that believe the issuer, and what serves it; nothing does, where it is not set."""

    settings: Settings
    parts: list[SitePart]


def issuing_at(settings: Settings, base: str, clock: Clock) -> Issuing:
    """The issuer, where it is set, served at a base URL.

    Raises SettingsError for one that others could reach, that knows nobody, or whose key can't be read.
    """
    if not settings.issuer.serve:
        return Issuing(settings, [])
    _check(settings)
    state, shown = Path(settings.state), ", ".join(person.shown for person in settings.issuer.people)
    part: SitePart = _loaded()(settings.issuer, state, base, clock)
    logger.warning("%s%s lets everybody on this machine log in without a password, as: %s", base, PATH, shown)
    sessions = settings.identity.sessions or [_sessions(state, clock)]
    others = [each for each in settings.identity.issuers if not each.issuer.endswith(PATH)]
    own = Issuer(issuer=base + PATH, audience=AUDIENCE, client_id=CLIENT)
    identity = msgspec.structs.replace(settings.identity, sessions=sessions, issuers=[own, *others])
    return Issuing(msgspec.structs.replace(settings, identity=identity), [part])


def variables_of(settings: Settings) -> Mapping[str, str]:
    """The variables by which other processes believe the issuer too; none where it is not set.

    Secrets of clients are not in them: people log in at the process where they come in.
    """
    if not settings.issuer.serve:
        return {}
    identity: Identity = settings.identity
    tables = [_written(msgspec.structs.asdict(each) | {"client_secret": ""}) for each in identity.issuers]
    return {
        "CHIMERA_IDENTITY__ISSUERS": f"[{', '.join(tables)}]",
        "CHIMERA_IDENTITY__SESSIONS": " ".join(identity.sessions),
    }


def _check(settings: Settings) -> None:
    host = settings.http.socket or settings.host
    if settings.http.socket or not is_loopback(settings.host):
        raise SettingsError(
            "[issuer] serve = true lets everybody in without a password, so it is for this machine; leave it out, or "
            f'set host = "127.0.0.1", and not {host!r}'
        )
    subjects = [person.subject for person in settings.issuer.people]
    if not subjects or len({*subjects}) != len(subjects):
        told = "two people with one subject" if subjects else "nobody"
        raise SettingsError(f"[issuer] has {told}; add [[issuer.people]] with subject, name and roles of its own each")


def _loaded() -> Any:
    [found] = entry_points(group=ENTRY_POINTS, name="development")
    try:
        return found.load()
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"[issuer] serve needs {error.name}, which is not installed; type: pip install 'chimera-kit[identity]'"
        ) from error


def _sessions(state: Path, clock: Clock) -> str:
    """What seals sessions, kept, so that a restart logs nobody out. Raises SettingsError."""
    try:
        return kept_secret(state / SESSIONS, lambda: clock.random_bytes(32).hex().encode()).decode().strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{state / SESSIONS} can't be read ({error}); remove it, and one is made") from error


def _written(table: Mapping[str, object]) -> str:
    """A table as TOML has it within a line; its texts, lists and booleans are written as in JSON."""
    return "{" + ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()) + "}"
