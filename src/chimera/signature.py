"""What an author's function takes: read when it is declared, so that a mistake is told with its place."""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from chimera.errors import DeclarationError, at_line

Key = str | int | UUID | date
"""What a key may be. Its text is what `str` makes of it, so that an enum has to be a StrEnum or an IntEnum."""
AnyKey = TypeVar("AnyKey", bound=Key)
KeyOf = Callable[[Any], "Key | Iterable[Key]"]
"""From an event to the key of its document, or the keys of its documents."""
Page = Callable[[Any], str]
"""From an answer to the HTML that shows it."""
PLAIN = (str, int, float, bool, bytes, datetime, date, time, timedelta, Decimal, UUID)
"""The types that can be read from text, beside enums, and lists and unions of such."""
_KEYS, _NO_KEYS = (str, int, UUID, date), (bool, datetime)
_LISTS = (list, tuple, set, frozenset)


class Needed(NamedTuple):
    """A parameter that is supplied by its type. `optional`: it takes None where there is none."""

    name: str
    type: Any
    optional: bool = False


class Plain(NamedTuple):
    """A parameter that is read from text: of a path or a query."""

    name: str
    type: Any
    default: object


class Signature(NamedTuple):
    """A function as it was read. `first`: the parameters that it is handed by their place.

    `needs` are supplied by their types, `plain` are read from text. `hints`: its annotations, by name.
    """

    function: Callable[..., Any]
    first: tuple[str, ...]
    needs: tuple[Needed, ...]
    plain: tuple[Plain, ...]
    hints: Mapping[str, Any]

    @property
    def at(self) -> str:
        """The file and line of the function, and its name."""
        return f"{located(self.function)}: {name_of(self.function)}"

    def needs_any(self, of: Collection[Any]) -> bool:
        """True when one of these types is needed."""
        return any(need.type in of for need in self.needs)


def signature_of(function: Callable[..., Any], first: int = 0, *, may_be_plain: bool = False) -> Signature:
    """The signature of an `async def` that is handed `first` parameters by place; all others are found by type.

    `may_be_plain`: they may also be read from text. Raises DeclarationError, with file and line.
    """
    what = inspect.unwrap(function)
    if not inspect.iscoroutinefunction(what) and not inspect.iscoroutinefunction(getattr(what, "__call__", None)):  # noqa: B004
        kind = "yields" if inspect.isasyncgenfunction(what) else "is a def"
        raise DeclarationError(
            f"{located(function)}: {name_of(function)} {kind}; write: async def {name_of(function)}(…), and return"
        )
    return read_parameters(function, first, may_be_plain=may_be_plain)


def read_parameters(
    function: Callable[..., Any], first: int = 0, *, may_be_plain: bool = False, required_only: bool = False
) -> Signature:
    """As `signature_of`, whatever kind of callable it is. `required_only`: leave out what has a default."""
    hints, at = hints_of(function), f"{located(function)}: {name_of(function)}"
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < first:
        raise DeclarationError(f"{at} takes {len(parameters)} parameters; it is given {first} at least")
    needs: list[Needed] = []
    plain: list[Plain] = []
    for parameter in parameters[first:]:
        if required_only and (parameter.default is not parameter.empty or parameter.kind in _MANY):
            continue
        if parameter.kind in _MANY:
            raise DeclarationError(f"{at}: nobody knows what *{parameter.name} is; name each parameter")
        if parameter.name not in hints:
            raise DeclarationError(
                f"{at}: its parameter {parameter.name!r} says no type; write: {parameter.name}: Transaction"
            )
        hint = hints[parameter.name]
        if is_plain(hint):
            plain.append(Plain(parameter.name, hint, parameter.default))
        else:
            needs.append(_need(parameter.name, hint))
    if plain and not may_be_plain:
        without = next((each for each in plain if each.default is inspect.Parameter.empty), None)
        if without is not None:
            raise DeclarationError(
                f"{at}: nobody can supply its parameter {without.name!r}, {type_name(without.type)}; "
                "what comes with a request is a field of the command, or of Request"
            )
    return Signature(function, tuple(each.name for each in parameters[:first]), tuple(needs), tuple(plain), hints)


def is_plain(hint: Any) -> bool:
    """True for a type that is read from text: a scalar, an enum, a list of such, or a union of such."""
    if isinstance(hint, typing.NewType):
        return is_plain(hint.__supertype__)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return is_plain(arguments[0])
    if origin is typing.Literal or hint is type(None) or hint is None:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(map(is_plain, arguments))
    if origin in _LISTS:
        return all(is_plain(each) for each in arguments if each is not Ellipsis)
    return isinstance(hint, type) and (issubclass(hint, enum.Enum) or hint in (*PLAIN, *_LISTS))


def is_list(hint: Any) -> bool:
    """True for a type that is read from several texts of one name, as in `?tag=a&tag=b`."""
    if isinstance(hint, typing.NewType):
        return is_list(hint.__supertype__)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return is_list(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(map(is_list, arguments))
    return (origin or hint) in _LISTS


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, or of a class's `__init__`. Raises DeclarationError for a name not to be found."""
    target = function.__init__ if isinstance(function, type) else inspect.unwrap(function)  # type: ignore[misc]
    if not hasattr(target, "__annotations__"):
        target = getattr(target, "__call__", target)  # noqa: B004
    try:
        return typing.get_type_hints(target, include_extras=True)
    except NameError:
        pass
    try:
        return typing.get_type_hints(target, localns=_locals_of_declarer(), include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"{located(function)}: {name_of(function)}: {error}; its annotations must be importable where it is "
            "declared: import them outside of TYPE_CHECKING, at the module's level"
        ) from error


def _locals_of_declarer() -> dict[str, Any]:
    """The names of the function that declares something now: annotations may name what it has made itself."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "chimera":
        frame = frame.f_back
    return dict(frame.f_locals) if frame is not None else {}


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, or of the class of an object that can be called."""
    return getattr(function, "__name__", type(function).__name__)


def located(function: Callable[..., object]) -> str:
    """The file and line of a function, such as `shop.py:12`; the file as seen from the current folder."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return at_line(code.co_filename, code.co_firstlineno) if code else repr(function)


_DECLARING = ("chimera.folds", "chimera.service", "chimera.supplies", __name__)


def declared_at() -> str:
    """The place, outside the modules that declare, that is declaring something now."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None and frame.f_globals.get("__name__") in _DECLARING:
        frame = frame.f_back
    assert frame is not None
    return at_line(frame.f_code.co_filename, frame.f_lineno)


_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _need(name: str, hint: Any) -> Needed:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in arguments:
        others = [each for each in arguments if each is not type(None)]
        if len(others) == 1:
            return Needed(name, others[0], optional=True)
    return Needed(name, hint)


def type_name(hint: Any) -> str:
    """The name of a type, as it is told to people."""
    return getattr(hint, "__name__", str(hint))


def texts_of(keys: Key | Iterable[Key]) -> list[str]:
    """The texts of one key or several, each once."""
    if isinstance(keys, str):
        return [keys]
    if isinstance(keys, _KEYS):
        return [str(keys)]
    return list(dict.fromkeys(key if type(key) is str else str(key) for key in keys))


def by_key(keys: Iterable[AnyKey], found: Mapping[str, Any]) -> dict[AnyKey, Any]:
    """What was found by the texts of keys, by the keys as they were given."""
    return {key: found[text] for key in keys if (text := str(key)) in found}


def typed_key(type_: Any, what: str) -> Callable[[str], Any] | None:
    """What makes a key of its text; None where it is text itself. Raises DeclarationError for a type that is no key.

    What it returns raises msgspec.ValidationError for a text that is none of the type.
    """
    plain = type_
    while isinstance(plain, typing.NewType) or typing.get_origin(plain) is typing.Annotated:
        plain = plain.__supertype__ if isinstance(plain, typing.NewType) else typing.get_args(plain)[0]
    if plain is str or not isinstance(plain, type):
        return None
    is_plain_enum = issubclass(plain, enum.Enum) and str(next(iter(plain))) != str(next(iter(plain)).value)
    if not issubclass(plain, _KEYS) or issubclass(plain, _NO_KEYS) or is_plain_enum:
        raise DeclarationError(f"{what} is a {plain.__name__}; a key is a str, an int, a UUID, a date or a StrEnum")
    return lambda text: msgspec.convert(text, type_, strict=False)


_VALUES = (str, bytes, int, float, complex, bool, type(None), type(...))


def described(value: object, within: tuple[int, ...] = ()) -> str:
    """A text that is the same wherever the value is the same; of objects only their class."""
    if isinstance(value, _VALUES):
        return repr(value)
    if id(value) in within:
        return "itself"
    deeper = (*within, id(value))
    if isinstance(value, list | tuple):
        return f"({','.join(described(each, deeper) for each in value)})"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(described(each, deeper) for each in value))}}}"
    if isinstance(value, dict):
        pairs = [f"{described(key, deeper)}:{described(each, deeper)}" for key, each in value.items()]
        return f"{{{','.join(sorted(pairs))}}}"
    if isinstance(value, types.CodeType):
        parts = (value.co_code, value.co_exceptiontable, value.co_names, value.co_argcount, value.co_consts)
        return described(parts, deeper)
    if isinstance(value, types.FunctionType):
        return described((value.__code__, value.__defaults__, value.__kwdefaults__, _closed_over(value)), deeper)
    if isinstance(value, types.MethodType):
        return described((value.__func__, type(value.__self__)), deeper)
    if isinstance(value, partial):
        return described((value.func, value.args, value.keywords), deeper)
    return name_of_type(value if isinstance(value, type) else type(value))


def _closed_over(function: types.FunctionType) -> list[object]:
    found: list[object] = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            found.append(...)
    return found


def name_of_type(type_: object) -> str:
    """The name of a type with its module."""
    return f"{getattr(type_, '__module__', '')}.{getattr(type_, '__qualname__', type(type_).__qualname__)}"
