"""HTML for people: Jinja2 templates, everything escaped."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from marketplace.top_clients.messages import ShownClients

_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def render(template: str, /, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02d}"


def span(seconds: float) -> str:
    """A duration in its largest whole unit: `12 s`, `3 min`, `2 h`."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "under 1 s"


def freshness(clients: ShownClients) -> str:
    """What people are told about borrowed clients; empty when there is nothing to tell."""
    if clients.state == "stale":
        return f"as of {span(clients.age_s)} ago" if clients.age_s is not None else "an older copy"
    if clients.state == "absent" and clients.age_s is None:
        return "not available right now"
    return "" if clients.clients else "none yet"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("marketplace"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(money=money, freshness=freshness)
    return environment
