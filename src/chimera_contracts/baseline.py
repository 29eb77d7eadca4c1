"""The file of contracts: what was promised last, committed with the code; read, carried on, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from chimera.errors import SettingsError
from chimera_contracts.model import Contracts, EventPromise, Promised, ServiceContract
from chimera_contracts.schemas import Schema, always_written, widened

FILE = "chimera.contracts.json"
FORMAT = 1
WIDTH = 120
_HEAD = "What these services promise and read, written by `chimera contract export`. Commit it."


def read_contracts(path: Path) -> Contracts | None:
    """The contracts in a file; None where there is none. Raises SettingsError for one that can't be read."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise SettingsError(f"{path} is of format {found['format']}; this release reads {FORMAT}: use a newer one")
        return msgspec.convert(_restored(found["services"]), Contracts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} can't be read: {error!r}; get it back from the repository") from error


def text_of_contracts(contracts: Contracts) -> str:
    """The file, the same bytes whenever the contracts are the same."""
    services = msgspec.to_builtins(contracts, order="sorted")
    return f"{_laid_out({'': _HEAD, 'format': FORMAT, 'services': _shortened(services)}, '')}\n"


def carried(before: Contracts | None, now: Contracts) -> Contracts:
    """What is promised now, with all that was ever written before.

    Without a file of before nobody knows which fields are new: those that have a default may be missing somewhere.
    """
    return {
        name: ServiceContract(
            promises=_carried(before.get(name) if before is not None else None, each.promises, is_first=before is None),
            uses=each.uses,
        )
        for name, each in now.items()
    }


def _carried(before: ServiceContract | None, now: Promised, *, is_first: bool) -> Promised:
    events, shares = dict(now.events), dict(now.shares)
    for name, event in now.events.items():
        old = same(before.promises.events, event.names) if before else None
        events[name] = msgspec.structs.replace(event, stored=_stored(old, event, is_first=is_first))
    for name, share in now.shares.items():
        known = same(before.promises.shares, share.names) if before else None
        first = share.schema if is_first else share.stored
        stored = widened(known.stored, share.stored) if known else first
        shares[name] = msgspec.structs.replace(share, stored=stored)
    return msgspec.structs.replace(now, events=events, shares=shares)


def _stored(old: EventPromise | None, event: EventPromise, *, is_first: bool) -> dict[str, Schema]:
    own = str(event.version)
    if is_first:
        return {own: event.schema}
    if old is None:
        return event.stored
    known = old.stored.get(own)
    return {**old.stored, own: widened(known, event.stored[own]) if known is not None else event.stored[own]}


def same(promises: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The promise that has one of these names, whatever it is called first; None where there is none."""
    return next((each for each in promises.values() if not {*each.names}.isdisjoint(names)), None)


def _shortened(services: Any) -> Any:
    """Without what was stored where that is just what the class writes."""
    for contract in services.values():
        promises = contract["promises"]
        for event in promises.get("events", {}).values():
            stored = {
                version: schema
                for version, schema in event.pop("stored").items()
                if version != str(event.get("version", 1)) or schema != always_written(event["schema"])
            }
            event |= {"stored": stored} if stored else {}
        for share in promises.get("shares", {}).values():
            if share["stored"] == always_written(share["schema"]):
                del share["stored"]
    return services


def _restored(services: Any) -> Any:
    for contract in services.values():
        promises = contract["promises"]
        for event in promises.get("events", {}).values():
            event["stored"] = {
                str(event.get("version", 1)): always_written(event["schema"]),
                **event.get("stored", {}),
            }
        for share in promises.get("shares", {}).values():
            share.setdefault("stored", always_written(share["schema"]))
    return services


def _laid_out(value: object, indent: str) -> str:
    """JSON with what fits on a line in one line."""
    line = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    deeper = f"{indent}  "
    if isinstance(value, list):
        parts = [_laid_out(each, deeper) for each in value]
    else:
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {_laid_out(each, deeper)}" for key, each in sorted(value.items())
        ]
    opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
    inner = f",\n{deeper}".join(parts)
    return f"{opening}\n{deeper}{inner}\n{indent}{closing}"
