"""The JSON of declared types: of structs, and of dataclasses and pydantic models, which may stand where structs do.

msgspec reads and writes structs and dataclasses; a pydantic model is read by its own validation, so that its validators
run, and written by its own serializer. Nothing here imports pydantic unless there is such a model.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, ParamSpec, Protocol, TypeVar

import msgspec
from msgspec.structs import FieldInfo

from chimera.errors import DeclarationError, FieldError, Unfit, class_at, line_of
from chimera.personal import Personal, is_personal, read_personal, take_personal, types_in
from chimera.versions import gap_of, version_of

Read = TypeVar("Read")
Read_co = TypeVar("Read_co", covariant=True)
Described = dict[str, Any]
"""A JSON Schema."""
Given = ParamSpec("Given")
Order = Literal[None, "deterministic", "sorted"]


def cached(function: Callable[Given, Read]) -> Callable[Given, Read]:
    """As functools.cache, of a function of types."""
    return typing.cast("Callable[Given, Read]", cache(function))


class IsDataclass(Protocol):
    """What `@dataclass` has made."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class IsModel(Protocol):
    """What pydantic has made: a model, or one of its dataclasses."""

    __pydantic_validator__: ClassVar[Any]


AnyDocument = msgspec.Struct | IsDataclass | IsModel


class Decodes(Protocol[Read_co]):
    """Reads JSON as a type."""

    def decode(self, data: bytes, /) -> Read_co:
        """Raises msgspec.DecodeError, and a ValidationError among them for what breaks the type."""


def is_model(type_: object) -> bool:
    """True for a type whose values pydantic makes."""
    return isinstance(type_, type) and hasattr(type_, "__pydantic_validator__")


def is_declared(type_: object) -> bool:
    """True for a struct, a dataclass or a model."""
    return isinstance(type_, type) and (
        issubclass(type_, msgspec.Struct) or dataclasses.is_dataclass(type_) or is_model(type_)
    )


@cached
def fields_of(type_: type) -> Sequence[FieldInfo]:
    """The fields of a struct, a dataclass or a model, in order. Raises DeclarationError for any other type."""
    if issubclass(type_, msgspec.Struct):
        return msgspec.structs.fields(type_)
    _check_declared(type_)
    hints = typing.get_type_hints(type_, include_extras=True)
    if is_model(type_):
        return _fields_of_model(type_, hints)
    return [
        FieldInfo(each.name, each.name, hints[each.name], _or_none(each.default), _or_none(each.default_factory))
        for each in dataclasses.fields(typing.cast("Any", type_))
        if each.init
    ]


def names_of_fields(type_: Any, *, required: bool = False) -> tuple[str, ...]:
    """The names of the fields of a struct, a dataclass or a model, or of those without a default; no type is looked at.

    Raises DeclarationError for any other type.
    """
    if issubclass(type_, msgspec.Struct):
        names: tuple[str, ...] = type_.__struct_fields__
        return names[: len(names) - len(type_.__struct_defaults__)] if required else names
    _check_declared(type_)
    if is_model(type_) and not dataclasses.is_dataclass(type_):
        return tuple(name for name, each in type_.__pydantic_fields__.items() if not required or each.is_required())
    missing = dataclasses.MISSING
    return tuple(
        each.name
        for each in dataclasses.fields(type_)
        if each.init and (not required or (each.default is missing and each.default_factory is missing))
    )


def _check_declared(type_: type) -> None:
    if not is_declared(type_):
        raise DeclarationError(
            f"{type_.__name__} has no fields: write class {type_.__name__}(Struct), or @dataclass above it, or derive "
            "it from pydantic's BaseModel"
        )


def decoder_of(type_: type[Read]) -> Decodes[Read]:
    """What reads values of a type from JSON, made once. A type that is `__closed__` refuses unknown fields."""
    found: Decodes[Read] = _decoder_of(type_)
    return found


def taker_of(type_: type[Read]) -> Decodes[Read]:
    """As `decoder_of`, for what comes in: its personal values are as they are, and have to be concealed."""
    found: Decodes[Read] = _decoder_of(type_, take_inside)
    return found


@cached
def _decoder_of(type_: type, inside: Callable[[type, object], object] | None = None) -> Decodes[Any]:
    is_closed = getattr(type_, "__closed__", False)
    if is_model(type_):
        return _ModelDecoder(type_, is_closed=is_closed)
    decoder: Decodes[Any] = msgspec.json.Decoder(type_, dec_hook=inside or _read_inside)
    if is_closed and dataclasses.is_dataclass(type_):
        return _ClosedDecoder(decoder, names_of_fields(type_))
    return decoder


def encoder_of(order: Order = None) -> msgspec.json.Encoder:
    """What writes values of any type as JSON. `order`: as msgspec's, so that equal values are equal bytes."""
    return msgspec.json.Encoder(order=order, enc_hook=write_inside if order is None else _written_in_order)


@cached
def readers_of(message: type[Read], service: str) -> Mapping[str, Decodes[Read]]:
    """What reads a command or an event of a service, by type: every version of it, under every name.

    This is the one place where the bytes of an older version become what the class is now. Raises DeclarationError
    where the version after one is not known.
    """
    declared, newest = typing.cast("Any", message), decoder_of(message)
    if fault := gap_of(message.__name__, declared.__version__, declared.__upgrades__):
        raise DeclarationError(f"{class_at(message)}: {fault}")
    return {
        type_: newest
        if (version := version_of(type_)) == declared.__version__
        else _UpgradingDecoder(
            newest, [(each, declared.__upgrades__[each]) for each in range(version, declared.__version__)]
        )
        for type_ in declared.types_in(service)
    }


class _UpgradingDecoder:
    """Reads an older version of a message: each function makes the next one, and the last of them is read as it is."""

    def __init__(self, newest: Decodes[Any], upgrades: Sequence[tuple[int, Callable[[Any], Any]]]) -> None:
        self._newest = newest
        self._steps = [(version, upgrade, old_form_of(upgrade)) for version, upgrade in upgrades]

    def decode(self, data: bytes, /) -> Any:
        for version, upgrade, old in self._steps:
            before: Any = decoder_of(old).decode(data)
            try:
                data = encode(upgrade(before))
            except Exception as error:
                place = f"version {version} can't be upgraded ({line_of(upgrade)})"
                raise msgspec.ValidationError(f"{place}: {type(error).__name__}: {error}") from error
        return self._newest.decode(data)


def old_form_of(upgrade: Callable[[Any], Any]) -> type:
    """The type that an upgrade is given: that of its parameter, where it is a struct, a dataclass or a model."""
    try:
        hints = typing.get_type_hints(upgrade)
    except NameError:
        hints = {}
    told: Any = next((hint for name, hint in hints.items() if name != "return"), None)
    return told if is_declared(told) else dict


class Mismatch(msgspec.ValidationError):
    """What a model's own validation has found wrong, as msgspec would say it; of several fields, `faults` has each."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        found = [FieldError(_path(each["loc"]), each["msg"]) for each in errors]
        super().__init__(f"{found[0].detail} - at `{found[0].field}`")
        self.faults = found if len(found) > 1 else []


class _ModelDecoder:
    """Reads a model from JSON by its own validation."""

    def __init__(self, model: type, *, is_closed: bool) -> None:
        from pydantic import VERSION, TypeAdapter, ValidationError

        self._adapter: TypeAdapter[Any] = TypeAdapter(model)
        self._error = ValidationError
        self._extra: Described = {"extra": "forbid"} if is_closed and "extra" not in _config(model) else {}
        if tuple(map(int, VERSION.split(".")[:2])) < (2, 12):
            raise DeclarationError(
                f"{model.__name__} needs pydantic 2.12 or newer, this is {VERSION}: pip install 'chimera-kit[pydantic]'"
            )

    def decode(self, data: bytes, /) -> Any:
        try:
            return self._adapter.validate_json(data, **self._extra)
        except self._error as error:
            raise Mismatch(error.errors(include_url=False, include_context=False, include_input=False)) from error


class _ClosedDecoder:
    """Reads a dataclass from JSON, and refuses unknown fields as a struct can."""

    def __init__(self, decoder: Decodes[Any], names: Sequence[str]) -> None:
        self._decoder = decoder
        self._names = frozenset(names)

    def decode(self, data: bytes, /) -> Any:
        found = self._decoder.decode(data)
        if unknown := _NAMES.decode(data).keys() - self._names:
            raise msgspec.ValidationError(f"Object contains unknown field `{min(unknown)[:64]}`")
        return found


_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _read_inside(type_: type, value: object) -> object:
    """A model, or a personal value, within what msgspec reads."""
    if is_personal(type_):
        return read_personal(type_, value)
    if not is_model(type_):
        return value
    try:
        return decoder_of(type_).decode(msgspec.json.encode(value))
    except Mismatch as error:
        raise ValueError(str(error).replace(" - at `$", ", at `")) from error


def take_inside(type_: type, value: object) -> object:
    """As for `_read_inside`, of what comes in."""
    return take_personal(type_, value) if is_personal(type_) else _read_inside(type_, value)


def write_inside(value: Any) -> object:
    """A model, or a personal value, as JSON, within what msgspec writes."""
    if isinstance(value, Personal):
        return value.text
    if not is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return msgspec.Raw(value.__pydantic_serializer__.to_json(value, by_alias=True, warnings="none"))


def _written_in_order(value: Any) -> object:
    return msgspec.json.decode(msgspec.json.encode(write_inside(value)))


encode = encoder_of().encode
"""A value as JSON, models included."""


def model_schema(type_: type) -> Described:
    """The JSON Schema of a model, or whatever else pydantic reads; whole, without references. Empty where it has none.

    It is what msgspec takes as a `schema_hook`. Raises NotImplementedError for a type that pydantic does not know.
    """
    try:
        from pydantic import PydanticUserError, TypeAdapter
    except ImportError as error:
        raise NotImplementedError(type_) from error
    try:
        schema = TypeAdapter(type_).json_schema()
    except PydanticUserError as error:
        raise NotImplementedError(type_) from error
    found: Described = _whole(schema, schema.get("$defs", {}), ())
    return found


def contract_of_model(model: type) -> Described:
    """All that is sure of a model's JSON, whatever its validators make of it; `model` is its schema, to be compared."""
    names = {each.name: each.encode_name for each in fields_of(model)}
    known: Described = {"type": "object", "title": model.__name__, "model": model_schema(model)}
    if any(name != alias for name, alias in names.items()) or _config(model).get("extra") not in (None, "forbid"):
        return known
    required = [each.name for each in fields_of(model) if each.required]
    is_closed = getattr(model, "__closed__", False) or _config(model).get("extra") == "forbid"
    return {
        **known,
        "required": required,
        "properties": {name: {} for name in names},
        "additionalProperties": not is_closed,
    }


def _whole(part: Any, defined: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """A schema with what it refers to in the place of each reference; of what holds itself, only that it is there."""
    if isinstance(part, list):
        return [_whole(each, defined, within) for each in part]
    if not isinstance(part, dict):
        return part
    if isinstance(reference := part.get("$ref"), str):
        name = reference.rpartition("/")[2]
        inner = {} if name in within else _whole(defined.get(name, {}), defined, (*within, name))
        return {**inner, **{key: value for key, value in part.items() if key != "$ref"}}
    return {key: _whole(each, defined, within) for key, each in part.items() if key not in ("$defs", "discriminator")}


def _fields_of_model(model: Any, hints: Mapping[str, Any]) -> list[FieldInfo]:
    declared: Mapping[str, Any] = getattr(model, "__pydantic_fields__", {})
    return [
        FieldInfo(
            name,
            field.validation_alias if isinstance(field.validation_alias, str) else field.alias or name,
            hints[name],
            msgspec.NODEFAULT if field.is_required() or field.default_factory else field.default,
            field.default_factory or msgspec.NODEFAULT,
        )
        for name, field in declared.items()
    ]


def _config(model: Any) -> Mapping[str, Any]:
    return getattr(model, "model_config", None) or getattr(model, "__pydantic_config__", None) or {}


def _or_none(default: Any) -> Any:
    """What a dataclass calls missing, as msgspec calls it."""
    return msgspec.NODEFAULT if default is dataclasses.MISSING else default


def _path(place: Sequence[str | int]) -> str:
    """A place in JSON as msgspec writes it, such as `$.lines[0].sku`."""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


class Form:
    """The JSON of a type of structs: only what can be read again, as the same, is written.

    msgspec does not look at values when a struct is made, and writes a float that is no number as `null`.
    `may_lose_numbers`: there are floats in it, or values of any type.
    """

    def __init__(self, type_: Any, order: Order = None) -> None:
        self._name = type_.__name__
        self._encode = encoder_of(order).encode
        self._decode: Callable[[bytes], Any] = decoder_of(type_).decode
        types = list(types_in(msgspec.inspect.type_info(type_), set()))
        self._is_loose = any(map(_is_loose, types))
        self.may_lose_numbers = any(map(_may_hold_numbers, types))

    def encode(self, value: Any) -> bytes:
        """The value as JSON. Raises Unfit, naming the field, where that is not what the type declares."""
        try:
            data = self._encode(value)
            self._decode(data)
        except _NO_JSON as error:
            raise self._unfit(value, error) from error
        if self._is_loose:
            refuse_no_number(value, self._name)
        return data

    def _unfit(self, value: Any, error: Exception) -> Unfit:
        try:
            refuse_no_number(value, self._name)
        except Unfit as unfit:
            return unfit
        text, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`") or next(self._fields_at_fault(value), "")
        return Unfit(f"{self._name}{field} is of type {type(_value_at(value, field)).__name__}: {text}")

    def _fields_at_fault(self, value: Any) -> Iterator[str]:
        """The fields that no JSON can be made of."""
        for name, part in _parts_of(value) if is_declared(type(value)) else ():
            try:
                self._encode(part)
            except _NO_JSON:
                yield name


_NO_JSON = (ValueError, TypeError, OverflowError, RecursionError)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


@cached
def form_of(type_: Any, order: Order = None) -> Form:
    """The form of a type, made once. `order`: as msgspec's, so that equal values are equal bytes."""
    return Form(type_, order)


def json_of(value: object, name: str) -> bytes:
    """Any value as JSON. Raises Unfit, calling it `name`, where none can be made of it."""
    refuse_no_number(value, name)
    try:
        return encode(value)
    except _NO_JSON as error:
        raise Unfit(f"{name}, of type {type(value).__name__}, is no JSON: {error}") from error


def refuse_no_number(value: object, name: str) -> None:
    """Raises Unfit, with the path that begins with `name`, for a float that is infinite or no number at all."""
    try:
        found = _no_number(value, "")
    except RecursionError as error:
        raise Unfit(f"{name} is nested too deeply") from error
    if found:
        raise Unfit(f"{name}{found[0]} is {found[1]}, a float that JSON can't hold")


def _no_number(value: object, path: str) -> tuple[str, float] | None:
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, value)
    for name, part in _parts_of(value):
        if found := _no_number(part, path + name):
            return found
    return None


def _parts_of(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, msgspec.Struct):
        return ((f".{name}", getattr(value, name)) for name in value.__struct_fields__)
    if is_declared(type(value)):
        return ((f".{each.encode_name}", getattr(value, each.name, None)) for each in fields_of(type(value)))
    if isinstance(value, dict):
        return ((f"[{key!r}]", part) for key, part in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ((f"[{index}]", part) for index, part in enumerate(value))
    return ()


def _value_at(value: Any, path: str) -> object:
    """The value at a path as msgspec writes them, as far as it can be followed."""
    for field, index in _STEP.findall(path):
        if field and isinstance(value, msgspec.Struct) and field in value.__struct_encode_fields__:
            value = getattr(value, value.__struct_fields__[value.__struct_encode_fields__.index(field)])
        elif field and not isinstance(value, msgspec.Struct) and is_declared(type(value)):
            value = dict(_parts_of(value)).get(f".{field}")
        elif index and isinstance(value, list | tuple):
            value = value[int(index)]
        else:
            break
    return value


def _is_loose(info: object) -> bool:
    """True for a type that reads `null` where a float that is no number was written."""
    if isinstance(info, msgspec.inspect.UnionType) and info.includes_none:
        return any(isinstance(each, msgspec.inspect.FloatType) for each in info.types)
    return isinstance(info, msgspec.inspect.AnyType) or _is_of_model(info)


def _may_hold_numbers(info: object) -> bool:
    return isinstance(info, msgspec.inspect.FloatType | msgspec.inspect.AnyType) or _is_of_model(info)


def _is_of_model(info: object) -> bool:
    """True for a model that may hold a float."""
    return (
        isinstance(info, msgspec.inspect.CustomType) and is_model(info.cls) and _holds_numbers(model_schema(info.cls))
    )


def _holds_numbers(schema: object) -> bool:
    """True for a schema of what may be or hold a float, as far as it tells."""
    if not isinstance(schema, dict):
        return schema is True
    if schema.get("type") == "number" or not schema.keys() & _TELLING:
        return True
    inner = [schema[name] for name in ("items", "additionalProperties") if name in schema]
    inner += schema.get("properties", {}).values()
    inner += [each for name in ("prefixItems", "anyOf", "oneOf", "allOf") for each in schema.get(name, ())]
    return any(map(_holds_numbers, inner))


_TELLING = {"type", "anyOf", "oneOf", "allOf", "enum", "const"}
