"""Names against what is stored: a rename moves nothing, and what would be missed or done again does not start."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera import ChimeraError, DeclarationError, Reads, Service, SettingsError
from chimera.commands.execute import Task
from chimera.commands.handlers import direct_executor
from chimera.core.context import Context
from chimera.core.declared import declared_names, own_events
from chimera.core.names import CHECKPOINTS_TABLE, NAMES_TABLE
from chimera.core.tables import Progress, StoredName, framework_tables
from chimera.entities import table_name, table_of
from chimera.messages import Message, partition_of
from chimera.run.engines import check_owners
from chimera.run.settings import ServiceSettings, Settings
from chimera.run.write_head import WriteHead
from chimera.testing.engines import sqlite_engines
from chimera.testing.waiting import eventually, running
from chimera.upkeep.admission.naming import admit, misfits
from chimera.upkeep.status import rebuilds
from chimera.views.comparison import Comparison
from chimera.views.generations import change, read_generations
from chimera.views.rebuild import ask_for
from tests.builds import LOADED, SHOP, build, forget_all, hide_others_events
from tests.support import TIME, Engines, NoOwner, opened
from tests.views.test_rebuild import TIMING

_ids = itertools.count(1)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hide_others_events("shop", monkeypatch)
    yield
    forget_all()


@pytest.fixture
async def engines(tmp_path: Path) -> AsyncIterator[Engines]:
    engines = sqlite_engines(tmp_path)
    yield engines
    await engines.close()


async def started(service: Service, engines: Engines) -> Context:
    """A process of the shop as it starts."""
    context = await opened(service, engines, timing=TIMING)
    await admit(context)
    return context


async def order(context: Context, *order_ids: str) -> None:
    for each in order_ids:
        data = msgspec.json.encode({"order_id": each})
        message = Message(f"c{next(_ids)}", "shop", "shop.Place", each, TIME, data, partition_of(each, 2))
        [outcome] = await direct_executor(context).run([Task(message)])
        assert getattr(outcome, "state", "") == "done", outcome


async def mails(context: Context, table: str = "mails") -> dict[str, int]:
    async with context.store.snapshot() as session:
        return dict(await session.execute(f"SELECT order_id, count FROM {table}"))


async def mailed(context: Context, *order_ids: str) -> None:
    """Run a write head until these orders have got their mail; none has got two."""

    async def all_are() -> bool:
        return set(await mails(context)) >= set(order_ids)

    async with running(WriteHead(context, f"w{next(_ids)}").run()):
        await eventually(all_are)
        await caught_up(context)
    assert await mails(context) == dict.fromkeys(order_ids, 1)


async def caught_up(context: Context) -> None:
    async def all_is() -> bool:
        heads = await context.store.heads()
        async with context.store.snapshot() as session:
            rows = list(map(table_of(Progress).from_row, await session.find(table_of(Progress), {})))
        at = {(row.consumer, row.partition): row.number for row in rows}
        consumers = [f"{each.name}:shop" for each in context.service.reactions.values()]
        behind = [one for one in consumers for each, head in heads.items() if at.get((one, each), 0) < head]
        return not behind and await _views_are(context, heads)

    await eventually(all_is)


async def _views_are(context: Context, heads: Any) -> bool:
    for view in context.service.views:
        state = (await read_generations(context.views, [view]))[view]
        name = view if state.serving.number == 1 else f"{view}~{state.serving.number}"
        at = await context.views.checkpoints(name)
        if any(number > (at[("shop", p)].number if ("shop", p) in at else 0) for p, number in heads.items()):
            return False
    return True


async def refusal(service: Service, engines: Engines) -> str:
    """What the start is refused with: one line, and nothing is written."""
    context = await opened(service, engines, timing=TIMING)
    before = await written(engines)
    with pytest.raises((SettingsError, DeclarationError)) as refused:
        await admit(context)
    assert await written(engines) == before
    assert str(refused.value) in await misfits(context)
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def written(engines: Engines) -> list[tuple[object, ...]]:
    async with engines.store.snapshot() as session:
        return [
            *await session.execute(f"SELECT * FROM {NAMES_TABLE} ORDER BY kind, name"),
            *await session.execute(f"SELECT * FROM {CHECKPOINTS_TABLE} ORDER BY consumer, source, partition"),
        ]


async def with_a_past(engines: Engines) -> None:
    """The shop has run, with two orders."""
    context = await started(build(), engines)
    await order(context, "a", "b")
    await mailed(context, "a", "b")


async def test_a_fresh_service_needs_nothing_and_starts_again_without_a_write(engines: Engines) -> None:
    await started(build(), engines)
    before = await written(engines)
    context = await started(build(), engines)
    assert await written(engines) == before
    await order(context, "a")
    await mailed(await started(build(), engines), "a")


# Reactions


async def test_a_reaction_of_another_function_is_refused_with_what_to_type(engines: Engines) -> None:
    await with_a_past(engines)
    said = await refusal(build(("send_mail", "mail_customer")), engines)
    assert "build_" in said
    assert ".py:26: the reaction 'mail_customer' of shop is new" in said
    assert '@shop.on(Placed, renamed_from="send_mail")' in said
    assert 'start="now"' in said


@pytest.mark.parametrize("how", ['renamed_from="send_mail"', 'name="send_mail"', 'name="x", renamed_from="send_mail"'])
async def test_a_renamed_reaction_goes_on_where_it_was(engines: Engines, how: str) -> None:
    await with_a_past(engines)
    renamed = ("@shop.on(Placed)\nasync def send_mail", f"@shop.on(Placed, {how})\nasync def mail_customer")
    for _ in range(2):
        context = await started(build(renamed), engines)
        await order(context, f"c{_}")
        await mailed(context, "a", "b", *(f"c{each}" for each in range(_ + 1)))
    back = await started(build(), engines)
    await order(back, "d")
    await mailed(back, "a", "b", "c0", "c1", "d")


async def test_a_reaction_that_ran_under_both_names_is_refused_where_it_would_repeat(engines: Engines) -> None:
    """As after a rename under an earlier release."""
    await with_a_past(engines)
    twice = ("@shop.on(Placed)\nasync def send_mail", '@shop.on(Placed, start="now")\nasync def mail')
    context = await started(build(twice), engines)
    await order(context, "c")
    await mailed(context, "a", "b", "c")
    renamed = ("@shop.on(Placed)\nasync def send_mail", '@shop.on(Placed, renamed_from="send_mail")\nasync def mail')
    said = await refusal(build(renamed), engines)
    assert "the reaction 'send_mail' of shop has also run as 'mail', and has got further there" in said
    assert 'type: name="mail" without renamed_from=' in said


async def test_the_code_before_and_after_a_rename_share_one_checkpoint(engines: Engines) -> None:
    await with_a_past(engines)
    old = await started(build(), engines)
    renamed = ("@shop.on(Placed)\nasync def send_mail", '@shop.on(Placed, renamed_from="send_mail")\nasync def mail')
    new = await started(build(renamed, keep=True), engines)
    orders = [f"x{n}" for n in range(20)]
    async with running(WriteHead(old, "old").run()), running(WriteHead(new, "new").run()):
        for each in orders:
            await order(old, each)
        await caught_up(new)
    assert await mails(new) == dict.fromkeys(["a", "b", *orders], 1)


@pytest.mark.parametrize(("start", "first"), [("now", []), ("beginning", ["a", "b"])])
async def test_a_new_reaction_says_where_it_begins(engines: Engines, start: str, first: list[str]) -> None:
    await with_a_past(engines)
    new = SHOP + (
        '\n@shop.entity\nclass Bill(Entity, key="order_id", table="bills"):\n    order_id: str\n    count: int = 0\n'
        "@shop.on(Placed)\nasync def bill(event: Placed, tx: Transaction) -> None:\n"
        "    bill = await tx.load(Bill, event.order_id) or Bill(event.order_id)\n"
        "    tx.save(Bill(event.order_id, bill.count + 1))\n"
    )
    said = await refusal(build(text=new), engines)
    assert "the reaction 'bill' of shop is new, and shop has 2 events already: say where" in said
    begins = build(("@shop.on(Placed)\nasync def bill", f'@shop.on(Placed, start="{start}")\nasync def bill'), text=new)
    context = await started(begins, engines)
    await order(context, "c")
    async with running(WriteHead(context, "w").run()):
        await caught_up(context)
    assert await mails(context, "bills") == dict.fromkeys([*first, "c"], 1)
    after = await started(build(text=new), engines)
    assert await mails(after, "bills") == dict.fromkeys([*first, "c"], 1)


async def test_where_a_reaction_begins_in_another_services_past_is_read_from_the_log(engines: Engines) -> None:
    shop = await started(build(), engines)
    await order(shop, "a", "b")
    await mailed(shop, "a", "b")
    other = (
        'from chimera import Event, Service, Transaction\nshop = Service("mailer", partitions=1)\n'
        'class Placed(Event, source="shop", key="order_id"):\n    order_id: str\n'
        "@shop.on(Placed)\nasync def note(event: Placed, tx: Transaction) -> None: ...\n"
    )

    async def mailer(*changes: tuple[str, str]) -> Context:
        own = Engines(engines.log, sqlite_engines(Path(str(tmp))).store, engines.views)
        return await opened(build(*changes, text=other), own, timing=TIMING, owners={"shop": NoOwner()})

    import tempfile

    with tempfile.TemporaryDirectory() as tmp:
        context = await mailer()
        with pytest.raises(SettingsError, match="the reaction 'note' of mailer is new, and shop has 2 events already"):
            await admit(context)
        await context.store.close()
        context = await mailer(("@shop.on(Placed)", '@shop.on(Placed, start="now")'))
        await admit(context)
        async with context.store.snapshot() as session:
            rows = list(map(table_of(Progress).from_row, await session.find(table_of(Progress), {})))
        heads = await engines.store.heads()
        assert {row.partition: row.number for row in rows if row.consumer == "note:shop"} == heads
        await context.store.close()


def test_where_a_reaction_begins_is_one_of_two_words() -> None:
    with pytest.raises(DeclarationError, match="start is one of now, beginning, not 'soon'"):
        build(("@shop.on(Placed)", '@shop.on(Placed, start="soon")'))


# Events


async def test_an_event_of_another_class_is_refused_with_what_to_type(engines: Engines) -> None:
    await with_a_past(engines)
    said = await refusal(build(("Placed", "OrderPlaced")), engines)
    assert "the journal of shop has 2 events of type shop.Placed, which no class is read from" in said
    assert 'class OrderPlaced(Event, …, renamed_from="Placed")' in said
    assert 'shop.forgotten(events=["Placed"])' in said


async def test_a_renamed_event_is_read_under_either_name_and_sent_under_the_old_one(engines: Engines) -> None:
    await with_a_past(engines)
    context = await started(
        build(
            ("Placed", "OrderPlaced"),
            (
                'key="order_id"):\n    order_id: str\n\nclass Sale',
                'key="order_id", renamed_from="Placed"):\n    order_id: str\n\nclass Sale',
            ),
        ),
        engines,
    )
    await order(context, "c")
    await ask_for(context, "sale")
    await mailed(context, "a", "b", "c")
    assert dict(await engines.store.types()) == {"shop.Placed": 3}
    found = await context.views.get("sale~2", ["a", "b", "c"])
    assert sorted(found) == ["a", "b", "c"]


async def test_an_events_own_name_outlives_its_class(engines: Engines) -> None:
    named = ('class Placed(Event, source="shop"', 'class Placed(Event, name="placed", source="shop"')
    context = await started(build(named), engines)
    await order(context, "a")
    await mailed(context, "a")
    context = await started(build(named, ("Placed", "OrderPlaced")), engines)
    await order(context, "b")
    await mailed(context, "a", "b")
    assert dict(await engines.store.types()) == {"shop.placed": 2}


async def test_events_that_are_given_up_are_not_missed(engines: Engines) -> None:
    await with_a_past(engines)
    given_up = ("shop = Service", "shop = Service")
    text = SHOP.replace("Placed", "OrderPlaced") + '\nshop.forgotten(events=["Placed"])\n'
    await started(build(given_up, text=text), engines)


def test_two_classes_of_one_event_are_refused_where_they_stand(tmp_path: Path) -> None:
    twice = SHOP + '\nclass Again(Event, source="shop", key="order_id", name="Placed"):\n    order_id: str\n'
    service = build(text=twice)
    with pytest.raises(DeclarationError, match=r"Again is read from shop\.Placed, as Placed is"):
        declared_names(service)


def test_a_class_that_another_service_has_for_what_it_consumes_is_not_the_owners(engines: Engines) -> None:
    service = build()
    build(
        text='from chimera import Event, Service\nshop = Service("mailer")\n'
        'class Placed(Event, source="shop", key="order_id"):\n    order_id: str\n',
        keep=True,
    )
    assert [event.__module__ for event in own_events(service) if event.__name__ == "Placed"] == [LOADED[0]]


# Views, tables, commands, shares


async def test_a_view_that_is_gone_while_another_came_looks_like_a_rename(engines: Engines) -> None:
    await with_a_past(engines)
    said = await refusal(build(("Sale", "Deal")), engines)
    assert "the view 'deal' of shop is new, and 'sale' is gone" in said
    assert 'shop.view(Deal, …, renamed_from="sale")' in said
    context = await started(
        build(("Sale", "Deal"), ('key="order_id", path', 'key="order_id", renamed_from="sale", path')), engines
    )
    assert sorted(await context.views.get("sale", ["a", "b"])) == ["a", "b"]
    await started(build(("Sale", "Deal"), text=SHOP + '\nshop.forgotten(views=["sale"])\n'), engines)


async def test_a_table_that_is_gone_while_another_came_looks_like_a_rename(engines: Engines) -> None:
    await with_a_past(engines)
    said = await refusal(build(('table="mails"', 'table="letters"')), engines)
    assert "the table 'letters' of shop is new, and 'mails' is gone" in said
    context = await started(build(('table="mails"', 'table="letters", renamed_from="mails"')), engines)
    await order(context, "c")
    await mailed(context, "a", "b", "c")


async def test_an_empty_table_is_missed_by_nobody(engines: Engines) -> None:
    await started(build(), engines)
    await started(build(('table="mails"', 'table="letters"')), engines)


async def test_another_command_at_the_same_route_looks_like_a_rename(engines: Engines) -> None:
    await with_a_past(engines)
    said = await refusal(
        build(("command: Place", "command: Order"), ("class Place(Command", "class Order(Command")), engines
    )
    assert "the command 'Order' of shop is new, and 'Place' is gone" in said
    renamed = build(
        ("command: Place", "command: Order"),
        ('class Place(Command, key="order_id"', 'class Order(Command, key="order_id", renamed_from="Place"'),
    )
    context = await started(renamed, engines)
    await order(context, "c")
    await mailed(context, "a", "b", "c")


async def test_two_commands_of_one_name_are_refused_where_they_stand() -> None:
    twice = SHOP + (
        '\nclass Buy(Command, key="order_id", name="Place"):\n    order_id: str\n'
        '@shop.handle("POST /buys")\nasync def buy(command: Buy, tx: Transaction) -> None: ...\n'
    )
    with pytest.raises(DeclarationError, match=r"build_\d+.py:\d+: service shop handles a command of the same name"):
        build(text=twice)


def test_two_entities_of_one_table_are_refused_where_they_stand() -> None:
    twice = SHOP + '\n@shop.entity\nclass Letter(Entity, key="order_id", table="mails"):\n    order_id: str\n'
    with pytest.raises(DeclarationError, match="Letter has Mail's table 'mails'"):
        declared_names(build(text=twice))


def test_an_entity_is_where_it_was() -> None:
    service = build(("class Mail(", "class Letter("), ("Mail(", "Letter("), ("(Mail,", "(Letter,"))
    assert [table_name(each) for each in service.entities] == ["mails"]


# Builds side by side


async def test_what_is_gone_and_nothing_came_is_all_right_and_may_come_back(engines: Engines) -> None:
    await with_a_past(engines)
    cut = SHOP.split("@shop.on(Placed)")[0] + "sales" + SHOP.split("sales", 1)[1]
    context = await started(build(text=cut), engines)
    await order(context, "c")
    await mailed(await started(build(), engines), "a", "b", "c")


async def test_a_build_that_ran_before_starts_whatever_came_after_it(engines: Engines) -> None:
    await with_a_past(engines)
    later = SHOP.replace("tx.emit(Placed(command.order_id))", "tx.emit(Paid(command.order_id))").replace(
        "class Sale(", 'class Paid(Event, source="shop", key="order_id"):\n    order_id: str\n\nclass Sale('
    )
    context = await started(build(text=later), engines)
    await order(context, "c")
    old = await started(build(), engines)
    assert dict(await engines.store.types()) == {"shop.Placed": 2, "shop.Paid": 1}
    await order(old, "d")
    await mailed(old, "a", "b", "d")


async def test_an_entity_is_not_folded_over_an_event_that_nobody_knows(engines: Engines) -> None:
    """As old code would after a rollback: it would decide on half of what has happened."""
    text = SHOP + (
        "\nclass Told(Struct):\n    order_id: str\n    count: int = 0\n"
        'told = shop.event_sourced(Told, key="order_id")\n'
        "@told.on(Placed)\ndef tell(state: Told, event: Placed) -> None:\n    state.count += 1\n"
    )
    context = await started(build(text=text), engines)
    await order(context, "a")
    for changes, known in (((), True), ((("Placed", "OrderPlaced"),), False)):
        service = build(*changes, text=text)
        context = await opened(service, engines, timing=TIMING)
        document: Any = next(iter(service.folds))
        async with context.store.snapshot() as session:
            reads = Reads(service, session)
            if known:
                assert (await reads.load(document, "a")) == document("a", 1)
                continue
            with pytest.raises(ChimeraError, match=r"Told 'a' can't be folded: shop/.@1 is of type shop.Placed, which"):
                await reads.load(document, "a")


async def test_a_store_of_the_build_before_names_is_taken_over(engines: Engines) -> None:
    await with_a_past(engines)
    async with engines.store.transaction() as session:
        await session.execute(f"DROP TABLE {NAMES_TABLE}")
    assert "renamed_from" in await refusal(build(("send_mail", "mail_customer")), engines)
    assert "shop.Placed" in await refusal(build(("Placed", "OrderPlaced")), engines)
    assert "renamed_from" in await refusal(build(("Sale", "Deal")), engines)
    await mailed(await started(build(), engines), "a", "b")


async def test_two_processes_that_start_at_once_begin_once(engines: Engines) -> None:
    await with_a_past(engines)
    import asyncio

    begins = ("@shop.on(Placed)\nasync def send_mail", '@shop.on(Placed, start="now")\nasync def mail')
    service = build(begins)
    contexts = [await opened(service, engines, timing=TIMING) for _ in range(3)]
    await asyncio.gather(*map(admit, contexts))
    await order(contexts[0], "c")
    await mailed(contexts[0], "a", "b", "c")


# Rebuilds


async def held(context: Context) -> str:
    """Run a write head until the view is held; says why, as the status does."""

    async def is_held() -> bool:
        return [each["phase"] for each in await rebuilds(context)] == ["held"]

    async with running(WriteHead(context, f"w{next(_ids)}").run()):
        await eventually(is_held)
    [shown] = await rebuilds(context)
    assert (shown["view"], shown["serving"], shown["building"]) == ("sale", 1, 2)
    assert "chimera rebuild shop sale --force" in shown["why"]
    assert sorted(await context.views.get("sale", ["a", "b"])) == ["a", "b"]
    return str(shown["why"])


async def test_a_rebuild_that_would_lose_every_row_waits_for_a_person(engines: Engines) -> None:
    await with_a_past(engines)
    nobody = (
        ("    sale.count += 1", "    return DELETED"),
        ("event: Placed) -> None:\n    return", "event: Placed):\n    return"),
    )
    context = await started(build(("import Command", "import DELETED, Command"), *nobody), engines)
    assert "all 2 rows of generation 1 are missing in it;" in await held(context)
    await ask_for(context, "sale", force=True)

    async def serves() -> bool:
        return (await read_generations(context.views, ["sale"]))["sale"].serving.number == 2

    async with running(WriteHead(context, "w").run()):
        await eventually(serves)
    assert await rebuilds(context) == []


async def test_a_rebuild_that_passes_over_what_was_folded_waits_for_a_person(engines: Engines) -> None:
    """As where another service's event is called otherwise by mistake: here nobody asks whether names fit."""
    await with_a_past(engines)
    both = SHOP.replace(
        "class Sale(", 'class Paid(Event, source="shop", key="order_id"):\n    order_id: str\n\nclass Sale('
    )
    both += "\n@sales.on(Paid)\ndef paid(sale: Sale, event: Paid) -> None:\n    sale.count += 10\n"
    both = both.replace(
        "    tx.emit(Placed(command.order_id))",
        "    tx.emit(Placed(command.order_id)); tx.emit(Paid(command.order_id))",
    )
    context = await opened(build(text=both), engines, timing=TIMING)
    await order(context, "c")

    async def is_built() -> bool:
        return (await read_generations(context.views, ["sale"]))["sale"].serving.number == 2

    async with running(WriteHead(context, "w").run()):
        await eventually(is_built)
    context = await opened(build(("Paid", "OrderPaid"), text=both), engines, timing=TIMING)

    async def is_held() -> bool:
        return [each["phase"] for each in await rebuilds(context)] == ["held"]

    async with running(WriteHead(context, "w").run()):
        await eventually(is_held)
    [shown] = await rebuilds(context)
    assert "it passes over events of type shop.Paid, and 0 rows of generation 2 are missing in it, 1" in shown["why"]


async def test_a_view_that_loses_rows_with_events_that_are_given_up_waits_all_the_same(engines: Engines) -> None:
    await with_a_past(engines)
    text = SHOP.replace("Placed", "OrderPlaced") + '\nshop.forgotten(events=["Placed"])\n'
    context = await started(build(text=text), engines)
    await order(context, "a")
    assert "it passes over events of type shop.Placed, and 1 rows of generation 1 are missing" in await held(context)


async def test_a_rebuild_of_a_store_without_types_says_what_it_passes_over(engines: Engines) -> None:
    await with_a_past(engines)
    state = (await read_generations(engines.views, ["sale"]))["sale"]
    untold = msgspec.structs.replace(state.serving, types=())
    await change(engines.views, "sale", lambda now: msgspec.structs.replace(now, serving=untold))
    context = await opened(build(("Placed", "OrderPlaced")), engines, timing=TIMING)
    assert "all 2 rows of generation 1 are missing in it; it passes over events of type shop.Placed" in await held(
        context
    )


def test_a_report_of_the_build_before_reads_as_one() -> None:
    report = msgspec.json.decode(b'{"old_generation":1,"new_generation":2,"missing":3,"equal":1}', type=Comparison)
    assert report.lacks == ""


# Whose it is


async def test_the_store_of_another_service_is_refused(engines: Engines) -> None:
    await with_a_past(engines)
    said = await refusal(build(('Service("shop"', 'Service("store"'), ('source="shop"', 'source="store"')), engines)
    assert "Service(\"store\") has the store of 'shop'" in said
    assert 'call it Service("shop") again' in said


def test_a_source_that_nobody_owns_is_refused() -> None:
    service = build(
        (
            "@shop.on(Placed)\nasync def send_mail(event: Placed",
            "@shop.on(Elsewhere)\nasync def send_mail(event: Elsewhere",
        ),
        ("@shop.handle", 'class Elsewhere(Event, source="shup", key="order_id"):\n    order_id: str\n\n@shop.handle'),
    )
    settings = Settings(services={"shop": ServiceSettings(app="x:y"), "desk": ServiceSettings(app="x:y")})
    with pytest.raises(
        SettingsError, match=r"build_\d+.py:\d+: shop uses what 'shup' has, and no service is called so"
    ):
        check_owners(settings, service)


@pytest.mark.parametrize("name", ["", "a b", "a~2", "x:y", "share.cards", "a/b", "n" * 101])
def test_a_name_that_can_not_be_stored_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match="can't be the stored name of send_mail"):
        build(("@shop.on(Placed)", f'@shop.on(Placed, name="{name}")'))


def test_what_the_page_about_names_shows_is_so() -> None:
    page = (Path(__file__).parents[2] / "docs" / "names.md").read_text()
    declared = declared_names(build(text=page.split("```python\n")[1].split("```")[0]))
    names = {(each.kind, each.python): each.name for each in declared}
    assert names == {
        ("events", "OrderPlaced"): "Placed",
        ("tables", "Letter"): "mails",
        ("views", "Deal"): "sale",
        ("reactions", "mail_customer"): "send_mail",
    }


def test_the_table_of_names_is_one_of_chimeras_own() -> None:
    assert table_of(StoredName) in framework_tables()
