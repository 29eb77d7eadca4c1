"""Seals: what only the services of a fleet can write among the events of a journal and the commands of a topic.

Without keys the chain of a journal tells one history from another, and whoever writes to a log can go on with it. With
the fleet's keys each event's chain is keyed: BLAKE2b as a message authentication code (RFC 7693), 16 bytes, under a key
that is derived for the service, with the id of that key before it: `9f2c41.` and 32 hex digits. It covers the chain
before, type, key, time, metadata and data. Commands carry such a seal over their attributes instead. The first key
seals, all of them are known; what is sealed by another one, or not at all, is nobody's word.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from chimera.messages import Message, chain_of, follows

SIZE = 16
"""Bytes of a seal."""
ID_LENGTH = 6
"""Characters of a key's id."""


class Seal:
    """The seal of one service's events and commands. Without keys, chains are digests, and commands have none."""

    def __init__(self, service: str, keys: Sequence[str] = (), *, takes_unsealed: bool = False) -> None:
        made = {_id_of(key): blake2b(key=_derived(key, service), digest_size=SIZE) for key in keys}
        self._states = made
        self._first = next(iter(made), "")
        self._takes_unsealed = takes_unsealed

    @property
    def is_keyed(self) -> bool:
        """True where the fleet has keys."""
        return bool(self._first)

    def after(self, before: str, type_: str, key: str, time: str, data: bytes, metadata: str = "") -> str:
        """The chain after one more event."""
        if not self._first:
            return chain_of(before, type_, key, time, data)
        return self._event(self._first, before, type_, key, time, data, metadata)

    def follows(self, message: Message, before: str) -> bool:
        """True for an event that its owner has written after this chain, where that can be told from what it says."""
        id_, dot, _ = message.chain.partition(".")
        if not dot and not self._first:
            return follows(message, before)
        return id_ in self._states and message.chain == self._event(
            id_, before, message.type, message.key, message.time, message.data, message.metadata
        )

    def all_follow(self, messages: Sequence[Message]) -> bool:
        """False where one of these does not follow the one before it. Without keys, the last one stands for all."""
        if not self._first:
            return len(messages) < 2 or not messages[-2].chain or self.follows(messages[-1], messages[-2].chain)
        before, states = messages[0].chain if messages else "", self._states
        for message in messages[1:]:
            chain = message.chain
            if (state := states.get(chain[:ID_LENGTH])) is None:
                return False
            state = state.copy()
            state.update(_of_event(before, message.type, message.key, message.time, message.data, message.metadata))
            if chain[ID_LENGTH:] != f".{state.hexdigest()}":
                return False
            before = chain
        return True

    def may_follow(self, message: Message, before: str) -> bool:
        """False for an event of one's own journal that does not follow; one under a key that is gone may."""
        if "." in message.chain:
            return not self.knows(message) or self.follows(message, before)
        return follows(message, before)

    def knows(self, message: Message) -> bool:
        """True where it can tell whether an event follows: it is not under a key that is gone."""
        id_, dot, _ = message.chain.partition(".")
        return not dot or id_ in self._states

    def of_command(self, message: Message) -> str:
        """The seal of a command; empty without keys."""
        return self._command(self._first, message) if self._first else ""

    def is_on(self, message: Message) -> bool:
        """True for a command that a service of the fleet has taken in; without keys, for any."""
        if not message.chain and self._takes_unsealed:
            return True
        id_ = message.chain.partition(".")[0]
        return not self._first or (id_ in self._states and message.chain == self._command(id_, message))

    def _event(self, id_: str, before: str, type_: str, key: str, time: str, data: bytes, metadata: str) -> str:
        return self._keyed(id_, _of_event(before, type_, key, time, data, metadata))

    def _command(self, id_: str, message: Message) -> str:
        who = f"{message.id}\n{message.source}\n{message.type}\n{message.key}\n{message.time}\n{message.metadata}\n"
        return self._keyed(id_, f"command\n{who}".encode() + message.data)

    def _keyed(self, id_: str, covered: bytes) -> str:
        state = self._states[id_].copy()
        state.update(covered)
        return f"{id_}.{state.hexdigest()}"


class Seals:
    """The seals of all services of a fleet, made once each.

    `takes_unsealed`: commands without a seal are executed, as while a fleet is given its first keys.
    """

    def __init__(self, keys: Sequence[str] = (), *, takes_unsealed: bool = False) -> None:
        self._keys = tuple(keys)
        self._takes_unsealed = takes_unsealed
        self._made: dict[str, Seal] = {}

    def of(self, service: str) -> Seal:
        """The seal of a service, by its name."""
        if service not in self._made:
            self._made[service] = Seal(service, self._keys, takes_unsealed=self._takes_unsealed)
        return self._made[service]


def _of_event(before: str, type_: str, key: str, time: str, data: bytes, metadata: str) -> bytes:
    return f"{before}\n{type_}\n{key}\n{time}\n{metadata}\n".encode() + data


def _id_of(key: str) -> str:
    return blake2b(key.encode(), digest_size=ID_LENGTH // 2, person=b"chimera key id").hexdigest()


def _derived(key: str, service: str) -> bytes:
    """A key for one service: what is known of it tells nothing of the fleet's key, or of another service's."""
    return blake2b(f"{key}\n{service}".encode(), digest_size=32, person=b"chimera seal").digest()
