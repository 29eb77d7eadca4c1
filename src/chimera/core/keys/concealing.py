"""What comes in: the personal values of a command, and whom each is about."""

from __future__ import annotations

import asyncio
import typing
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from chimera.core.keys.subjects import SubjectKeys
from chimera.errors import DeclarationError, Invalid, class_at
from chimera.forms import encode, fields_of, is_declared, is_model
from chimera.messages import MAX_KEY, AnyCommand
from chimera.personal import SECRETS, Personal, Secret, Subject, holds_annotated, holds_personal

GONE = 410


class ComeIn(NamedTuple):
    """A personal value that has come in: where, and whom it is about."""

    value: Personal[Any]
    place: str
    subject: str


async def conceal_all(keys: SubjectKeys, command: AnyCommand, command_id: str) -> bytes:
    """Conceal what is personal in a command; returns its JSON.

    The same command with the same id is the same JSON. Raises Invalid (410) for who was forgotten, Unavailable where
    the keys can't be had.
    """
    found = [each for each in _taken(command, "$", (), "") if not each.value.is_concealed]
    for each in found:
        if not each.subject:
            raise Invalid("whom it is about is not told", field=each.place)
        if len(each.subject) > MAX_KEY:
            raise Invalid(f"whom it is about has at most {MAX_KEY} characters", field=each.place)
    subjects = sorted({each.subject for each in found})
    known = dict(zip(subjects, await asyncio.gather(*map(keys.made, subjects)), strict=True))
    for each in found:
        key = known[each.subject]
        if not key.key:
            raise Invalid("whom it is about was forgotten, and nothing is kept of her", field=each.place, status=GONE)
        salt = f"{command_id}\n{each.place}"
        each.value.conceal(keys.concealed(each.subject, key, each.value.given(), salt))
    return encode(command)


def check_subjects(command: type[AnyCommand]) -> None:
    """Raises DeclarationError where it is not clear whom a personal field is about."""
    if is_model(command) or not holds_personal(command):
        return
    for holder, field, annotation in _declared_in(command, {command}):
        named = _subject_of(annotation)
        names = {each.name for each in (*fields_of(holder), *fields_of(command))}
        if named and named not in names:
            raise DeclarationError(
                f'{class_at(holder)}: {holder.__name__}.{field} is about Subject("{named}"), and there is no such '
                f"field; there are: {', '.join(sorted(names))}"
            )


def _declared_in(type_: type, seen: set[type]) -> Iterator[tuple[type, str, Any]]:
    for field in fields_of(type_):
        if holds_annotated(field.type):
            yield type_, field.name, field.type
        for inner in _structs_in(field.type):
            if inner not in seen:
                seen.add(inner)
                yield from _declared_in(inner, seen)


def _structs_in(annotation: Any) -> Iterator[type]:
    if is_declared(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _structs_in(part)


def _subject_of(annotation: Any) -> str:
    """The field that an annotation names; empty for the command's key."""
    for each in typing.get_args(annotation):
        if isinstance(each, Subject):
            return each.field
        if found := _subject_of(each):
            return found
    return ""


def _taken(value: object, place: str, around: Sequence[object], named: str) -> Iterator[ComeIn]:
    """The personal values in one, with where they are; `named`: the field that tells whom they are about."""
    if isinstance(value, Personal):
        yield ComeIn(value, place, SECRETS if isinstance(value, Secret) else _told(around, named))
    elif is_declared(type(value)):
        for field in fields_of(type(value)):
            inner = getattr(value, field.name)
            yield from _taken(inner, f"{place}.{field.encode_name}", (*around, value), _subject_of(field.type))
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _taken(each, f"{place}[{key!r}]", around, named)
    elif isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield from _taken(each, f"{place}[{at}]", around, named)


def _told(around: Sequence[object], named: str) -> str:
    """Whom a value is about: as the innermost has it that has the field, or as the command's key says."""
    if not named:
        command = around[0]
        return str(attrgetter(type(command).__key_fields__[0])(command))  # type: ignore[attr-defined]
    holder = next((each for each in reversed(around) if hasattr(each, named)), None)
    return "" if holder is None else str(getattr(holder, named))
