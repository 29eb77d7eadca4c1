"""Versions of messages: how they are written in a message's type, and what can be wrong with their declaration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, Literal

Unknown = Literal["ignore", "refuse"]
"""The fate of fields that a message has and its class has not, when it is read."""
Upgrades = dict[int, Callable[[Any], Any]]
"""By version, the function that makes the next one of it."""


def type_of(service: str, name: str, version: int = 1) -> str:
    """The CloudEvents type of a version of a message: the first one has none of its own."""
    return f"{service}.{name}" if version == 1 else f"{service}.{name}@{version}"


def types_of_all(service: str, names: Sequence[str], newest: int) -> list[str]:
    """The CloudEvents types of all versions of a message under all its names, the one that is sent first."""
    return [type_of(service, name, version) for version in range(newest, 0, -1) for name in names]


def base_of(type_: str) -> str:
    """The type of the first version of a message."""
    return type_.partition("@")[0]


def version_of(type_: str) -> int:
    """The version that a type says; 0 where it says something else."""
    _, at, version = type_.partition("@")
    return (int(version) if version.isascii() and version.isdigit() else 0) if at else 1


def gave_up(forgot: Mapping[str, Collection[str]], type_: str) -> bool:
    """True for a type of an event, of whatever version, that is among what a service has given up, by kind."""
    return base_of(type_).partition(".")[2] in forgot.get("events", ())


def is_newer(type_: str, known: Collection[str]) -> bool:
    """True for a type that is none of those known, but a version of one."""
    return "@" in type_ and type_ not in known and base_of(type_) in known


def too_new(type_: str, known: Collection[str]) -> str:
    """Why a type that is newer (see `is_newer`) can't be read."""
    newest = max(version_of(each) for each in known if base_of(each) == base_of(type_))
    return f"this code knows {base_of(type_)} up to version {newest}, and it is {type_}; newer code reads it"


def fault_of(version: object, unknown: object) -> str:
    """The reason why something is no version, or no fate of unknown fields; empty where both are."""
    if type(version) is not int or version < 1:
        return f"version={version!r} is no version: they are 1, 2, 3 and so on"
    if unknown not in (None, "ignore", "refuse"):
        return f'unknown={unknown!r} is no fate of unknown fields; type unknown="ignore" or unknown="refuse"'
    return ""


def fault_of_upgrade(function: Callable[..., Any], version: int, newest: int, places: Mapping[int, str]) -> str:
    """The reason why a version can't be upgraded by a function; empty where it can. `places`: where the others are."""
    if iscoroutinefunction(function):
        return f"an upgrade waits for nothing; write: def {function.__name__}(…)"
    if version in places:
        return f"its version {version} is upgraded at {places[version]} already; remove one of them"
    if 1 <= version < newest:
        return ""
    if version < 1:
        return f"there is no version {version!r} to upgrade: they count from 1"
    return (
        f"it is at version {newest}, so that there is no version {version} before it to upgrade; if it has changed, "
        f"type version={version + 1} at the class"
    )


def gap_of(name: str, newest: int, upgrades: Collection[int]) -> str:
    """The reason why versions of a message can't be read; empty where all can."""
    missing = [version for version in range(1, newest) if version not in upgrades]
    if not missing:
        return ""
    told = f"versions {', '.join(map(str, missing))} have" if len(missing) > 1 else f"version {missing[0]} has"
    return (
        f"{name} is at version {newest}, but {told} no upgrade, so that what is stored of before can't be read; "
        f"type: @{name}.upgrade({missing[0]})"
    )
