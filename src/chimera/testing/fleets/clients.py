"""Clients: they send commands until each is answered, and then read what they wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from chimera.messages import Position
from chimera.parts import Handler, path_parameters
from chimera.testing.fleets.looks import Looks
from chimera.testing.fleets.network import Broken, HttpAnswer
from chimera.testing.fleets.world import World
from chimera.testing.plans.plan import Sending

AGAIN_S = 0.05
NO_ANSWER = 0
"""The status of an attempt that broke off."""
FAILED = 500
AGAIN = (NO_ANSWER, 502, 503, 504)
"""After these a command is sent again."""


class SentCommands:
    """What was sent and answered: the statuses of each command, in order, and its id; by label."""

    def __init__(self) -> None:
        self.statuses: dict[str, list[int]] = {}
        self.ids: dict[str, str] = {}
        self.reads = 0

    def accepted(self, label: str) -> bool:
        """Answered with a 2xx: the system has promised something."""
        statuses = self.statuses.get(label, [])
        return bool(statuses) and 200 <= statuses[-1] < 300


class Client:
    """One after the other, it sends its commands, each until it has an answer, and looks for what it did."""

    def __init__(self, world: World, ledger: SentCommands, sendings: Sequence[Sending]) -> None:
        self._world = world
        self._ledger = ledger
        self._sendings = sendings
        self._looks = Looks(world)

    async def run(self) -> None:
        """Send everything."""
        for sending in self._sendings:
            await asyncio.sleep(max(0.0, sending.at - self._world.loop.now))
            answer, key = await self._send(sending)
            if sending.reads:
                positions = answer.headers.get("chimera-position", "") if answer.status < 300 else ""
                after = [Position.parse(each) for each in positions.split(",") if each]
                keys = dict.fromkeys([key, *(each for each in sending.body.values() if isinstance(each, str))])
                self._ledger.reads += await self._looks.look(list(keys), after) if after else 0
                self._ledger.reads += await self._looks.look(list(keys), [])
                self._ledger.reads += await self._looks.follow(list(keys), after)

    async def _send(self, sending: Sending) -> tuple[HttpAnswer, str]:
        handler = self._world.fleet.handler(sending.service, sending.command)
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
                answer = HttpAnswer(NO_ANSWER, {}, str(error).encode())
            statuses.append(answer.status)
            self._world.promises.note(
                f"{sending.label} is answered {answer.status} {answer.body.decode()[:200]}", [key]
            )
            if answer.status == FAILED:
                self._world.promises.breaks(
                    "no request fails", f"{sending.label}: {self._world.promises.last_error}", key
                )
            if command_id := _command_id(answer):
                self._ledger.ids[sending.label] = command_id
            if answer.status not in AGAIN:
                return answer, key
            await asyncio.sleep(AGAIN_S)


def request_of(handler: Handler, body: Mapping[str, Any]) -> tuple[str, str, bytes]:
    """The method, the path and the body of a command's request."""
    method, _, path = (handler.route or "").partition(" ")
    fields = path_parameters(path)
    for name in fields:
        path = path.replace(f"{{{name}}}", quote(str(body[name]), safe=""))
    return method, path, msgspec.json.encode({name: value for name, value in body.items() if name not in fields})


def _command_id(answer: HttpAnswer) -> str:
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
