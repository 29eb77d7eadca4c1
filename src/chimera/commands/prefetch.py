"""One query for the rows that the handlers of a batch are about to load one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, cast

import msgspec

from chimera.entities import RESERVED, Key, Reserved, Sought, Table
from chimera.messages import Message
from chimera.transaction import Unit
from chimera.unique import UniqueRule, digest_under

Fields = Mapping[str, object]


class _Seen(NamedTuple):
    """Which fields of a message had the values that its handler looked for among what is reserved."""

    table: Table
    what: UniqueRule | str
    fields: tuple[str, ...]

    def digest(self, message: Fields) -> str:
        """The digest of what the handler of another message will look for; raises whatever it likes where it won't."""
        values = [message[field] for field in self.fields]
        if isinstance(self.what, UniqueRule):
            return self.what.digest(values)
        return digest_under(self.what, cast("tuple[str | int, ...]", tuple(values)))


class Prefetch:
    """The tables that handlers load from by their messages' keys, so that the next batch's rows are loaded at once.

    A handler whose message has the key "o1" and that loads the order "o1" will load "o2" for "o2": so the tables are
    remembered by type of message. What is loaded in vain costs a part of a query; what is missing is loaded when it is
    asked for, as ever. So it is with what is reserved: by the fields of the message that had the values. In one query,
    and so in one order for everybody: whoever locks one by one in an order of his own may lock himself out.
    """

    def __init__(self) -> None:
        self._tables: dict[str, dict[Table, None]] = {}
        self._seen: dict[str, dict[_Seen, None]] = {}

    async def load(self, unit: Unit, messages: Iterable[Message]) -> None:
        """Have the rows in the unit that these messages' handlers will load, as far as can be told."""
        wanted: dict[Table, dict[tuple[str], None]] = {}
        reserved: dict[str, Table] = {}
        for message in messages:
            for table in self._tables.get(message.type, ()):
                wanted.setdefault(table, {})[(message.key,)] = None
            if self._seen and (seen := self._seen.get(message.type)):
                reserved.update(_digests(seen, message))
        for table, keys in wanted.items():
            await unit.fetch(table, list(keys))
        if reserved:
            await _load_reserved(unit, reserved)

    def learn(self, unit: Unit, messages: Sequence[Message]) -> None:
        """Remember what was loaded one by one while these messages were handled."""
        if unit.sought:
            if len(messages) == 1:
                self._learn_reserved(unit.sought, messages[0])
            unit.sought.clear()
        if not unit.loaded_singly:
            return
        types = {(message.key,): message.type for message in messages}
        for table, key in unit.loaded_singly:
            if key in types:
                self._tables.setdefault(types[key], {})[table] = None
        unit.loaded_singly.clear()

    def _learn_reserved(self, sought: Iterable[Sought], message: Message) -> None:
        fields = _fields_of(message)
        for table, what, values in sought:
            names = what.fields if isinstance(what, UniqueRule) else (what, *[""] * (len(values) - 1))
            found = [_field_with(fields, value, name) for value, name in zip(values, names, strict=True)]
            if "" not in found:
                self._seen.setdefault(message.type, {})[_Seen(table, what, tuple(found))] = None


def _digests(seen: Iterable[_Seen], message: Message) -> dict[str, Table]:
    """What a message's handler will look for, as it seems, with the table whose rows hold it."""
    fields, found = _fields_of(message), {}
    for each in seen:
        with suppress(Exception):  # whatever an author's normalise= raises is raised again when it is asked for
            found[each.digest(fields)] = each.table
    found.pop("", None)
    return found


def _fields_of(message: Message) -> Fields:
    with suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        fields = msgspec.json.decode(message.data)
        return fields if isinstance(fields, dict) else {}
    return {}


def _field_with(fields: Fields, value: object, like: str) -> str:
    """The field of a message with this text or number, of several the one of that name; empty without one."""
    if not isinstance(value, str | int):
        return ""
    names = [name for name, each in fields.items() if each == value and type(each) is type(value)]
    return like if like in names else (names or [""])[0]


async def _load_reserved(unit: Unit, reserved: Mapping[str, Table]) -> None:
    """What is reserved by these digests, and the rows that hold it: a handler that is refused has looked at them."""
    await unit.fetch(RESERVED, [(digest,) for digest in sorted(reserved)])
    holders: dict[Table, dict[Key, None]] = {}
    for digest, table in reserved.items():
        row = unit.rows[RESERVED, (digest,)]
        if row is not None and table is not RESERVED:
            held: Reserved = RESERVED.from_row(row)
            holders.setdefault(table, {})[table.key_in(held.holder)] = None
    for table, keys in holders.items():
        await unit.fetch(table, sorted(keys))
