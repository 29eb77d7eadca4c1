"""The routes of lists: pages of documents, as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec

from chimera.core.context import Context
from chimera.core.json import invalid
from chimera.errors import Invalid
from chimera.folds import ListField, ViewList
from chimera.forms import AnyDocument, encode
from chimera.messages import Position
from chimera.parts import path_parameters
from chimera.reader import LONGEST_OFFSET, LONGEST_PAGE, PAGE, Notes
from chimera.views.documents import Documents, Waiting
from chimera.web.permission.gate import Gate
from chimera.web.permission.revealing import Answers
from chimera.web.wire import openapi
from chimera.web.wire.http import JSON, Call, Header, read_query
from chimera.web.wire.routing import Route

Saying = Callable[[Notes], Sequence[Header]]
"""The headers that say what an answer's documents do not."""


class ListQuery(msgspec.Struct, forbid_unknown_fields=True):
    """The query of a list's route: how many documents, and where the page begins."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=LONGEST_PAGE)] = PAGE
    after: Annotated[str, msgspec.Meta(description="The `next` of the page before.")] = ""
    offset: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_OFFSET)] = 0


def list_routes(
    context: Context,
    documents: Documents,
    gate: Gate,
    answers: Answers,
    after: Callable[[Call], list[Position]],
    said: Saying,
) -> list[Route]:
    """The routes of all lists of a service that have a path."""

    def route(declared: ViewList[AnyDocument], path: str) -> Route:
        view = declared.view
        fields = {field.name: field for field in declared.where}

        def values_of(call: Call) -> dict[str, Any]:
            return {name: _value(call.path[name], field) for name, field in fields.items()}

        async def endpoint(call: Call) -> None:
            query = read_query(call, ListQuery)
            if query.after and query.offset:
                raise Invalid("a page begins after a cursor or at an offset, not both", field="query.offset")
            values = [*values_of(call).values()]
            notes, headers = Notes(after(call)), list[Header]()
            if notes.follows or view.name in context.process.setting_aside:
                waiting = Waiting(context, documents, notes, context.timing.after_s)
                await waiting.reach(view.name, view.sources)
                await waiting.look_aside_all(view.name)
                page = await documents.lists.page(declared, values, query.limit, query.after, query.offset)
                await waiting.cover(view.name)
                headers += said(notes)
            else:
                page = await documents.lists.page(declared, values, query.limit, query.after, query.offset)
            headers += await answers.page(view.document, page)
            await call.answer(encode(page), 200, JSON, headers)

        parameters = [(name, fields[name].type) for name in path_parameters(path)]
        describe = partial(openapi.listed, context.service, declared, parameters, ListQuery)
        route = Route("GET", path, endpoint, describe)
        return gate.of_address(route, declared.allow, lambda call: values_of(call).__getitem__)

    return [
        route(each, each.path) for view in context.service.views.values() for each in view.lists.values() if each.path
    ]


def _value(text: str, field: ListField) -> Any:
    try:
        return msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, f"path.{field.name}") from error
