"""One query for the rows that the handlers of a batch are about to load one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chimera.entities import Table
from chimera.messages import Message
from chimera.transaction import Unit


class Prefetch:
    """The tables that handlers load from by their messages' keys, so that the next batch's rows are loaded at once.

    A handler whose message has the key "o1" and that loads the order "o1" will load "o2" for "o2": so the tables are
    remembered by type of message. What is loaded in vain costs a part of a query; what is missing is loaded when it is
    asked for, as ever.
    """

    def __init__(self) -> None:
        self._tables: dict[str, dict[Table, None]] = {}

    async def load(self, unit: Unit, messages: Iterable[Message]) -> None:
        """Have the rows in the unit that these messages' handlers will load, as far as can be told."""
        wanted: dict[Table, dict[tuple[str], None]] = {}
        for message in messages:
            for table in self._tables.get(message.type, ()):
                wanted.setdefault(table, {})[(message.key,)] = None
        for table, keys in wanted.items():
            await unit.fetch(table, list(keys))

    def learn(self, unit: Unit, messages: Sequence[Message]) -> None:
        """Remember what was loaded one by one while these messages were handled."""
        if not unit.loaded_singly:
            return
        types = {(message.key,): message.type for message in messages}
        for table, key in unit.loaded_singly:
            if key in types:
                self._tables.setdefault(types[key], {})[table] = None
        unit.loaded_singly.clear()
