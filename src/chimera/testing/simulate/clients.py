"""Clients: they send commands until each is answered, and then read what they wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from chimera.messages import Position
from chimera.service import Handler, path_parameters
from chimera.testing.simulate.network import Answer, Broken
from chimera.testing.simulate.plan import Sending
from chimera.testing.simulate.world import World

AGAIN_S = 0.05
NO_ANSWER = 0
"""The status of an attempt that broke off."""
AGAIN = (NO_ANSWER, 502, 503, 504)
"""After these a command is sent again."""


class Ledger:
    """What was sent and answered: the statuses of each command, in order, and its id; by label."""

    def __init__(self) -> None:
        self.statuses: dict[str, list[int]] = {}
        self.ids: dict[str, str] = {}
        self.reads = 0

    def accepted(self, label: str) -> bool:
        """Answered with a 2xx: the system has promised something."""
        return bool(self.statuses[label]) and 200 <= self.statuses[label][-1] < 300


class Client:
    """One after the other, it sends its commands, each until it has an answer, and looks for what it did."""

    def __init__(self, world: World, ledger: Ledger, sendings: Sequence[Sending]) -> None:
        self._world = world
        self._ledger = ledger
        self._sendings = sendings
        self._seen: dict[tuple[str, str, str], int] = {}
        """The version of each document that it has seen: by service, view and key."""

    async def run(self) -> None:
        """Send everything."""
        for sending in self._sendings:
            await asyncio.sleep(max(0.0, sending.at - self._world.loop.now))
            answer, key = await self._send(sending)
            if sending.reads:
                positions = answer.headers.get("chimera-position", "") if answer.status < 300 else ""
                await self._look(key, [Position.parse(each) for each in positions.split(",") if each])

    async def _send(self, sending: Sending) -> tuple[Answer, str]:
        service = self._world.fleet.services[sending.service]
        handler = service.handlers[sending.command]
        method, path, body = request_of(handler, sending.body)
        key = str(sending.body.get(handler.command.__key_fields__[0], ""))
        statuses = self._ledger.statuses.setdefault(sending.label, [])
        self._world.promises.note(f"{sending.label} sends {sending.command} {body.decode()}", [key])
        while True:
            try:
                answer = await self._world.network.ask(
                    sending.service, method, path, body=body, headers={"idempotency-key": sending.label}
                )
            except Broken as error:
                answer = Answer(NO_ANSWER, {}, str(error).encode())
            statuses.append(answer.status)
            self._world.promises.note(
                f"{sending.label} is answered {answer.status} {answer.body.decode()[:200]}", [key]
            )
            if command_id := _command_id(answer):
                self._ledger.ids[sending.label] = command_id
            if answer.status not in AGAIN:
                return answer, key
            await asyncio.sleep(AGAIN_S)

    async def _look(self, key: str, after: Sequence[Position]) -> None:
        """See whether every view has what was written, and every borrow, or says that it has not."""
        for name, service in self._world.fleet.services.items():
            for view in service.views.values():
                if view.path is not None and view.path.count("{") == 1 and "?" not in view.path:
                    await self._look_at(name, view.name, view.path.replace(f"{{{view.key}}}", quote(key)), key, after)

    async def _look_at(self, service: str, view: str, path: str, key: str, after: Sequence[Position]) -> None:
        promises = self._world.promises
        history = promises.ideals[service, view][0].histories.get(key)
        if history is None:
            return
        headers = {"chimera-after": ",".join(map(str, after))} if after else {}
        floor = max(
            (history.index_of(each.number) for each in after if (each.source, each.partition) == history.place),
            default=0,
        )
        try:
            answer = await self._world.network.ask(service, "GET", path, headers=headers)
        except Broken:
            return
        if answer.status not in (200, 404) or len(promises.ideals[service, view]) > 1:
            return
        self._ledger.reads += 1
        declared = self._world.fleet.services[service].views[view]
        data = answer.body if answer.status == 200 else None
        if not history.is_known or (data is not None and declared.absent == "empty" and not history.versions):
            return
        newest, oldest = history.newest(data), history.oldest(data)
        seen = (service, view, key)
        if newest < 0 and declared.absent != "empty":
            promises.breaks("a view shows what was", f"{service}'s {view} shows {answer.body.decode()[:200]}", key)
        elif newest < floor and "chimera-behind" not in answer.headers:
            promises.breaks(
                "who writes reads what she wrote",
                f"{path} of {service} shows version {newest} of {key!r} ({answer.status}), after {headers} (version "
                f"{floor}), and does not say that it is behind",
                key,
            )
        elif newest < self._seen.get(seen, 0) and service not in promises.forgetful:
            promises.breaks(
                "nobody sees less than before",
                f"{path} of {service} shows version {newest} of {key!r} after version {self._seen[seen]}",
                key,
            )
        self._seen[seen] = max(oldest, self._seen.get(seen, 0)) if newest >= 0 else self._seen.get(seen, 0)


def request_of(handler: Handler, body: Mapping[str, Any]) -> tuple[str, str, bytes]:
    """The method, the path and the body of a command's request."""
    method, _, path = (handler.route or "").partition(" ")
    fields = path_parameters(path)
    for name in fields:
        path = path.replace(f"{{{name}}}", quote(str(body[name]), safe=""))
    return method, path, msgspec.json.encode({name: value for name, value in body.items() if name not in fields})


def _command_id(answer: Answer) -> str:
    if "chimera-command" in answer.headers:
        return answer.headers["chimera-command"]
    if not 200 <= answer.status < 300:
        return ""
    try:
        return msgspec.json.decode(answer.body, type=_Accepted).command_id
    except msgspec.DecodeError:
        return ""


class _Accepted(msgspec.Struct):
    command_id: str = ""
