"""Fails on purpose, in each of the places where a message can fail, until the file MENDED names is there."""

import os
from pathlib import Path

from msgspec import Struct

from chimera import Command, Entity, Event, Service, Transaction

clumsy = Service("clumsy")


class StumbleError(Exception):
    pass


def step(what: str, where: str) -> None:
    if what == where and not Path(os.environ["MENDED"]).exists():
        raise StumbleError(f"stumbled over {where}")


class Carry(Command, key="cup_id"):
    cup_id: str
    over: str = ""


class Carried(Event, source="clumsy", key="cup_id"):
    cup_id: str
    over: str


@clumsy.entity
class Cup(Entity, key="cup_id", table="cups"):
    cup_id: str
    carried: int = 0
    noticed: int = 0


class Seen(Struct):
    cup_id: str
    times: int = 0


@clumsy.handle("POST /cups/{cup_id}/carry")
async def carry(command: Carry, tx: Transaction) -> None:
    step(command.over, "command")
    cup = await tx.load(Cup, command.cup_id) or Cup(command.cup_id)
    cup.carried += 1
    tx.save(cup)
    tx.emit(Carried(command.cup_id, command.over))


seen = clumsy.view(Seen, key="cup_id", path="/cups/{cup_id}", absent="empty")


@seen.on(Carried)
def count(cup: Seen, event: Carried) -> None:
    step(event.over, "view")
    cup.times += 1


@clumsy.on(Carried)
async def notice(event: Carried, tx: Transaction) -> None:
    step(event.over, "reaction")
    cup = await tx.load(Cup, event.cup_id) or Cup(event.cup_id)
    cup.noticed += 1
    tx.save(cup)
