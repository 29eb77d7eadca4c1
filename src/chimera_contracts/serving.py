"""What is promised to clients: commands that they send, views and lists that they read. Nobody knows what they use."""

from __future__ import annotations

from collections.abc import Iterator

from chimera_contracts.baseline import same
from chimera_contracts.misfits import misfits
from chimera_contracts.model import CLIENTS, Break, CommandPromise, Promised, ViewPromise
from chimera_contracts.schemas import always_written


def broken_for_clients(owner: str, old: Promised, new: Promised) -> Iterator[Break]:
    """What clients could send, or find, and can't any more."""
    for name, command in sorted(old.commands.items()):
        now = same(new.commands, command.names)
        if now is not None:
            yield from _command(f"{owner}.{name}", command, now)
        elif {*command.names}.isdisjoint(new.forgotten.get("commands", ())):
            todo = f'type renamed_from="{name}" where it is now'
            reader = command.route or "the log"
            yield Break(f"{owner}.{name}", CLIENTS, reader, "is gone, and may be sent", todo, True)
    for name, view in sorted(old.views.items()):
        yield from _view(f"{owner}/{name}", view, new.views.get(name))


def _command(place: str, old: CommandPromise, new: CommandPromise) -> Iterator[Break]:
    route = old.route or "the log"
    if old.key != new.key:
        says = f"had the key {old.key} and has {new.key}: those of one key are not handled in order"
        yield Break(place, CLIENTS, route, says, f'type key="{old.key}"', True)
    if old.route and old.route != new.route:
        says = f"was taken at {old.route}, and is at {new.route or 'no route'}"
        yield Break(place, CLIENTS, route, says, "keep the route", True)
    if old.wrapped != new.wrapped:
        says = f"came in {old.wrapped or 'no field'}, and is expected in {new.wrapped or 'none'}"
        yield Break(place, CLIENTS, route, says, f'type body="{old.wrapped}"', True)
    for each in misfits(old.schema, new.schema):
        todo = {
            "missing": "give it a default",
            "lacking": "give it a default",
            "unknown": "declare it again",
            "type": "take both types",
            "value": "take the value",
            "limit": "loosen the limit",
        }[each.kind]
        yield Break(f"{place}.{each.path}", CLIENTS, route, each.says, todo, True)


def _view(place: str, old: ViewPromise, new: ViewPromise | None) -> Iterator[Break]:
    lists = {name: (each, new.lists.get(name) if new else None) for name, each in sorted(old.lists.items())}
    if old.path and (new is None or new.path != old.path):
        says = f"was served at {old.path}, and is at {new.path if new and new.path else 'no path'}"
        yield Break(place, CLIENTS, f"GET {old.path}", says, "keep the path", True)
    for name, (was, now) in lists.items():
        if now is None or now.path != was.path:
            says = f"was served at {was.path}, and is at {now.path if now else 'no path'}"
            yield Break(f"{place}/{name}", CLIENTS, f"GET {was.path}", says, "keep the path", True)
        elif now.order != was.order:
            says = (
                f"was in order of {', '.join(was.order) or 'keys'}, and is in that of {', '.join(now.order) or 'keys'}"
            )
            yield Break(f"{place}/{name}", CLIENTS, f"GET {was.path}", says, "make it another list", True)
    if new is not None:
        paths = [path for path in (old.path, *(each.path for each in old.lists.values())) if path]
        for each in misfits(always_written(new.schema), always_written(old.schema), values=False):
            says = "is found no more" if each.kind == "missing" else each.says
            todo = "declare it again" if each.kind == "missing" else "keep its type"
            yield Break(f"{place}.{each.path}", CLIENTS, f"GET {paths[0]}", says, todo, True)
