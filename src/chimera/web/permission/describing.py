"""The description of a route, with who may take it."""

from __future__ import annotations

from chimera.web.wire.openapi import Operation
from chimera.web.wire.routing import Route


def describing(route: Route, allow: str) -> Route:
    """The route, whose description says who may take it, and what is answered to others."""
    describe = route.describe
    if describe is None:
        return route

    def described() -> Operation:
        operation = describe()
        refusals = {str(status): {"$ref": f"#/components/responses/{status}"} for status in (401, 403)}
        responses = {**refusals, **operation["responses"]}
        return {**operation, "responses": responses, "x-chimera-allow": allow}

    return route._replace(describe=described)
