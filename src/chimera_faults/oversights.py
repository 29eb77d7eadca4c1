"""Deliberate mistakes about what comes from outside: data that goes back, handlers that hang, values that don't fit."""

from __future__ import annotations

from typing import Any

import msgspec

from chimera import forms
from chimera.commands import consume
from chimera.commands.apart import limits
from chimera.core.keys.seals import Seal
from chimera.errors import Unavailable, Unfit
from chimera.journal import feed, history
from chimera.messages import Message
from chimera.ports import Checkpoint
from chimera.views.folding import batch
from chimera_faults.patching import Patching


def lost_history_not_noticed(at: Patching) -> None:
    """Nobody looks whether a checkpoint stands on its owner's history."""
    divergences = history.divergences

    async def none(*arguments: Any) -> dict[int, str]:
        found = await divergences(*arguments)
        return {} if found and at.wrong() else found

    fits = history.fits

    def always(message: Message, checkpoint: Checkpoint, seal: Seal) -> bool:
        return fits(message, checkpoint, seal) or at.wrong()

    for module in (feed, history):
        at.replace(module, "divergences", none)
        at.replace(module, "fits", always)


def old_topic_read_on(at: Patching) -> None:
    """A topic that was made anew is read on from where the old one was, and heads are not compared."""
    offsets = feed.Feed._offsets  # noqa: SLF001
    compare = feed.Feed._compare  # noqa: SLF001

    async def hopeful(self: Any) -> dict[int, int]:
        found = await offsets(self)
        hints = {partition: checkpoint.offset for partition, checkpoint in self._at.items()}
        return hints if found != hints and at.wrong() else found

    def blind(self: Any) -> bool:
        if at.wrong():
            self._compared = {}
        return compare(self)

    at.replace(feed.Feed, "_offsets", hopeful)
    at.replace(feed.Feed, "_compare", blind)


def never_stopped(at: Patching) -> None:
    """A handler that never returns is waited for."""
    look = limits.TimeLimit._look  # noqa: SLF001

    def patient(self: Any) -> None:
        if not at.wrong():
            look(self)

    at.replace(limits.TimeLimit, "_look", patient)


def no_number_written(at: Patching) -> None:
    """A float that is no number is written as null."""
    refuse = forms.refuse_no_number

    def lax(value: object, name: str) -> None:
        try:
            refuse(value, name)
        except Unfit:
            if not at.wrong():
                raise

    encode = forms.Form.encode

    def unread(self: Any, value: Any) -> bytes:
        try:
            return encode(self, value)
        except Unfit:
            if not at.wrong():
                raise
        return msgspec.json.encode(value)

    at.replace(forms, "refuse_no_number", lax)
    at.replace(forms.Form, "encode", unread)


def too_large_waited_at(at: Patching) -> None:
    """A view waits at an event that makes a document too large."""
    park = batch.BatchFold.park

    def stubborn(self: Any, message: Message, error: Exception, tries: int, *, left: bool = False) -> None:
        if isinstance(error, Unfit) and at.wrong():
            raise Unavailable(str(error)) from error
        park(self, message, error, tries, left=left)

    at.replace(batch.BatchFold, "park", stubborn)


def offsets_trusted(at: Patching) -> None:
    """A log of commands is read on from its checkpoint, whatever stands there."""
    mark, compare = consume.mark_of, consume.CommandConsumer._compare  # noqa: SLF001

    def none(message: Message) -> str:
        return "" if at.wrong() else mark(message)

    def blind(self: Any, checkpoints: Any, ends: Any) -> None:
        if not at.wrong():
            compare(self, checkpoints, ends)

    at.replace(consume, "mark_of", none)
    at.replace(consume.CommandConsumer, "_compare", blind)


def passed_over_untold(at: Patching) -> None:
    """What somebody else wrote among the events is passed over without a word."""
    pass_over = feed.Feed._pass_over  # noqa: SLF001

    def silent(self: Any, offset: int, message: Message) -> None:
        if not at.wrong():
            pass_over(self, offset, message)

    at.replace(feed.Feed, "_pass_over", silent)
