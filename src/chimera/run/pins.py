"""`names.toml`: the names under which services store and send, pinned in a file that is committed with the code.

`chimera names` writes it. Whoever renames something sees it before anything starts: in `chimera check`, and so in CI.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from chimera.core.declared import KINDS, DeclaredName, Kind, declared_names
from chimera.errors import SettingsError
from chimera.service import Service
from chimera.upkeep.admission.naming import given_up, renamed

WIDTH = 100
HEAD = """\
# The names under which these services store and send, written by `chimera names`. Commit it: what is gone from the code
# and still stands here is refused by `chimera check`, and at the start.
"""

Pinned = Mapping[str, Mapping[Kind, list[str]]]
"""By service and kind, the names that are pinned."""


def read_pinned(path: Path) -> Pinned:
    """The names in a file; none where there is no file. Raises SettingsError for one that can't be read."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), dict[str, dict[Kind, list[str]]])
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path} can't be read: {error}; write it again with: chimera names") from error


def text_of(services: Sequence[Service]) -> str:
    """The file for these services."""
    parts = [HEAD]
    for service in services:
        declared = declared_names(service)
        parts.append(f"\n[{service.name}]\n")
        for kind in KINDS:
            names = sorted({each.name for each in declared if each.kind == kind})
            if names:
                parts.append(f"{kind} = {_list_of([json.dumps(name, ensure_ascii=False) for name in names])}\n")
    return "".join(parts)


def _list_of(quoted: Sequence[str]) -> str:
    line = f"[{', '.join(quoted)}]"
    return line if len(line) <= WIDTH else "[\n" + "".join(f"    {each},\n" for each in quoted) + "]"


def gone(path: Path, pinned: Pinned, service: Service) -> list[str]:
    """What is pinned and neither declared nor given up, a line each that says what to type."""
    own, declared, found = pinned.get(service.name, {}), declared_names(service), []
    for kind, names in own.items():
        here = {name for each in declared if each.kind == kind for name in (each.name, *each.also)}
        new = [each for each in declared if each.kind == kind and each.name not in names]
        lost = [name for name in names if name not in here | service.forgot.get(kind, frozenset())]
        found += [_gone(path, service, kind, name, new) for name in lost]
    return found


def unpinned(path: Path, pinned: Pinned, service: Service) -> list[str]:
    """What is declared and not pinned, a line each; nothing where there is no file."""
    if not pinned:
        return []
    own = pinned.get(service.name, {})
    return [
        f"{each.where}: the {each.kind.removesuffix('s')} {each.name!r} of {service.name} is not in {path.name}; "
        "type: chimera names"
        for each in declared_names(service)
        if each.name not in own.get(each.kind, ())
    ]


def check_pinned(path: Path, services: Sequence[Service]) -> None:
    """Raises SettingsError where a name is pinned that a service neither declares nor gives up."""
    pinned = read_pinned(path)
    for service in services:
        for line in gone(path, pinned, service):
            raise SettingsError(line)


def _gone(path: Path, service: Service, kind: Kind, name: str, new: Sequence[DeclaredName]) -> str:
    asked = f"; if {new[0].python} ({new[0].where}) is what it is called now, type: " if new else "; "
    now = renamed(service, new[0], name) if new else "declare it again"
    return (
        f"{path.name}:{_line_of(path, service.name, kind)}: the {kind.removesuffix('s')} {name!r} of {service.name} is "
        f"pinned, and nothing is called so any more{asked}{now}; if it is given up, type: "
        f"{given_up(service, kind, name)}"
    )


def _line_of(path: Path, service: str, kind: Kind) -> int:
    section, quoted = "", {f"[{service}]", f'["{service}"]'}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        section = line.strip() if line.startswith("[") else section
        if section in quoted and line.startswith(kind):
            return number
    return 1
