"""The workload of a rig: all it needs to know of the services that it strikes; `Tallying` is the one that it ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import msgspec

from chimera.core.context import Context
from chimera.entities import Entity
from chimera.testing.kit.balance import every_row, journal_of
from chimera_faults.tally.messages import Added, Noted
from chimera_faults.tally.owner import Account, Note


class Delivery(NamedTuple):
    """A command to send: `label` is its name in the ledger, and comes back in `Place`; it belongs to one key.

    The commands of a key are sent one after the other. `direct` ones are handled inside the request.
    """

    label: str
    key: str
    path: str
    body: Mapping[str, Any]
    direct: bool = False


class Place(NamedTuple):
    """A place where effects show: by key, the labels of the commands whose effect is there, in order.

    A label may be missing while a message with it is set aside by one of `consumers`, as `service/consumer`.
    """

    name: str
    consumers: Sequence[str]
    labels: Mapping[str, Sequence[str]]


class Workload(Protocol):
    """Services, commands for them, and where the effects of commands show."""

    config: Path
    """The services' chimera.toml."""

    def request(self, random: Random, key: str, number: int, poison: str = "") -> Delivery:
        """The command of this number for a key, with `poison` one that fails as it says.

        Equal arguments and an equal state of `random` give the same command.
        """

    def label(self, data: bytes) -> str:
        """The label of the command that a message with this data stems from; empty when it can't be told."""

    async def places(self, contexts: Mapping[str, Context]) -> list[Place]:
        """Every place where each effect shows once. `contexts` are the services by name, with plain engines."""


class Tallying:
    """The rig's own two services: of the accounts that it adds to, those with an odd number take direct commands."""

    config = Path(__file__).parent / "tally" / "chimera.toml"

    def request(self, random: Random, key: str, number: int, poison: str = "") -> Delivery:
        direct = key[-1] in "13579"
        amount = -1 if not poison and random.random() < 0.1 else random.randint(1, 9)
        label = f"{key}#{number}"
        body = {"account_id": key, "label": label, "amount": amount, "poison": poison}
        return Delivery(label, key, "/additions/now" if direct else "/additions", body, direct)

    def label(self, data: bytes) -> str:
        try:
            return msgspec.json.decode(data, type=_Labelled).label
        except msgspec.DecodeError:
            return ""

    async def places(self, contexts: Mapping[str, Context]) -> list[Place]:
        tally, board = contexts["tally"], contexts["board"]
        handled, reacted = ("tally/commands",), ("tally/commands", "tally/note:tally")
        added, noted = await self._emitted(tally)
        return [
            Place("the accounts", handled, await _rows(tally, Account)),
            Place("the journal", handled, added),
            Place("the notes", reacted, await _rows(tally, Note)),
            Place("the notes' journal", reacted, noted),
            Place("view tallies", (*handled, "tally/tally"), await _documents(tally, "tally")),
            Place("view told", (*handled, "tally/told"), await _documents(tally, "told")),
            Place("view noticed", (*reacted, "tally/noticed"), await _documents(tally, "noticed")),
            Place("view seen", (*handled, "board/seen"), await _documents(board, "seen")),
        ]

    async def _emitted(self, tally: Context) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {Added.wire_type(): {}, Noted.wire_type(): {}}
        for message in await journal_of(tally):
            if message.type in found:
                found[message.type].setdefault(message.key, []).append(self.label(message.data))
        return found[Added.wire_type()], found[Noted.wire_type()]


class _Labelled(msgspec.Struct):
    label: str = ""


class _Labels(msgspec.Struct):
    account_id: str
    labels: list[str]


async def _rows(context: Context, entity: type[Entity]) -> dict[str, list[str]]:
    return {row.account_id: row.labels for row in await every_row(context, entity)}


async def _documents(context: Context, view: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    after = ""
    while page := await context.views.scan(view, after):
        for document in page:
            kept = msgspec.json.decode(document.data or b"", type=_Labels)
            found[kept.account_id] = kept.labels
        after = page[-1].key
    return found
