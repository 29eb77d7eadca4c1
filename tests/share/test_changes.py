"""What an owner shares, and what an owner answers. How changes get into the journal is in test_transaction.py."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from chimera import Reads, Unavailable
from chimera.core.aio.resources import Resources
from chimera.core.clock import Clock
from chimera.core.context import Context, SharedHeads
from chimera.core.names import share_type
from chimera.core.tables import Progress, SharedKey
from chimera.entities import table_of
from chimera.messages import Message
from chimera.parts import Share
from chimera.run.write_head import WriteHead
from chimera.service import Service
from chimera.share.changes import shared_documents
from chimera.share.digests import SharedChange
from chimera.share.owner import OwnStore
from chimera.signature import signature_of
from chimera.testing.waiting import eventually, running
from chimera.upkeep.drift.audits import AuditReport
from chimera.upkeep.drift.share_audit import audit_share, complete
from tests.support import (
    PARTITIONS,
    QUICK,
    Account,
    Balance,
    Bank,
    Card,
    Close,
    Deposit,
    Deposited,
    Engines,
    NoOwner,
    Open,
    Withdraw,
    all_of,
    balances,
    direct,
    journal_of,
    opened,
)


async def test_an_owner_answers_with_the_documents_that_there_are(context: Context) -> None:
    await direct(context, Deposit("a", 5), Deposit("b", 6), Deposit("c", 7))
    await direct(context, Close("c"))
    found = await OwnStore(context.service, context.store, context.clock).fetch("cards", ["b", "nobody", "a", "c"])
    assert {key: msgspec.json.decode(data, type=Card).balance for key, data in found.documents.items()} == {
        "a": 5,
        "b": 6,
    }


async def test_a_copy_made_of_the_journals_changes_is_what_the_owner_answers(context: Context) -> None:
    await direct(context, *(Deposit(f"k{n % 7}", n + 1) for n in range(40)))
    await direct(context, Close("k3"), Deposit("k4", 1))
    copy: dict[str, bytes] = {}
    for event in await journal_of(context.store):
        if event.type == share_type("accounts", "cards"):
            change = msgspec.json.decode(event.data, type=SharedChange)
            if change.removed:
                copy.pop(change.key, None)
            else:
                copy[change.key] = bytes(change.document)
    found = await OwnStore(context.service, context.store, context.clock).fetch("cards", [f"k{n}" for n in range(7)])
    assert copy == found.documents


async def test_heads_are_asked_for_once_however_many_want_them() -> None:
    owner = NoOwner(ValueError("as told"))
    heads = SharedHeads(owner, Clock(), every_s=60.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="as told"):
            await heads()
    assert owner.calls == 1


async def test_heads_are_asked_for_again_after_a_while() -> None:
    owner = NoOwner(ValueError("as told"))
    heads = SharedHeads(owner, Clock(), every_s=0.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="as told"):
            await heads()
    assert owner.calls == 3


def declared(every_key: bool = True) -> tuple[Bank, Share]:
    """A bank that shares its balances, too, though only deposits are said to change them."""
    bank = Bank()

    async def keys(tx: Reads) -> list[str]:
        return [account.account_id for account in await tx.find(Account)]

    @bank.service.share("sums", key="account_id", changed_by=[Deposited], keys=keys if every_key else None)
    async def sums(account_ids: list[str], tx: Reads) -> dict[str, Balance]:
        found = await tx.find(Account, account_id=account_ids)
        return {each.account_id: Balance(each.account_id, each.balance) for each in found}

    return bank, bank.service.shares["sums"]


async def emitted(context: Context) -> dict[str, tuple[int, SharedChange]]:
    """The last change of each key of the sums, and its number; what a copy would end with."""
    last: dict[str, tuple[int, SharedChange]] = {}
    for partition in range(PARTITIONS):
        for event in await context.store.journal(partition, 0, 100_000):
            if event.type == share_type("accounts", "sums"):
                last[event.key] = event.number, msgspec.json.decode(event.data, type=SharedChange)
    return last


async def rows_are_right(context: Context) -> bool:
    rows = {row.key: (row.number, row.digest) for row in await all_of(context.store, SharedKey) if row.share == "sums"}
    return rows == {key: (number, change.digest) for key, (number, change) in (await emitted(context)).items()}


async def is_right(context: Context) -> bool:
    found = {
        k: msgspec.json.decode(c.document)["balance"] for k, (_, c) in (await emitted(context)).items() if c.digest
    }
    return found == await balances(context)


async def with_data(engines: Engines, bank: Bank | None = None, *, accounts: int = 30) -> None:
    """A store from before the share, or from before it kept what it had shared."""
    context = await opened((bank or Bank()).service, engines)
    await direct(context, *(Deposit(f"k{n}", n + 1) for n in range(accounts)))
    async with context.store.transaction() as session:
        table = table_of(SharedKey)
        await session.delete(table, [table.key_of(row) for row in await session.find(table, {})])


async def test_rows_of_an_older_journal_are_made_from_it_once(engines: Engines) -> None:
    bank, share = declared()
    await with_data(engines, bank)
    context = await opened(bank.service, engines)
    await direct(context, Deposit("k1", 1), Close("k2"))
    with pytest.raises(Unavailable, match="not looked through partition 0"):
        await audit_share(context, share)
    for each in bank.service.shares.values():
        await asyncio.gather(*(complete(context, each, range(PARTITIONS)) for _ in range(2)))
    assert await rows_are_right(context)
    assert len(await all_of(context.store, SharedKey)) == 60
    before = await all_of(context.store, SharedKey)
    await complete(context, share, range(PARTITIONS))
    assert await all_of(context.store, SharedKey) == before


async def test_a_change_while_the_journal_is_looked_through_is_not_undone(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, share = declared()
    await with_data(engines, bank)
    context = await opened(bank.service, engines)
    journal = context.store.journal

    async def late(partition: int, after: int, limit: int) -> Sequence[Message]:
        page = await journal(partition, after, limit)
        if not page:
            await direct(context, *(Deposit(f"k{n}", 1) for n in range(30)))
        return page

    with monkeypatch.context() as patched:
        patched.setattr(context.store, "journal", late)
        await complete(context, share, range(PARTITIONS))
    assert await rows_are_right(context)


async def test_a_share_added_to_a_service_with_data_is_announced_once(engines: Engines) -> None:
    await with_data(engines)
    bank, share = declared()
    context = await opened(bank.service, engines, timing=msgspec.structs.replace(QUICK, audit_s=0.0))
    async with running(WriteHead(context, "a").run()):
        await eventually(lambda: is_right(context))
        head = sum((await context.store.heads()).values())
    async with running(WriteHead(context, "b").run()):
        await eventually(lambda: marks(context, "announced.sums"))
    assert sum((await context.store.heads()).values()) == head
    assert await rows_are_right(context)
    assert figures(await audit_share(context, share)) == (30, 0, 0, 0, 0)


async def marks(context: Context, name: str) -> bool:
    return [row.consumer for row in await all_of(context.store, Progress)].count(name) == PARTITIONS


def figures(report: AuditReport) -> tuple[int, int, int, int, int]:
    return report.checked, report.changed, report.missing, report.invented, report.repaired


async def test_a_change_that_no_event_announced_is_found_emitted_and_counted(
    engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    bank, share = declared()
    context = await opened(bank.service, engines)
    await complete(context, share, range(PARTITIONS))
    await direct(context, *(Deposit(f"k{n}", 5) for n in range(6)))
    await direct(context, Open("new"), Close("k1"), Withdraw("k2", 1))
    assert not await is_right(context)
    assert figures(await audit_share(context, share, repair=False)) == (7, 1, 1, 1, 0)
    assert not await is_right(context)
    report = await audit_share(context, share)
    assert (figures(report), report.keys, report.mode) == ((7, 1, 1, 1, 3), ["k1", "k2", "new"], "owner")
    assert await is_right(context)
    assert figures(await audit_share(context, share)) == (7, 0, 0, 0, 0)
    counted = context.metrics.exposition().decode()
    for kind in ("changed", "missing", "invented"):
        assert f'chimera_share_announced_total{{kind="{kind}",service="accounts",share="sums"}} 1.0' in counted
    assert "no event in its changed_by had announced: 'k2'" in caplog.text


async def test_a_share_without_keys_is_audited_for_the_keys_that_it_has_emitted(engines: Engines) -> None:
    bank, share = declared(every_key=False)
    context = await opened(bank.service, engines)
    await complete(context, share, range(PARTITIONS))
    await direct(context, Deposit("a", 5), Open("b"))
    await direct(context, Withdraw("a", 1))
    assert figures(await audit_share(context, share)) == (1, 1, 0, 0, 1)


async def test_audits_and_changes_at_the_same_time_end_in_what_is_true(engines: Engines) -> None:
    await with_data(engines)
    bank, share = declared()
    context = await opened(bank.service, engines)
    await complete(context, share, range(PARTITIONS))

    async def work() -> None:
        for n in range(20):
            await direct(context, Deposit(f"k{n}", 1), Withdraw(f"k{n}", 1) if n % 2 else Close(f"k{n + 5}"))

    await asyncio.gather(work(), *(audit_share(context, share) for _ in range(3)))
    await audit_share(context, share)
    assert await is_right(context)
    assert await rows_are_right(context)


async def test_the_write_head_audits_what_it_shares_now_and_then(engines: Engines) -> None:
    bank, _ = declared()
    context = await opened(bank.service, engines, timing=msgspec.structs.replace(QUICK, audit_s=0.01))
    async with running(WriteHead(context, "a").run()):
        await direct(context, Deposit("a", 5))
        for n in range(3):
            await direct(context, Open(f"b{n}"), Withdraw("a", 1))
            await eventually(lambda: is_right(context))


async def test_equal_documents_are_equal_bytes_whatever_order_their_sets_are_in() -> None:
    class Tags(msgspec.Struct):
        tags: set[str]

    words = [f"word-{n}" for n in range(50)]

    async def tags(keys: list[str], tx: Reads) -> dict[str, Tags]:
        return {"a": Tags(set(words)), "b": Tags({*words[25:], *words[:25]})}

    share = Share("tags", Tags, {}, None, (), signature_of(tags, 2))
    found = await shared_documents(Resources(Service("tags")).calling, share, None, ["a", "b"])  # type: ignore[arg-type]
    assert found["a"] == found["b"] == msgspec.json.encode({"tags": sorted(words)})
