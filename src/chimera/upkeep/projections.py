"""The projections that keep a service's documents, as they serve now."""

from __future__ import annotations

from chimera.borrow.copies import copy_projection
from chimera.core.context import Context
from chimera.folds import View
from chimera.journal.consumers import Consumer
from chimera.parts import Borrow
from chimera.views.generations import serving_name
from chimera.views.projections import Projection, ViewProjection


async def projection_of(context: Context, consumer: Consumer) -> Projection:
    """The projection that keeps a consumer's documents: of a view, its generation that serves."""
    if isinstance(consumer.declared, View):
        return ViewProjection(consumer.declared, await serving_name(context, consumer.name))
    assert isinstance(consumer.declared, Borrow), f"{consumer.name} keeps no documents"
    assert consumer.mode is not None
    return copy_projection(consumer.declared, consumer.mode)
