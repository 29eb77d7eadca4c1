"""Folds: a document type and, for each event, a pure function that folds the event into the document.

Views and event-sourced entities are declared as folds; a `Folder` runs one, the same for both. A view has lists.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from functools import cached_property
from hashlib import sha256
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from chimera.errors import DeclarationError
from chimera.forms import (
    AnyDocument,
    Decodes,
    cached,
    fields_of,
    is_declared,
    is_model,
    model_schema,
    names_of_fields,
    old_form_of,
    readers_of,
)
from chimera.messages import AnyEvent, Evolving, Message
from chimera.rules import Rule
from chimera.signature import (
    KeyOf,
    Page,
    declared_at,
    described,
    hints_of,
    located,
    name_of,
    name_of_type,
    texts_of,
    typed_key,
)

Doc = TypeVar("Doc", bound=AnyDocument)
Ev = TypeVar("Ev", bound=AnyEvent)

Doc_co = TypeVar("Doc_co", bound=AnyDocument, covariant=True)
After = TypeVar("After")

Function = Callable[[Any, Any], Any]
"""From a document and an event to the document afterwards; None where it was changed in place, or DELETED."""
Absent = Literal["404", "empty"]


class _Deleted:
    """The type of DELETED."""

    def __repr__(self) -> str:
        return "DELETED"


DELETED = _Deleted()
"""Returned by the function of a fold to remove the document."""


class Fold(Generic[Doc_co]):
    """A document type and, for each event, a pure function that folds the event into the document.

    `snapshot`: an event-sourced entity is kept after so many events, 0 for never. `version`: see `fingerprint_parts`.
    """

    def __init__(self, document: type[Doc_co], key: str) -> None:
        if key not in names_of_fields(document):
            raise DeclarationError(f"{document.__name__} has no field {key!r} to be its key")
        _check_defaults(document, key)
        self.document = document
        self.key = key
        self.key_type = _hint_of(document, key)
        self._typed_key = typed_key(self.key_type, f"{declared_at()}: {document.__name__}.{key}, its key,")
        self.version: str | int = ""
        self.snapshot = 0
        self.steps: dict[type[AnyEvent], tuple[KeyOf, Function]] = {}
        self.is_keyed_as_events = True
        """True as long as each document's key is that of the events that touch it."""

    def on(
        self, event: type[Ev], *, key: str | Callable[[Ev], str | Iterable[str]] | None = None
    ) -> Callable[[Callable[[Doc_co, Ev], After]], Callable[[Doc_co, Ev], After]]:
        """Fold `event` by the decorated function: it changes the document it is given, or returns a new one or DELETED.

        The document's key is the event's field of the same name, or the field `key` names, or what the
        function `key` returns for the event: one key or several.
        """
        key_of = key_of_event(event, key if key is not None else self.key)

        def declare(step: Callable[[Doc_co, Ev], After]) -> Callable[[Doc_co, Ev], After]:
            _check_step(step, self.document, event)
            read = {type_ for each in self.steps for type_ in each.wire_types()}
            if not read.isdisjoint(event.wire_types()):
                raise DeclarationError(f"{self.document.__name__} already folds {event.__name__} ({event.wire_type()})")
            self.steps[event] = (key_of, step)
            self.is_keyed_as_events &= event.__key_fields__ == (key or self.key,)
            return step

        return declare

    def new(self, key: str) -> Doc_co:
        """The document before its first event."""
        return self.document(**{self.key: key if self._typed_key is None else self._typed_key(key)})

    @property
    def sources(self) -> set[str]:
        """The services whose events are folded."""
        return {event.__source__ for event in self.steps}

    @cached_property
    def code(self) -> str:
        """The fingerprint of what is folded how; for whoever looks when all is declared."""
        return sha256("\n".join(fingerprint_parts(self)).encode()).hexdigest()[:16]


def fingerprint_parts(fold: Fold[Any]) -> list[str]:
    """Texts that are the same as long as a fold is: of its version, key, document, events, and their functions.

    They don't tell what a function calls or reads elsewhere: that is what `version` is for.
    """
    steps = [
        " ".join([event.wire_type(), described(key_of), described(step), *upgrades_of(event)])
        for event, (key_of, step) in fold.steps.items()
    ]
    return [repr(fold.version), fold.key, schema_text(fold.document), *sorted(steps)]


def upgrades_of(message: type[Evolving]) -> list[str]:
    """Texts that tell how older versions of a message are read; none where it is at its first."""
    upgrades = sorted(message.__upgrades__.items())
    return [f"{version} {described(each)} {schema_text(old_form_of(each))}" for version, each in upgrades]


@cached
def schema_text(document: type) -> str:
    """A text that is the same as long as the JSON of a type is."""
    try:
        schema = msgspec.json.schema(document, schema_hook=_schema_inside)
    except TypeError:  # a default that is no JSON
        fields = fields_of(document)
        return repr([(field.encode_name, str(field.type), described(field.default)) for field in fields])
    return repr(_without_prose(schema))


def _schema_inside(type_: type) -> dict[str, object]:
    return model_schema(type_) if is_model(type_) else {"type": name_of_type(type_)}


def _without_prose(schema: object) -> object:
    if isinstance(schema, dict):
        return {
            name: _without_prose(value)
            for name, value in schema.items()
            if not (name in ("title", "description") and isinstance(value, str))
        }
    return [_without_prose(each) for each in schema] if isinstance(schema, list) else schema


ListKind = Literal["text", "integer", "real", "boolean", "time"]
"""What a field holds that a list filters or orders by: dates, UUIDs and enums of texts are texts."""
_LIST_KINDS: dict[object, ListKind] = {
    str: "text",
    date: "text",
    UUID: "text",
    int: "integer",
    float: "real",
    bool: "boolean",
    datetime: "time",
}
_LIST_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_PARAMETER = re.compile(r"\{(\w+)\}")
MOST_ORDERED = 4
"""Fields that a list is ordered by, at most."""


class ListField(NamedTuple):
    """A field of the document that a list filters or orders by. `is_many`: it holds several values, each filters.

    `type`: that of the field, or of its values.
    """

    name: str
    kind: ListKind
    type: Any
    is_many: bool = False
    descends: bool = False


class ViewList(Generic[Doc_co]):
    """A list of a view: its documents by the values of fields (`where`), in an order, read a page at a time.

    `path` serves it to those whom `allow` names; `declared_at`: file and line. What is equal in all of `order` comes in
    the order of the keys.
    """

    def __init__(
        self,
        view: View[Doc_co],
        name: str,
        where: tuple[ListField, ...],
        order: tuple[ListField, ...],
        path: str | None,
        declared_at: str,
        allow: Rule | None = None,
    ) -> None:
        self.view = view
        self.name = name
        self.where = where
        self.order = order
        self.path = path
        self.declared_at = declared_at
        self.allow = allow


def _check_defaults(document: type, key: str) -> None:
    """Raises DeclarationError for a document that can't be made of its key alone."""
    for name in names_of_fields(document, required=True):
        if name != key:
            raise DeclarationError(
                f"{document.__name__}.{name} needs a default: before its first event a document has its key only; "
                f"write: {name}: … = …"
            )


def _check_step(step: Callable[..., Any], document: type, event: type[AnyEvent]) -> None:
    """Raises DeclarationError for a step that is no pure function of this document and this event."""
    at = f"{located(step)}: {name_of(step)}"
    if inspect.iscoroutinefunction(step) or inspect.isgeneratorfunction(step) or inspect.isasyncgenfunction(step):
        raise DeclarationError(f"{at} folds, and a fold waits for nothing: write: def {name_of(step)}(…)")
    try:
        names = list(inspect.signature(step).parameters)
        hints = hints_of(step)
    except (ValueError, TypeError, DeclarationError):  # no Python function, or names that only a type checker has
        return
    if len(names) < 2:
        raise DeclarationError(f"{at} takes {len(names)} parameters; a fold takes the document and the event")
    for name, given in zip(names, (document, event), strict=False):
        taken = hints.get(name)
        if isinstance(taken, type) and is_declared(taken) and not issubclass(given, taken):
            other = f"is a {taken.__name__}, and it is handed a {given.__name__}"
            raise DeclarationError(f"{at}: its parameter {name!r} {other}; make them one")


class View(Fold[Doc_co]):
    """Documents by key, folded from events, read in O(1).

    `name` is the one under which it is stored, `also` are its others. `declared_at`: file and line. `lists`: its
    lists, by name. `allow`: who may read it at its path.
    """

    def __init__(
        self,
        name: str,
        document: type[Doc_co],
        key: str,
        path: str | None,
        absent: Absent,
        page: Page | None,
        version: str | int = "",
        also: tuple[str, ...] = (),
        declared_at: str = "",
        allow: Rule | None = None,
    ) -> None:
        super().__init__(document, key)
        self.name = name
        self.path = path
        self.absent = absent
        self.page = page
        self.version = version
        self.also = also
        self.declared_at = declared_at
        self.allow = allow
        self.lists: dict[str, ViewList[AnyDocument]] = {}

    def list(
        self,
        name: str,
        *,
        where: str | Sequence[str] = (),
        order: str | Sequence[str] = (),
        path: str | None = None,
        unique: None = None,
        allow: Rule | None = None,
    ) -> ViewList[Doc_co]:
        """Declare a list: the documents with given values in the fields of `where`, all of them without any.

        A field of `where` that holds several values, such as the tags of an article, has its document in the list of
        each. `order` is a field or several, `-published_at` from its greatest down; what is equal comes in the order of
        the keys, None before all else. `path`, such as `/authors/{author_id}/articles`, has each field of `where` as a
        parameter, and serves pages: `?limit=20&after=CURSOR`.

        `allow` says who may read it there. The list is written with the documents. One that is new, or another, has the
        view built anew beside the old one.
        """
        check_not_unique(unique)
        listed = _Listed(self, name, declared_at())
        fields, wanted = listed.where(_names(where)), listed.order(_names(order))
        found = ViewList(self, name, fields, wanted, listed.path(path, fields), listed.at, allow)
        self.lists[name] = typing.cast("ViewList[AnyDocument]", found)
        return found


def check_not_unique(*given: object) -> None:
    """Raises DeclarationError for a view or a list that is to be unique."""
    if any(each is not None and each != () for each in given):
        raise DeclarationError(
            f"{declared_at()}: no view can be unique, for it is behind its events: what it refuses has happened; "
            'type unique=[("email",)] where an entity is declared, or await tx.reserve("email", value) in the handler'
        )


class _Listed:
    """The checks of a list's declaration. Each raises DeclarationError, with its file and line and what to type."""

    def __init__(self, view: View[Any], name: str, at: str) -> None:
        self.at = at
        self._view = view
        self._name = name
        try:
            self._types = {field.name: field.type for field in fields_of(view.document)}
        except NameError as error:
            raise self._wrong(f"{error}; import it where {view.document.__name__} is declared") from error
        if not _LIST_NAME.fullmatch(name):
            raise self._wrong('its name is of lower case letters, digits and dashes, as in view.list("by-author", …)')
        if name in view.lists:
            raise self._wrong(f"the view has one of this name already, at {view.lists[name].declared_at}")

    def where(self, names: Sequence[str]) -> tuple[ListField, ...]:
        """The fields that it filters by."""
        fields = tuple(self._field(name, "where", several=True) for name in names)
        if sum(field.is_many for field in fields) > 1:
            many = ", ".join(field.name for field in fields if field.is_many)
            raise self._wrong(f"of {many}, which hold several values each, only one may be in where=")
        return fields

    def order(self, names: Sequence[str]) -> tuple[ListField, ...]:
        """The fields that it is ordered by."""
        if len(names) > MOST_ORDERED:
            raise self._wrong(f"order= has {len(names)} fields; at most {MOST_ORDERED} fit")
        descending = {name.removeprefix("-"): name.startswith("-") for name in names}
        if len(descending) < len(names):
            raise self._wrong("order= names a field twice")
        return tuple(
            self._field(name, "order", several=False)._replace(descends=descends)
            for name, descends in descending.items()
        )

    def path(self, path: str | None, fields: Sequence[ListField]) -> str | None:
        """Its path, whose parameters are the fields that it filters by."""
        names = [field.name for field in fields]
        if path is not None and (not path.startswith("/") or "?" in path or "#" in path):
            one = "".join(f"/{{{name}}}" for name in names)
            raise self._wrong(f"{path!r} is no path; one looks like {one}/articles")
        if path is not None and sorted(_PARAMETER.findall(path)) != sorted(names):
            wanted = ", ".join(f"{{{name}}}" for name in names) or "no parameter"
            raise self._wrong(f"its path must hold {wanted}, as where= has it, and nothing else: {path!r} does not")
        return path

    def _field(self, name: str, word: str, *, several: bool) -> ListField:
        if name not in self._types:
            raise self._wrong(
                f"{self._view.document.__name__} has no field {name!r} for {word}=; it has: {', '.join(self._types)}"
            )
        plain, is_many = self._types[name], False
        if several and (inner := _many(plain)) is not None:
            plain, is_many = inner, True
        kind = _list_kind(plain)
        if kind is None:
            fits = "str, int, float, bool, datetime, date, UUID, an enum or a Literal, optional ones as well"
            raise self._wrong(
                f"{word}={name!r} is of a type that can't be {'filtered' if several else 'ordered'} by: give the "
                f"document a field of its own for it, of type {fits}"
            )
        return ListField(name, kind, plain, is_many)

    def _wrong(self, says: str) -> DeclarationError:
        return DeclarationError(f"{self.at}: list {self._name!r} of view {self._view.name}: {says}")


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _without_none(annotation: Any) -> Any:
    """A type without its None and what is annotated; of several others none."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _without_none(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [each for each in typing.get_args(annotation) if each is not type(None)]
        return _without_none(members[0]) if len(members) == 1 else None
    return annotation


def _many(annotation: object) -> Any:
    """The type of the values of a list, set or tuple of any length; None for anything else."""
    plain = _without_none(annotation)
    arguments = typing.get_args(plain)
    if typing.get_origin(plain) in (list, set, frozenset) or (arguments[1:] == (...,) and plain is not None):
        return arguments[0]
    return None


def _list_kind(annotation: object) -> ListKind | None:
    plain = _without_none(annotation)
    if typing.get_origin(plain) is Literal:
        return _kind_of_values(typing.get_args(plain))
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        return _kind_of_values([each.value for each in plain])
    return _LIST_KINDS.get(plain)


def _kind_of_values(values: Sequence[object]) -> ListKind | None:
    kinds = {_LIST_KINDS.get(type(value)) for value in values}
    return kinds.pop() if len(kinds) == 1 else None


def _hint_of(document: type, field: str) -> Any:
    """The type of a field; that of a text, where its name can't be found from here."""
    try:
        return typing.get_type_hints(document, include_extras=True)[field]
    except NameError:
        return str


class Step(NamedTuple):
    """One type of event as it is folded: its decoder, the keys of the documents that it touches, the function."""

    decoder: Decodes[AnyEvent]
    key_of: KeyOf
    function: Function


class Folder(Generic[Doc]):
    """A fold made ready to run: wire types looked up, decoders built once."""

    def __init__(self, fold: Fold[Doc]) -> None:
        self._fold = fold
        self.steps = {
            type_: Step(reader, key_of, function)
            for event, (key_of, function) in fold.steps.items()
            for type_, reader in readers_of(event, event.__source__).items()
        }

    def keys(self, step: Step, event: AnyEvent) -> list[str]:
        """The keys of the documents that an event touches, each once."""
        return texts_of(step.key_of(event))

    def apply(self, step: Step, document: Doc | None, key: str, event: AnyEvent) -> Doc | None:
        """The document after the event; None when the event removes it."""
        before = self._fold.new(key) if document is None else document
        after = step.function(before, event)
        if after is DELETED:
            return None
        return before if after is None else after

    def fold(self, key: str, messages: Iterable[Message], document: Doc | None = None) -> Doc | None:
        """The document of one key after these messages; None when none of them touched it, nor any before."""
        for message in messages:
            step = self.steps.get(message.type)
            if step is not None:
                document = self.apply(step, document, key, step.decoder.decode(message.data))
        return document


def key_of_event(event: type[AnyEvent], key: str | KeyOf) -> KeyOf:
    """The function that tells an event's key: its field of a name, or `key` itself. Raises DeclarationError."""
    if not event.__source__ or not event.__key_fields__:
        raise DeclarationError(
            f'{event.__name__} needs an owner and a key: class {event.__name__}(Event, source="…", key="…")'
        )
    if callable(key):
        return key
    if key not in names_of_fields(event):
        raise DeclarationError(f"{event.__name__} has no field {key!r}; name the field that holds the key with key=…")
    return lambda happened: str(getattr(happened, key))
