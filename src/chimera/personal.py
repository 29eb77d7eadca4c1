"""Personal values: what is kept and sent of them is readable only with the key of the person they are about.

A value comes in as it is, is *concealed* before anything is kept or sent of it, and is *revealed* on purpose only: by a
handler, a query, or an answer. In between it is a text that tells whose it is and which service has the key.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from typing import Any, Final, Generic, NamedTuple, TypeVar, final

import msgspec

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
Held = list[Any]
"""What personal values hold, each as it is or Forgotten."""
MARK: Final = "~p1"
"""How every concealed value begins; alone it is one that is gone."""
SECRETS: Final = "~secrets"
"""The subject, which nobody is, of the key of what is secret."""
BLINDING: Final = "~blind"
"""The subject, which nobody is, of the key by which values are looked for."""
_CONCEALED = re.compile(r"~p1\.([a-z0-9_-]+)\.([0-9a-f]{8})\.([A-Za-z0-9_-]+)\.(.+)", re.DOTALL)
_QUOTED = re.compile(r"'.*'", re.DOTALL)


@final
class Forgotten:
    """What is left of a personal value whose person was forgotten. It is false: `if not (email := …): return`."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Forgotten)

    def __hash__(self) -> int:
        return hash(Forgotten)

    def __repr__(self) -> str:
        return "Forgotten()"


class Subject:
    """The field that tells whom a personal value is about: `Annotated[Personal[str], Subject("seller_id")]`.

    It is looked for where the value is, then around it. Unless given, it is the key of the command.
    """

    def __init__(self, field: str) -> None:
        self.field = field


class Concealed(NamedTuple):
    """The parts of a concealed value: which service has the key, which key of the subject it is, and what is sealed."""

    service: str
    key: str
    sealed: str
    subject: str


class Personal(Generic[Value_co]):
    """A value about a person: `email: Personal[str]`, in commands, events, entities, documents and shares.

    What it holds is told by `await tx.reveal(…)` or `await reader.reveal(…)`, as the value or `Forgotten`; it is never
    shown otherwise, whatever is printed or raised. Two are equal where they are the same text, not the same value.
    """

    __slots__ = ("_given", "_shown", "_text", "_type")

    def __init__(self, text: str, type_: Any = str, *, given: object = None) -> None:
        self._text = text
        self._type = type_
        self._given = given
        self._shown: Any = None

    @property
    def text(self) -> str:
        """What is kept and sent of it. Raises TypeError for one that was not concealed yet."""
        if not self._text:
            raise TypeError("it is to be kept, and nobody has concealed it: type await tx.conceal(subject, …)")
        return self._text

    @property
    def is_concealed(self) -> bool:
        """False for one that has just come in."""
        return bool(self._text)

    @property
    def parts(self) -> Concealed | None:
        """Who has its key, and whom it is about; None where it is gone for good, or has just come in."""
        found = _CONCEALED.fullmatch(self._text)
        return Concealed(*found.groups()) if found else None

    @property
    def shown(self) -> Value_co | Forgotten:
        """What it holds, for a page's function, whose document is revealed. Raises TypeError elsewhere."""
        if self._shown is None:
            raise TypeError("a personal value is not revealed here; type await reader.reveal(…), or await tx.reveal(…)")
        return typing.cast("Value_co | Forgotten", self._shown[0])

    @property
    def told(self) -> Value_co | None:
        """As `shown`, as JSON has it: null for what is gone."""
        return None if isinstance(shown := self.shown, Forgotten) else shown

    def given(self) -> bytes:
        """The JSON of what came in."""
        return msgspec.json.encode(self._given)

    def conceal(self, text: str) -> None:
        """From now on it is this text."""
        self._text, self._given = text, None

    def read(self, data: bytes | None) -> Value_co | Forgotten:
        """What it holds, of its JSON; None where that is gone. Raises ValueError where it is of another type now."""
        if data is None:
            return Forgotten()
        try:
            return typing.cast("Value_co", msgspec.json.decode(data, type=self._type))
        except msgspec.MsgspecError:
            raise ValueError(
                "a personal value is not of the type that its field has; it is of another version"
            ) from None

    def show(self, value: object) -> None:
        """Let a page's function see it."""
        self._shown = (value,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Personal) and bool(self._text) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    def __reduce__(self) -> tuple[type, tuple[str, Any]]:
        return type(self), (self.text, self._type)


class Secret(Personal[Value_co]):
    """A value that is no person's, such as a token of another system: `api_key: Secret[str]`.

    It is concealed as a personal one is, by a key of the service that is never destroyed; no answer shows it.
    """

    __slots__ = ()

    @property
    def told(self) -> Value_co | None:
        """Nothing, whoever asks."""
        return None


class Revealing:
    """Tells what personal values hold, to whoever asks for it by name."""

    async def reveal(self, value: Personal[Value]) -> Value | Forgotten:
        """What it holds, or Forgotten. Raises Unavailable where the service that has its key does not answer now."""
        return typing.cast("Value | Forgotten", (await self._revealed([value]))[0])

    async def reveal_many(self, values: Sequence[Personal[Value]]) -> list[Value | Forgotten]:
        """As `reveal`, of each of them, in one question."""
        return await self._revealed(values)

    async def blind(self, name: str, value: str) -> str:
        """What stands for a personal value where it is looked for or reserved: 40 hex digits, of this service only.

        It is the same for the same text, under the same name; who has no key of the service can't tell of what it is.
        """
        return blake2b(f"{name}\n{value}".encode(), key=await self._blinding(), digest_size=20).hexdigest()

    async def _revealed(self, values: Sequence[Personal[Any]]) -> Held:
        raise NotImplementedError

    async def _blinding(self) -> bytes:
        raise NotImplementedError


def read_personal(type_: Any, value: object) -> Personal[Any]:
    """One that was kept or sent. Raises ValueError for what is no concealed value."""
    if value is None or value == MARK:
        return _made_as(type_)(MARK, _inner(type_))
    if not isinstance(value, str) or not _CONCEALED.fullmatch(value):
        raise ValueError("a personal value is expected, as Chimera conceals it")
    return _made_as(type_)(value, _inner(type_))


def take_personal(type_: Any, value: object) -> Personal[Any]:
    """One that has just come in, whatever it looks like. Raises ValueError, which does not show it."""
    try:
        given = msgspec.json.decode(msgspec.json.encode(value), type=_inner(type_))
    except msgspec.ValidationError as error:
        raise ValueError(_QUOTED.sub("…", str(error).partition(" - at ")[0])) from None
    return _made_as(type_)("", _inner(type_), given=given)


def is_personal(type_: object) -> bool:
    """True for the type of a personal value, with what it holds or without."""
    return (typing.get_origin(type_) or type_) in (Personal, Secret)


def _made_as(type_: Any) -> type[Personal[Any]]:
    return Secret if (typing.get_origin(type_) or type_) is Secret else Personal


def _inner(type_: Any) -> Any:
    return (*typing.get_args(type_), str)[0]


def plain_type(annotation: Any) -> Any:
    """A type as whoever sends it writes it: what personal values hold in their place."""
    if is_personal(annotation):
        return _inner(annotation)
    parts = typing.get_args(annotation)
    if not parts or not any(map(holds_annotated, parts)):
        return annotation
    if typing.get_origin(annotation) is typing.Annotated:
        return plain_type(parts[0])
    made = tuple(map(plain_type, parts))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _any_of(made)
    generic: Any = typing.get_origin(annotation)
    return generic[made]


def _any_of(made: tuple[Any, ...]) -> Any:
    return typing.Union[made]  # noqa: UP007 - of types that are known when it runs


def holds_annotated(annotation: Any) -> bool:
    """True for an annotation that names a personal value, itself or inside; structs are not looked into."""
    return is_personal(annotation) or any(map(holds_annotated, typing.get_args(annotation)))


def fault_of_column(annotation: Any, plain: object, *, is_key: bool) -> str:
    """What is wrong with an entity's field, so far as it is personal; empty where nothing is."""
    if not holds_annotated(annotation):
        return ""
    if is_key:
        return "is personal and can't be a key, which stays when a person is forgotten: make it a random id"
    if not is_personal(plain):
        return "holds personal values inside of something else; give each a column of its own: Personal[str]"
    return ""


def unfindable(where: str, field: str) -> str:
    """What to say to who wants to find, filter or order by a personal field."""
    return f"{where} can't be looked through by {field}, which is personal: every value of it is concealed apart"


def holds_personal(type_: Any) -> bool:
    """True for a type with personal values in it, however deep."""
    return _holds(type_)


@cache
def _holds(type_: Any) -> bool:
    try:
        found = types_in(msgspec.inspect.type_info(type_), set())
        return any(isinstance(each, msgspec.inspect.CustomType) and is_personal(each.cls) for each in found)
    except (TypeError, NameError, AttributeError, ValueError, NotImplementedError):
        return False


def types_in(info: object, seen: set[object]) -> Iterator[object]:
    """A type as msgspec describes it, and all that are in it."""
    yield info
    if isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType):
        if info.cls in seen:
            return
        seen.add(info.cls)
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        info = tuple(getattr(info, name) for name in info.__struct_fields__)
    if isinstance(info, tuple):
        for part in info:
            yield from types_in(part, seen)
