"""What a service keeps of a person, for her: as it is, with what is about others left out."""

from __future__ import annotations

from typing import Any

import msgspec

from chimera.core.context import Context
from chimera.core.json import tell
from chimera.personal import Forgotten
from chimera.upkeep.forgetting.search import about, found_of, personal_in


class Exported(msgspec.Struct):
    """What a service keeps of a person: where, under which key, and what."""

    service: str
    kept: dict[str, dict[str, msgspec.Raw]] = {}


async def export_of(context: Context, subject: str) -> Exported:
    """All that is kept of a person in rows, events and documents; values about others in the same are null.

    Raises Unavailable where a service whose keys are needed can't be asked.
    """
    exported = Exported(context.service.name)
    async for found in found_of(context, subject):
        if found.whole is None:  # what waits, or was answered, is in what comes of it
            continue
        every = personal_in(found.whole)
        own = about(every, subject)
        for each, value in zip(own, await context.personal.reveal(own), strict=True):
            each.show(value)
        hers = set(map(id, own))
        for each in every:
            if id(each) not in hers:
                each.show(_HIDDEN)
        exported.kept.setdefault(found.place, {})[found.key] = msgspec.Raw(tell(found.whole))
    return exported


_HIDDEN: Any = Forgotten()
