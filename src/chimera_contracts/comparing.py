"""Contracts compared: what a change would break, whom, and what to do; and who has to be deployed first.

Few rules, each for its reason:

- whoever reads an event or a borrowed document reads whatever is written now and was ever written: it may be stored;
- a field that somebody reads does not go, whatever default its reader has;
- the key and the number of partitions say what comes in order, and stay;
- clients send what they sent, and find what they found: nobody knows what they read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from chimera_contracts.baseline import same
from chimera_contracts.deriving import readers_of
from chimera_contracts.misfits import Unfitting, misfits
from chimera_contracts.model import (
    Break,
    Contracts,
    EventPromise,
    EventUse,
    First,
    FoundBreaks,
    Promised,
    SharePromise,
    ShareUse,
)
from chimera_contracts.schemas import Schema
from chimera_contracts.serving import broken_for_clients


class _Read(NamedTuple):
    """One who reads: its service, what of it, and what is read; and in which versions."""

    service: str
    reader: str
    schema: Schema
    fields: Sequence[str] | None
    is_own: bool
    version: int = 1
    upgrades: Sequence[int] = ()


def compare(before: Contracts | None, now: Contracts, whole: Contracts) -> FoundBreaks:
    """Compare what is promised and read now with what was; `whole` is now, carried on from before."""
    breaks: list[Break] = []
    before = before if before is not None else whole
    for owner in sorted({*before, *now}):
        if owner not in now:
            breaks.append(_no_service(owner))
            continue
        old, new = before.get(owner, whole[owner]).promises, now[owner].promises
        breaks += _partitions(owner, old, new, now)
        for name, event in sorted(new.events.items()):
            breaks += _event(owner, same(old.events, event.names), event, whole[owner].promises.events[name], now)
        for name, share in sorted(new.shares.items()):
            breaks += _share(owner, same(old.shares, share.names), share, whole[owner].promises.shares[name], now)
        breaks += _gone_events(owner, old, new, now)
        breaks += broken_for_clients(owner, old, new)
    breaks += _of_nobody(now)
    return FoundBreaks(_grouped(breaks), list(dict.fromkeys(_order(before, now))))


def _no_service(owner: str) -> Break:
    return Break(
        owner, "", "", "has a contract, and no service in the settings is called so", f"add [services.{owner}]", True
    )


def _partitions(owner: str, old: Promised, new: Promised, now: Contracts) -> Iterator[Break]:
    if old.partitions == new.partitions:
        return
    types = [f"{owner}.{name}" for event in new.events.values() for name in event.names]
    consumers = sorted({service for service, _, _ in readers_of(now, types)}) or [owner]
    for consumer in consumers:
        says = f"were {old.partitions} and are {new.partitions}: keys come to others, and lose their order"
        yield Break(f"{owner}.partitions", consumer, "", says, f"type partitions={old.partitions}", True)


def _event(owner: str, old: EventPromise | None, new: EventPromise, whole: EventPromise, now: Contracts) -> list[Break]:
    place = f"{owner}.{new.names[0]}"
    uses = readers_of(now, [f"{owner}.{name}" for name in new.names])
    breaks = []
    if old and old.key != new.key:
        says = f"had the key {old.key} and has {new.key}: what is stored is in order by the other one"
        todo = f'type key="{old.key}", or emit a second event'
        breaks += [Break(place, consumer, "", says, todo) for consumer in sorted({use[0] for use in uses}) or [owner]]
    if old and old.names[0] != new.names[0]:
        says = f"is sent by this name, and was as {old.names[0]}, which is the one that what runs knows"
        todo = f'type renamed_from="{old.names[0]}"'
        breaks += [Break(place, consumer, "", says, todo) for consumer in sorted({use[0] for use in uses}) or [owner]]
    for service, reader, use in uses:
        read = _reading(service, reader, use, new)
        if use.own is not None and use.names and new.names[0] not in use.names:
            says = f"is sent by this name, and is read as {', '.join(use.names)}"
            breaks.append(Break(place, service, reader, says, f'type name="{new.names[0]}" at its own class'))
        for field in use.strange:
            says, todo = "is read, and it has no such field", "read another one, or declare it again"
            breaks.append(Break(f"{place}.{field}", service, reader, says, todo))
        breaks += _unread(place, owner, read, new.stored, whole.stored, new.version)
        breaks += _gone_fields(place, owner, read, old.schema if old else new.schema, new.schema)
    return breaks


def _reading(service: str, reader: str, use: EventUse, owners: EventPromise) -> _Read:
    fields = None if use.fields == "all" else [*use.fields, *use.perhaps]
    own = use.own is not None
    schema = use.own if use.own is not None else owners.schema
    version, upgrades = (use.version, use.upgrades) if own else (owners.version, owners.upgrades)
    return _Read(service, reader, schema, fields, own, version, upgrades)


def _unread(
    place: str, owner: str, read: _Read, now: dict[str, Schema], ever: dict[str, Schema], version: int
) -> Iterator[Break]:
    """What a reader can't read of what is written, and was."""
    for each in sorted(map(int, ever)):
        if each < read.version:
            missing = [number for number in range(each, read.version) if number not in read.upgrades]
            if missing:
                says = f"has events of version {each}, and there is no upgrade from {missing[0]}"
                todo = f"write one: @{place.rpartition('.')[2]}.upgrade({missing[0]})"
                yield Break(place, read.service, read.reader, says, todo)
        elif each > read.version:
            says = f"is of version {each}, and is read up to {read.version}"
            yield Break(place, read.service, read.reader, says, f"type version={each} there, and deploy it first")
        else:
            yield from _unread_schema(place, owner, read, now.get(str(each)), ever[str(each)])


def _unread_schema(place: str, owner: str, read: _Read, now: Schema | None, ever: Schema) -> Iterator[Break]:
    found = misfits(now, read.schema) if now is not None else []
    for each in found:
        yield Break(_at(place, each), read.service, read.reader, each.says, _mend(owner, read, each), False)
    known = {each.path for each in found}
    for each in misfits(ever, read.schema):
        if each.path not in known:
            says = f"{each.says} in what was written before"
            yield Break(_at(place, each), read.service, read.reader, says, _mend_stored(each))


def _at(place: str, unfitting: Unfitting) -> str:
    return f"{place}.{unfitting.path}" if unfitting.path else place


def _mend(owner: str, read: _Read, each: Unfitting) -> str:
    """What to do about what is written now."""
    first = f", and deploy {read.service} before {owner}" if read.service != owner else ""
    return {
        "missing": f"declare it again in {owner}, or give it a default in {read.service}{first}",
        "lacking": f"give it a default in {read.service}{first}",
        "type": f"let {read.service} read both{first}; or keep its type, or emit a second event",
        "value": f"let {read.service} know it{first}",
        "limit": f"loosen the limit in {read.service}{first}, or give {owner} the same",
        "unknown": f"let {read.service} know it{first}",
    }[each.kind]


def _mend_stored(each: Unfitting) -> str:
    """What to do about what is stored."""
    return {
        "missing": f"give it a default, as in {each.path}: … = …, or make it another version and write an upgrade",
        "lacking": f"give it a default, as in {each.path}: … = …, or make it another version and write an upgrade",
        "type": "read both, as in A | B, or make it another version and write an upgrade",
        "value": "keep the value, or make it another version and write an upgrade",
        "limit": "loosen the limit, or make it another version and write an upgrade",
        "unknown": "keep the field, or ignore unknown ones",
    }[each.kind]


def _gone_fields(place: str, owner: str, read: _Read, old: Schema, new: Schema) -> Iterator[Break]:
    """The fields that are gone and were read, where the reader's class would not miss them."""
    for field in sorted(old.get("properties", {}).keys() - new.get("properties", {}).keys()):
        if read.is_own and field in read.schema.get("required", ()):
            continue  # its own class misses it, which is said already
        if read.fields is None:
            says = "is gone, and its reader may read all fields, as far as its code tells"
            yield Break(f"{place}.{field}", read.service, read.reader, says, f"declare it again in {owner}", True)
        elif field in read.fields:
            says = f"is gone, and is read{'; its reader would find its default from now on' if read.is_own else ''}"
            todo = f"declare it again in {owner}, or read it no more in {read.service}"
            yield Break(f"{place}.{field}", read.service, read.reader, says, todo, True)


def _share(owner: str, old: SharePromise | None, new: SharePromise, whole: SharePromise, now: Contracts) -> list[Break]:
    place, breaks = f"{owner}/{new.names[0]}", []
    for service, use in _borrowers(now, [f"{owner}/{name}" for name in new.names]):
        own = use.own is not None
        schema = use.own if use.own is not None else new.schema
        read = _Read(service, "borrow", schema, None if use.fields == "all" else use.fields, own)
        if old and old.keys != new.keys:
            breaks.append(Break(place, service, "borrow", "has keys of another type", "keep their type"))
        breaks += _unread_schema(place, owner, read, new.stored, whole.stored)
        breaks += _gone_fields(place, owner, read, old.schema if old else new.schema, new.schema)
    return breaks


def _borrowers(contracts: Contracts, places: Sequence[str]) -> list[tuple[str, ShareUse]]:
    return [
        (service, use)
        for service, contract in sorted(contracts.items())
        for place, use in sorted(contract.uses.shares.items())
        if place in places
    ]


def _gone_events(owner: str, old: Promised, new: Promised, now: Contracts) -> Iterator[Break]:
    """The events that were promised, that nobody reads now, and that were not given up: the journal has them."""
    for name, event in sorted(old.events.items()):
        is_here = same(new.events, event.names) or not {*event.names}.isdisjoint(new.forgotten.get("events", ()))
        if not is_here and not readers_of(now, [f"{owner}.{each}" for each in event.names]):
            todo = f'type renamed_from="{name}" where it is now, or {_variable(owner)}.forgotten(events=["{name}"])'
            yield Break(f"{owner}.{name}", owner, "journal", "is gone, and may be stored", todo)


def _of_nobody(now: Contracts) -> Iterator[Break]:
    """What is read and promised by nobody."""
    events = {
        f"{owner}.{name}"
        for owner, contract in now.items()
        for event in contract.promises.events.values()
        for name in event.names
    }
    shares = {
        f"{owner}/{name}"
        for owner, contract in now.items()
        for share in contract.promises.shares.values()
        for name in share.names
    }
    for service, contract in sorted(now.items()):
        for type_, readers in sorted(contract.uses.events.items()):
            owner, _, name = type_.partition(".")
            todo = f'declare it again in {owner}, say renamed_from="{name}" where it is now, or read it no more'
            for reader in sorted(readers) if type_ not in events else ():
                yield Break(type_, service, reader, "is read, and its owner has no event of this name", todo)
        for place in sorted(contract.uses.shares.keys() - shares):
            owner, _, name = place.partition("/")
            todo = f'share it again in {owner}, say renamed_from="{name}" where it is now, or borrow it no more'
            yield Break(place, service, "borrow", "is borrowed, and its owner has no share of this name", todo)


def _order(before: Contracts, now: Contracts) -> Iterator[First]:
    """Who has to be deployed before whom, so that no old build meets what it can't read."""
    for owner, contract in sorted(now.items()):
        old = before[owner].promises if owner in before else None
        for name, event in sorted(contract.promises.events.items()):
            known = same(old.events, event.names) if old else None
            if known is not None:
                yield from _events_order(owner, name, known, event, before)
        for name, share in sorted(contract.promises.shares.items()):
            shared = same(old.shares, share.names) if old else None
            places = [f"{owner}/{each}" for each in share.names]
            if shared is not None:
                yield from _shares_order(owner, name, shared, share, _borrowers(before, places))
            elif owner in before:
                for service, _ in _borrowers(now, places):
                    yield First(owner, service, f"{owner} shares {name} only then")


def _events_order(owner: str, name: str, old: EventPromise, new: EventPromise, before: Contracts) -> Iterator[First]:
    for service, reader, use in readers_of(before, [f"{owner}.{each}" for each in old.names]):
        read = _reading(service, reader, use, old)
        if service == owner:
            continue
        if read.version < new.version:
            yield First(service, owner, f"it reads {owner}.{name} up to version {read.version} until then")
        elif found := misfits(new.stored[str(new.version)], read.schema):
            yield First(service, owner, f"until then it can't read {owner}.{name}: {found[0].words}")


def _shares_order(
    owner: str, name: str, old: SharePromise, new: SharePromise, borrowers: Iterable[tuple[str, ShareUse]]
) -> Iterator[First]:
    for service, use in borrowers:
        schema = use.own if use.own is not None else old.schema
        if found := misfits(new.stored, schema):
            yield First(service, owner, f"until then it can't read {owner}/{name}: {found[0].words}")


def _grouped(breaks: Iterable[Break]) -> list[Break]:
    """Each break of a consumer once, with all of its readers."""
    found: dict[tuple[str, str, str], Break] = {}
    for each in breaks:
        key = (each.place, each.consumer, each.says)
        known = found.get(key)
        readers = sorted({*known.reader.split(", "), each.reader} - {""}) if known else [each.reader]
        found[key] = each._replace(reader=", ".join(readers))
    return list(found.values())


def _variable(service: str) -> str:
    return service.replace("-", "_")
