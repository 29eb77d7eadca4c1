"""What of a service is personal, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from chimera.core.declared import own_events
from chimera.core.keys.ciphers import check_installed
from chimera.core.keys.concealing import check_subjects
from chimera.errors import MAKE_KEY, DeclarationError, SettingsError, class_at
from chimera.messages import type_at
from chimera.personal import holds_annotated, holds_personal
from chimera.service import Service


def is_personal_in(service: Service) -> bool:
    """True for a service that has personal values to do with, its own or others'."""
    return any(map(holds_personal, _types_of(service)))


def check_personal(service: Service, masters: Sequence[str]) -> None:
    """Raises DeclarationError for a personal field that can't be, SettingsError where there are no keys for one."""
    found = next(filter(holds_personal, _types_of(service)), None)
    if found is None:
        return
    for handler in service.handlers.values():
        check_subjects(handler.command)
    for uploading in service.uploads.values():
        if holds_personal(uploading.command):
            raise DeclarationError(
                f"{uploading.signature.at}: {uploading.command.__name__} has personal fields, which an upload can't "
                "conceal; take what is about a person by a command of its own"
            )
    for message in (*(handler.command for handler in service.handlers.values()), *own_events(service)):
        for key in message.__key_fields__:
            if holds_personal(message) and holds_annotated(type_at(message, key)):
                raise DeclarationError(
                    f"{class_at(message)}: {message.__name__}.{key} is personal and can't be a key, which stays when a "
                    "person is forgotten: make it a random id"
                )
    check_installed()
    if not masters:
        raise SettingsError(
            f"{class_at(found)}: {found.__name__} has personal fields, and there is no key to keep them by: set "
            f'[personal] keys = ["file:…"] (CHIMERA_PERSONAL__KEYS), made by: {MAKE_KEY}'
        )


def _types_of(service: Service) -> Iterator[Any]:
    for handler in service.handlers.values():
        yield handler.command
    yield from service.entities
    for fold in (*service.folds.values(), *service.views.values()):
        yield fold.document
        yield from fold.steps
    for borrow in service.borrows.values():
        yield borrow.document
    for reaction in service.reactions.values():
        yield from reaction.events
