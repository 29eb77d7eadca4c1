"""The one list of a service's consumers: whatever keeps checkpoints, what it reads, and where it keeps them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from chimera.core import names
from chimera.folds import View
from chimera.forms import AnyDocument
from chimera.parts import Borrow, Mode, Reaction
from chimera.service import Service
from chimera.signature import located

Kind = Literal["commands", "relay", "view", "reaction", "copy"]

COPYING: tuple[Mode, ...] = ("async", "hybrid")
"""The modes of a borrow that keep a copy."""


class Consumer(NamedTuple):
    """A consumer of one source.

    `name` is that of its checkpoints, for a view that of its first generation; `source` is the service whose events it
    takes, for the commands their topic. `declared` is what was declared of it; of a copy, `mode` is the one that
    keeps it.
    """

    kind: Kind
    name: str
    source: str
    declared: View[AnyDocument] | Reaction | Borrow[AnyDocument] | None = None
    mode: Mode | None = None

    @property
    def keeps_documents(self) -> bool:
        """True when its checkpoints are in the view store, with its documents; else they are in the store."""
        return self.kind in ("view", "copy")

    @property
    def reported(self) -> str:
        """Its name as its service tells it to the owner of what it consumes."""
        return self.declared.name if isinstance(self.declared, Reaction) else self.name

    @property
    def parks(self) -> bool:
        """True when it parks what fails."""
        return self.kind != "relay"


def consumers_of(service: Service) -> list[Consumer]:
    """Every consumer that a service has, as it is declared: one for each source that it reads."""
    return [
        Consumer("commands", names.COMMANDS, names.commands_topic(service.name)),
        Consumer("relay", names.RELAY, service.name),
        *(
            Consumer("view", view.name, source, view)
            for view in service.views.values()
            for source in sorted(view.sources)
        ),
        *(
            Consumer("reaction", names.reaction_consumer(reaction.name, source), source, reaction)
            for reaction in service.reactions.values()
            for source in reaction.sources
        ),
        *(
            Consumer("copy", names.copy_name(borrow.name, mode), borrow.owner, borrow, mode)
            for borrow in service.borrows.values()
            for mode in COPYING
        ),
    ]


def declared_at(service: Service, consumer: Consumer) -> str:
    """The file and line of what was declared of a consumer; of a borrow, those of its service."""
    if isinstance(consumer.declared, View):
        return consumer.declared.declared_at
    return located(consumer.declared.function) if isinstance(consumer.declared, Reaction) else service.declared_at


def other_sources(service: Service) -> list[str]:
    """The other services whose events are consumed here, in order."""
    consumed = {each.source for each in consumers_of(service) if each.kind not in ("commands", "relay")}
    return sorted(consumed - {service.name})


def document_consumers(service: Service) -> dict[str, Consumer]:
    """The consumers that keep documents, each once, by name: the views, and the copies of what is borrowed."""
    return {each.name: each for each in consumers_of(service) if each.keeps_documents}
