"""What a change breaks is said with the consumer's name; what nobody reads may go."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from chimera_contracts.model import (
    CommandPromise,
    Contracts,
    ListPromise,
    Promised,
    ServiceContract,
    SharePromise,
    ShareUse,
    Uses,
    ViewPromise,
)
from tests.contracts.fleets import Typed, compared, event_of, fleet_of, places

PLAIN = {"note": str, "cents": int}


def test_a_removed_field_that_a_consumer_reads_is_refused_with_its_name() -> None:
    found = compared(fleet_of(event_of(PLAIN), ["note"]), fleet_of(event_of({"cents": int}), ["note"]))
    assert places(found) == [("shop.Placed.note", "mail")]
    assert "it breaks mail (reaction send)" in found.breaks[0].line
    assert "declare it again in shop" in found.breaks[0].line


def test_a_removed_field_that_nobody_reads_may_go_and_consumers_are_deployed_first() -> None:
    found = compared(fleet_of(event_of(PLAIN), ["cents"]), fleet_of(event_of({"cents": int}), ["cents"]))
    assert found.breaks == []
    assert [(each.first, each.then) for each in found.order] == [("mail", "shop")]


def test_a_removed_field_is_refused_where_it_can_not_be_told_what_is_read() -> None:
    found = compared(fleet_of(event_of(PLAIN), "all"), fleet_of(event_of({"cents": int}), "all"))
    assert places(found) == [("shop.Placed.note", "mail")]
    assert found.breaks[0].may_be_accepted


def test_a_removed_field_is_refused_where_a_function_of_several_events_may_read_it() -> None:
    now = fleet_of(event_of({"cents": int}), ["cents"])
    now["mail"].uses.events["shop.Placed"]["reaction send"].perhaps = ["note"]
    assert places(compared(fleet_of(event_of(PLAIN), ["cents", "note"]), now)) == [("shop.Placed.note", "mail")]


def test_a_class_of_a_consumers_own_needs_what_it_declares_whatever_its_code_reads() -> None:
    own = event_of({"note": str})
    found = compared(fleet_of(event_of(PLAIN), [], own=own), fleet_of(event_of({"cents": int}), [], own=own))
    assert places(found) == [("shop.Placed.note", "mail")]
    assert "deploy mail before shop" in found.breaks[0].line


REFUSED: dict[str, tuple[Typed, Typed]] = {
    "a field without a default": ({}, {"note": str}),
    "another type": ({"cents": int}, {"cents": str}),
    "a narrower type": ({"cents": int | None}, {"cents": int}),
    "a value less": ({"stage": Literal["a", "b"]}, {"stage": Literal["a"]}),
    "values of a text": ({"stage": str}, {"stage": Literal["a"]}),
    "another type inside": ({"lines": list[int]}, {"lines": list[str]}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_stored_has_to_be_read(kind: str) -> None:
    old, new = (event_of(each) for each in REFUSED[kind])
    found = compared(fleet_of(old), fleet_of(new))
    assert {consumer for _, consumer in places(found)} == {"mail"}
    assert "written before" in found.breaks[0].line


COMPATIBLE: dict[str, tuple[Typed, Typed]] = {
    "a field with a default": ({}, {"note": (str, "")}),
    "a wider type": ({"cents": int}, {"cents": int | None}),
    "a number": ({"cents": int}, {"cents": float}),
    "a value more": ({"stage": Literal["a"]}, {"stage": Literal["a", "b"]}),
    "a text for values": ({"stage": Literal["a"]}, {"stage": str}),
}


@pytest.mark.parametrize("kind", COMPATIBLE)
def test_what_is_compatible_is_not_refused(kind: str) -> None:
    old, new = (event_of(each) for each in COMPATIBLE[kind])
    assert compared(fleet_of(old, "all"), fleet_of(new, "all")).breaks == []


def test_a_value_that_running_consumers_do_not_know_has_them_deployed_first() -> None:
    old, new = event_of({"stage": Literal["a"]}), event_of({"stage": Literal["a", "b"]})
    found = compared(fleet_of(old), fleet_of(new))
    assert [each.line for each in found.order] == [
        'deploy mail before shop: until then it can\'t read shop.Placed: stage may be "b", which is not known'
    ]


def test_a_value_that_a_consumers_own_class_does_not_know_is_refused() -> None:
    own = event_of({"stage": Literal["a"]})
    new = event_of({"stage": Literal["a", "b"]})
    found = compared(fleet_of(own, own=own), fleet_of(new, own=own))
    assert places(found) == [("shop.Placed.stage", "mail")]


def test_steps_that_are_compatible_one_by_one_are_not_together() -> None:
    """A field goes, and comes back as another type: no step was refused, and the journal has the first ones."""
    first, second = event_of({"note": int}), event_of({})
    third = event_of({"note": (str, "")})
    assert compared(fleet_of(first), fleet_of(second)).breaks == []
    assert compared(fleet_of(second), fleet_of(third)).breaks == []
    assert places(compared(fleet_of(first), fleet_of(second), fleet_of(third))) == [("shop.Placed.note", "mail")]


def test_a_field_that_came_with_a_default_never_loses_it() -> None:
    first, second, third = event_of({}), event_of({"note": (str, "")}), event_of({"note": str})
    assert places(compared(fleet_of(first), fleet_of(second), fleet_of(third))) == [("shop.Placed.note", "mail")]


def test_a_field_that_was_there_from_the_first_event_may_lose_its_default() -> None:
    empty: Contracts = {"shop": ServiceContract(promises=Promised(partitions=8))}
    first, second = event_of({"note": (str, "")}), event_of({"note": str})
    assert compared(empty, fleet_of(first), fleet_of(second)).breaks == []


def test_an_older_version_without_an_upgrade_is_refused_and_with_one_it_is_not() -> None:
    old, new = fleet_of(event_of({})), fleet_of(event_of({"note": str}, version=2))
    refused = compared(old, new)
    assert "there is no upgrade from 1" in refused.breaks[0].line
    new["shop"].promises.events["Placed"].upgrades = [1]
    found = compared(old, new)
    assert found.breaks == []
    assert [(each.first, each.then) for each in found.order] == [("mail", "shop")]


def test_another_key_or_number_of_partitions_breaks_the_order_for_every_consumer() -> None:
    old, new = fleet_of(event_of(PLAIN)), fleet_of(event_of(PLAIN))
    new["shop"].promises.events["Placed"].key = "note"
    new["shop"].promises.partitions = 16
    assert places(compared(old, new)) == [("shop.partitions", "mail"), ("shop.Placed", "mail")]


def test_a_renamed_event_is_refused_unless_it_says_what_it_was() -> None:
    old, new = fleet_of(event_of(PLAIN)), fleet_of(event_of(PLAIN))
    events = new["shop"].promises.events
    events["Ordered"] = msgspec.structs.replace(events.pop("Placed"), names=["Ordered"])
    assert places(compared(old, new)) == [("shop.Placed", "mail")]
    events["Ordered"].names = ["Placed", "Ordered"]
    assert compared(old, new).breaks == []


def test_the_name_that_is_sent_stays_the_first_one() -> None:
    old, new = fleet_of(event_of(PLAIN)), fleet_of(event_of(PLAIN))
    new["shop"].promises.events["Placed"].names = ["Ordered", "Placed"]
    assert places(compared(old, new)) == [("shop.Ordered", "mail")]


def test_a_class_of_a_consumers_own_is_read_from_the_name_that_is_sent() -> None:
    own = fleet_of(event_of(PLAIN), own=event_of(PLAIN))
    own["shop"].promises.events["Placed"].names = ["Placed", "Ordered"]
    own["mail"].uses.events["shop.Placed"]["reaction send"].names = ["Ordered"]
    found = compared(own, own)
    assert found.breaks[0].line == (
        "shop.Placed: is sent by this name, and is read as Ordered — it breaks mail (reaction send); "
        'type name="Placed" at its own class'
    )


def test_an_event_that_nobody_reads_is_given_up_in_words() -> None:
    old = {"shop": fleet_of(event_of(PLAIN))["shop"]}
    new: Contracts = {"shop": ServiceContract(promises=Promised(partitions=8))}
    found = compared(old, new)
    assert 'shop.forgotten(events=["Placed"])' in found.breaks[0].line
    new["shop"].promises.forgotten = {"events": ["Placed"]}
    assert compared(old, new).breaks == []


def sharing(schema: dict[str, object], use: ShareUse | None) -> Contracts:
    share = SharePromise(keys={"type": "string"}, names=["cards"], schema=schema, stored=schema)
    uses = Uses(shares={"shop/cards": use} if use else {})
    return {
        "shop": ServiceContract(promises=Promised(partitions=8, shares={"cards": share})),
        "page": ServiceContract(promises=Promised(partitions=8), uses=uses),
    }


def document(*fields: str) -> dict[str, object]:
    return {"type": "object", "properties": {name: {"type": "string"} for name in fields}, "required": [*fields]}


def test_a_share_keeps_what_its_borrowers_read() -> None:
    own = ShareUse(fields=["name"], own=document("name"))
    assert compared(sharing(document("name", "bio"), own), sharing(document("name"), own)).breaks == []
    found = compared(sharing(document("name", "bio"), own), sharing(document("bio"), own))
    assert places(found) == [("shop/cards.name", "page")]


def test_a_share_that_is_new_has_its_owner_deployed_first() -> None:
    use = ShareUse(fields="all")
    before = sharing(document("name"), None)
    before["shop"].promises.shares = {}
    found = compared(before, sharing(document("name"), use))
    assert [(each.first, each.then) for each in found.order] == [("shop", "page")]


def test_a_share_that_is_gone_breaks_its_borrowers() -> None:
    use = ShareUse(fields="all")
    now = sharing(document("name"), use)
    now["shop"].promises.shares = {}
    assert places(compared(sharing(document("name"), use), now)) == [("shop/cards", "page")]


def serving(*, command: CommandPromise | None = None, view: ViewPromise | None = None) -> Contracts:
    promised = Promised(partitions=8)
    promised.commands = {"Place": command} if command else {}
    promised.views = {"sales": view} if view else {}
    return {"shop": ServiceContract(promises=promised)}


def command(*needed: str, more: tuple[str, ...] = (), route: str = "POST /orders") -> CommandPromise:
    schema = {**document(*needed, *more), "required": [*needed], "additionalProperties": False}
    return CommandPromise(key="id", names=["Place"], schema=schema, route=route)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (command("id"), command("id", "note"), "shop.Place.note"),
        (command("id", "note"), command("id"), "shop.Place.note"),
        (command("id"), command("id", route="PUT /orders"), "shop.Place"),
    ],
)
def test_what_clients_send_is_taken(old: CommandPromise, new: CommandPromise, place: str) -> None:
    assert places(compared(serving(command=old), serving(command=new))) == [(place, "clients")]


def test_clients_may_send_more() -> None:
    old, new = command("id", "note"), command("id", more=("note", "gift"))
    assert compared(serving(command=old), serving(command=new)).breaks == []


def test_clients_find_what_they_found() -> None:
    old = ViewPromise(schema=document("id", "sum"), path="/sales/{id}", lists={"best": ListPromise(path="/best")})
    more = ViewPromise(schema=document("id", "sum", "mean"), path="/sales/{id}", lists=old.lists)
    assert compared(serving(view=old), serving(view=more)).breaks == []
    less = ViewPromise(schema=document("id"), path="/sales/{id}")
    assert places(compared(serving(view=old), serving(view=less))) == [
        ("shop/sales/best", "clients"),
        ("shop/sales.sum", "clients"),
    ]


def test_a_service_that_is_gone_from_the_settings_is_missed() -> None:
    assert places(compared(fleet_of(event_of({})), {"shop": fleet_of(event_of({}))["shop"]})) == [("mail", "")]
