"""How versions and fates are declared, what is refused, and what they cost."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from chimera import Command, DeclarationError, Entity, Event, ModelCommand, ModelEvent, Service
from chimera.commands.apart.contracts import can_read
from chimera.core.declared import declared_names
from chimera.forms import decoder_of, readers_of
from chimera.testing.engines import sqlite_engines
from chimera.upkeep.admission.naming import admit
from chimera.views.fingerprints import fingerprint
from tests.builds import build, forget_all
from tests.evolution.shop import Written, append
from tests.evolution.texts import FIRST, SECOND
from tests.support import opened
from tests.views.test_rebuild import TIMING

HERE = "tests/evolution/test_declared.py:"


class Counted(Event, source="declared", key="name", version=3):
    name: str
    count: int


@Counted.upgrade(2)
def counted_once(old: dict[str, Any]) -> dict[str, Any]:
    return {**old, "count": 1}


def plain(old: dict[str, Any]) -> dict[str, Any]:
    return old


async def waits(old: dict[str, Any]) -> dict[str, Any]:
    return old


@pytest.mark.parametrize(
    ("version", "function", "says"),
    [
        (0, plain, "there is no version 0 to upgrade: they count from 1"),
        (2, plain, f"its version 2 is upgraded at {HERE}"),
        (3, plain, "it is at version 3, so that there is no version 3 before it to upgrade; if it has changed, type "),
        (1, waits, "an upgrade waits for nothing; write: def waits(…)"),
    ],
)
def test_an_upgrade_of_what_never_was_is_refused_with_its_place(
    version: int, function: Callable[..., Any], says: str
) -> None:
    with pytest.raises(DeclarationError) as refused:
        Counted.upgrade(version)(function)
    assert str(refused.value).startswith(f"{HERE}{function.__code__.co_firstlineno}: Counted: {says}")


def test_a_gap_is_refused_where_the_service_is_looked_at_with_its_place() -> None:
    service = Service("gapped")

    class Gapped(Event, source="gapped", key="name", version=4):
        name: str

    Gapped.upgrade(2)(plain)

    class Doc(msgspec.Struct):
        name: str

    service.view(Doc, key="name").on(Gapped)(lambda doc, event: None)
    with pytest.raises(DeclarationError) as refused:
        declared_names(service)
    assert HERE in str(refused.value)
    assert str(refused.value).endswith(
        "Gapped is at version 4, but versions 1, 3 have no upgrade, so that what is stored of before can't be read; "
        "type: @Gapped.upgrade(1)"
    )


def test_what_is_no_version_and_no_fate_is_refused() -> None:
    with pytest.raises(DeclarationError, match="version=0 is no version: they are 1, 2, 3 and so on"):

        class Zero(Event, source="declared", key="name", version=0):
            name: str

    with pytest.raises(DeclarationError, match="unknown='keep' is no fate of unknown fields; type unknown=\"ignore\""):

        class Kept(Event, source="declared", key="name", unknown="keep"):
            name: str

    with pytest.raises(DeclarationError, match="Row: version= and unknown= are of commands and events"):

        class Row(Entity, key="name", version=2):
            name: str

    with pytest.raises(DeclarationError, match=r"tests/evolution/test_declared\.py:\d+: Modelled: version=-1 is no"):

        class Modelled(ModelEvent, BaseModel, source="declared", key="name", version=-1):
            name: str


def test_a_first_version_is_written_as_ever_and_each_name_is_read_in_each_version() -> None:
    class Plain(Event, source="declared", key="name"):
        name: str

    class Moved(Event, source="declared", key="name", renamed_from="Went", version=2):
        name: str

    Moved.upgrade(1)(plain)
    assert Plain.wire_types() == ["declared.Plain"]
    assert Moved.wire_types() == ["declared.Went@2", "declared.Moved@2", "declared.Went", "declared.Moved"]
    assert Moved.wire_type() == "declared.Went@2"


class Old(BaseModel):
    name: str
    size: int


@dataclass
class Older:
    name: str


class Sized(ModelEvent, BaseModel, source="declared", key="name", version=3):
    name: str
    width: int
    height: int


@Sized.upgrade(1)
def sized(old: Older) -> Old:
    return Old(name=old.name, size=1)


@Sized.upgrade(2)
def wide(old: Old) -> dict[str, Any]:
    return {"name": old.name, "width": old.size, "height": old.size}


def test_models_and_dataclasses_have_versions_and_upgrades_as_structs_have() -> None:
    readers = readers_of(Sized, "declared")
    assert readers["declared.Sized"].decode(b'{"name":"a"}') == Sized(name="a", width=1, height=1)
    assert readers["declared.Sized@2"].decode(b'{"name":"a","size":4}') == Sized(name="a", width=4, height=4)
    with pytest.raises(msgspec.ValidationError, match="size"):
        readers["declared.Sized@2"].decode(b'{"name":"a"}')


def test_an_upgrade_that_fails_makes_its_message_one_that_this_code_cant_read() -> None:
    class Broken(Event, source="declared", key="name", version=2):
        name: str

    @Broken.upgrade(1)
    def broken(old: dict[str, Any]) -> dict[str, Any]:
        return {"name": old["title"]}

    with pytest.raises(msgspec.ValidationError, match=rf"version 1 can't be upgraded \({HERE}\d+\): KeyError: 'title'"):
        readers_of(Broken, "declared")["declared.Broken"].decode(b'{"name":"a"}')


class Colour(enum.Enum):
    RED = "red"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> Colour:
        return cls.OTHER


class Shade(enum.Enum):
    DARK = "dark"


class Painted(Event, source="declared", key="name"):
    name: str
    colour: Colour = Colour.RED
    shade: Shade = Shade.DARK


class Strict(Event, source="declared", key="name", unknown="refuse"):
    name: str


class Loose(Command, key="name", unknown="ignore"):
    name: str


class Tight(Command, key="name"):
    name: str


class LooseModel(ModelCommand, BaseModel, key="name", unknown="ignore"):
    name: str


class StrictModel(ModelEvent, BaseModel, source="declared", key="name", unknown="refuse"):
    name: str


@dataclass
class StrictData(ModelEvent, source="declared", key="name", unknown="refuse"):
    name: str


@pytest.mark.parametrize("loose", [Painted, Loose, LooseModel])
def test_unknown_fields_are_ignored_by_events_and_by_what_says_so(loose: type) -> None:
    assert decoder_of(loose).decode(b'{"name":"a","more":1}').name == "a"


@pytest.mark.parametrize("strict", [Tight, Strict, StrictModel, StrictData])
def test_unknown_fields_are_refused_by_commands_and_by_what_says_so(strict: type) -> None:
    with pytest.raises(msgspec.ValidationError, match="more"):
        decoder_of(strict).decode(b'{"name":"a","more":1}')


def test_an_unknown_value_of_an_enum_is_unreadable_or_the_member_that_stands_for_it() -> None:
    assert decoder_of(Painted).decode(b'{"name":"a","colour":"mauve"}').colour is Colour.OTHER
    with pytest.raises(msgspec.ValidationError, match="shade"):
        decoder_of(Painted).decode(b'{"name":"a","shade":"light"}')


def test_other_upgrades_are_other_code_to_views_and_to_what_could_not_be_read() -> None:
    services = [
        build(text=FIRST),
        build(text=SECOND),
        build(text=SECOND.replace("* 100", "* 99")),
    ]
    forget_all()
    assert len({fingerprint(service.views["sale"]) for service in services}) == 3
    assert len({can_read(service).code for service in services}) == 3


async def test_code_that_never_started_here_does_not_start_over_newer_versions(tmp_path: Any) -> None:
    engines = sqlite_engines(tmp_path)
    try:
        new = await opened(build(text=SECOND), engines, timing=TIMING)
        await admit(new)
        await append(new, "shop", "Placed", [Written(2, {"order_id": "a", "cents": 1})])
        await append(new, "shop", "Gone", [Written(3, {"order_id": "a"})])
        gone = 'shop.forgotten(events=["Gone"])\n'
        await admit(await opened(build(text=SECOND + gone), engines, timing=TIMING))
    finally:
        await engines.close()
        forget_all()
