"""Effects happen once, all of them or none, and what fails is told or parked."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chimera import Rejected, Transaction, Unavailable
from chimera.adapters.sqlite import SQLiteStore
from chimera.commands.execute import Executor, Task, ToldToCaller
from chimera.commands.handlers import commands_executor, direct_executor, parking_of
from chimera.commands.inbox import Outcome, read_outcomes
from chimera.core.context import Context
from chimera.core.names import COMMANDS
from chimera.core.tables import Handled
from chimera.entities import Key, Row, Table, table_of
from chimera.errors import Conflict
from chimera.journal.checkpoints import Moved
from chimera.messages import Message
from chimera.ports import Checkpoint, Move, Store, WriteSession
from chimera.testing.broken import WrappedSession, WrappedStore
from chimera.testing.fuse import Fuse
from tests.support import (
    PARTITIONS,
    Account,
    Bank,
    Close,
    Deposit,
    Deposited,
    Engines,
    Ledger,
    Open,
    Thanks,
    Withdraw,
    accept,
    balances,
    consume,
    direct,
    handled,
    journal_of,
    make_context,
    message_of,
    opened,
    parked_of,
    reaction_of,
    redrive,
    rows,
)

TOPIC = "accounts.commands"


async def outcome_of(context: Context, message: Message) -> Outcome:
    async with context.store.snapshot() as session:
        return (await read_outcomes(session, [message.id]))[message.id]


# Positions (invariant 1)


async def test_positions_are_gapless_under_concurrent_executors_with_refusals_failures_and_rollbacks(
    bank: Bank, engines: Engines, tmp_path: Path
) -> None:
    others = engines
    if isinstance(engines.store, SQLiteStore):
        others = engines._replace(store=SQLiteStore(tmp_path / "store.db"))
    contexts = [await opened(bank.service, engines), await opened(bank.service, others)]
    bank.failing["bad"] = ValueError("as told")
    seen: dict[int, list[int]] = {partition: [] for partition in range(PARTITIONS)}
    done = asyncio.Event()

    async def look() -> None:
        while not done.is_set():
            for partition, numbers in seen.items():
                page = await contexts[0].store.journal(partition, len(numbers), 1000)
                numbers += [event.number for event in page]
            await asyncio.sleep(0)

    async def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            keys = [chance.choice(["a", "b", "c", "d", "e", "bad"]) for _ in range(chance.randint(1, 4))]
            kinds = [chance.choice([Deposit, Deposit, Withdraw, Open]) for _ in keys]
            commands = [Open(key) if kind is Open else kind(key, 2) for kind, key in zip(kinds, keys, strict=True)]
            await direct(chance.choice(contexts), *commands)
            await asyncio.sleep(0)

    looking = asyncio.ensure_future(look())
    await asyncio.gather(*map(work, range(6)))
    done.set()
    await looking
    events = await journal_of(engines.store)
    assert len(events) > 50
    for numbers in seen.values():
        assert numbers == list(range(1, len(numbers) + 1))
    assert not any(event.key == "bad" for event in events)
    if others is not engines:
        await others.store.close()


async def test_each_result_carries_the_position_at_which_its_event_can_be_found(context: Context) -> None:
    outcomes = await direct(context, Deposit("a", 1), Deposit("b", 2), Deposit("a", 3))
    events = {str(event.position): event for event in await journal_of(context.store)}
    for outcome, key in zip(outcomes, "aba", strict=True):
        assert key in {events[position].key for position in outcome.positions.split(",")}


async def test_nothing_is_numbered_when_the_transaction_is_rolled_back(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    await direct(context, Deposit("a", 1))
    assert await journal_of(context.store) == []


# Queries


class CountedStore(WrappedStore):
    """Notes which keys of accounts each query asks for."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[list[Key]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        async with super().transaction() as session:
            yield CountedSession(session, self.asked)


class CountedSession(WrappedSession):
    def __init__(self, session: WriteSession, asked: list[list[Key]]) -> None:
        super().__init__(session)
        self._asked = asked

    async def load(self, table: Table, keys: Sequence[Key]) -> Sequence[Row]:
        if table is table_of(Account):
            self._asked.append(sorted(keys))
        return await super().load(table, keys)


async def test_what_the_handlers_of_a_batch_load_is_one_query_once_it_is_known_what(
    bank: Bank, engines: Engines
) -> None:
    await opened(bank.service, engines)
    store = CountedStore(engines.store)
    context = make_context(bank.service, engines._replace(store=store))
    executor = direct_executor(context)
    await direct(context, Deposit("a", 1), Deposit("b", 1), executor=executor)
    assert store.asked == [[("a",)], [("b",)]]
    store.asked.clear()
    await direct(context, Deposit("a", 2), Deposit("c", 1), Deposit("b", 2), Deposit("a", 3), executor=executor)
    assert store.asked == [[("a",), ("b",), ("c",)]]
    assert await balances(context) == {"a": 6, "b": 3, "c": 1}


# Exactly once (invariants 3 and 4)


async def test_the_same_id_twice_in_a_batch_has_one_effect_and_the_same_outcome(context: Context) -> None:
    first, second = await direct(context, message_of(Deposit("a", 5), "same"), message_of(Deposit("a", 5), "same"))
    assert await balances(context) == {"a": 5}
    assert second.duplicate
    assert not first.duplicate
    assert second._replace(duplicate=False) == first
    assert first.positions


async def test_the_same_id_in_another_batch_has_one_effect_and_the_same_outcome(context: Context) -> None:
    [first] = await direct(context, message_of(Deposit("a", 5), "same"))
    [second] = await direct(context, message_of(Deposit("a", 5), "same"))
    assert await balances(context) == {"a": 5}
    assert second == first._replace(duplicate=True)


async def test_the_same_id_through_the_log_and_directly_has_one_effect_and_the_same_outcome(context: Context) -> None:
    message = message_of(Deposit("a", 5), "same")
    await accept(context, message, message)
    [first, again] = await consume(context)
    [second] = await direct(context, message)
    await accept(context, message)
    [third] = await consume(context)
    assert await balances(context) == {"a": 5}
    assert again == second == third == first._replace(duplicate=True)


async def test_a_refusal_is_told_again_to_who_asks_again_with_the_same_id(context: Context) -> None:
    message = message_of(Withdraw("a", 5), "same")
    [first] = await direct(context, message)
    await direct(context, Deposit("a", 100))
    [second] = await direct(context, message)
    assert (first.state, second.state, second.reason) == ("rejected", "rejected", "overdrawn")
    assert await balances(context) == {"a": 100}


async def test_what_was_parked_is_not_run_again_by_a_second_delivery(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    message = message_of(Deposit("a", 5), "same")
    await accept(context, message)
    await consume(context)
    bank.failing.clear()
    [direct_outcome] = await direct(context, message)
    await accept(context, message)
    [again] = await consume(context)
    assert direct_outcome.duplicate
    assert again.duplicate
    assert await balances(context) == {}


async def test_two_executors_that_both_believe_to_be_at_the_checkpoint_have_one_effect(
    context: Context, bank: Bank
) -> None:
    other = make_context(bank.service, Engines(context.log, context.store, context.views))
    messages = [message_of(Deposit(key, 1)) for key in "abcd"]
    tasks = [Task(message, 1, 1) for message in messages if message.partition == messages[0].partition]
    tasks = [task._replace(number=index, offset=index) for index, task in enumerate(tasks, 1)]
    moves = [Move(TOPIC, messages[0].partition, 0, Checkpoint(len(tasks), len(tasks)))]
    results = await asyncio.gather(
        commands_executor(context).run(tasks, moves), commands_executor(other).run(tasks, moves), return_exceptions=True
    )
    assert sorted(isinstance(result, Moved) for result in results) == [False, True]
    assert [event.type for event in await journal_of(context.store)].count("accounts.Deposited") == len(tasks)


def keyed(command: Deposit | Withdraw, key: str = "k") -> Message:
    """A command with an Idempotency-Key, as the read head would put it on its way."""
    return message_of(command, str(uuid.uuid5(uuid.NAMESPACE_OID, key)))


async def test_a_command_id_with_another_payload_leaves_the_first_ones_outcome_and_effect(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    first, other = keyed(Deposit("a", 5)), keyed(Deposit("a", 7))
    spaced = msgspec.structs.replace(first, data=b'{ "amount": 5, "account_id": "a" }')
    done, reused, again = await direct(context, first, other, spaced)
    assert (done.state, reused.state, again) == ("done", "reused", done._replace(duplicate=True))
    assert (reused.positions, reused.body) == ("", b"")
    [reused], [again] = await direct(context, other), await direct(context, spaced)
    assert (reused.state, again.state, again.duplicate) == ("reused", "done", True)
    await accept(context, other)
    [reused] = await consume(context)
    assert reused.state == "reused"
    assert await balances(context) == {"a": 5}
    assert (await outcome_of(context, first)).positions == done.positions
    assert caplog.text.count("Idempotency-Key was reused") == 3


async def test_what_is_set_aside_keeps_its_payloads_fingerprint(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    first, other = keyed(Withdraw("a", -5)), keyed(Withdraw("a", -7))
    await accept(context, first)
    await consume(context)
    for _ in range(3):
        again = await direct(context, other, first)
        assert [(each.state == "reused", each.duplicate) for each in again] == [(True, False), (False, True)]
        await redrive(context, "a")
    bank.failing.clear()
    await redrive(context, "a", by_hand=True)
    assert [each.state for each in await direct(context, other, first)] == ["reused", "done"]
    assert await balances(context) == {"a": 5}


async def test_an_outcome_without_a_fingerprint_stands_for_every_payload_of_its_id(context: Context) -> None:
    """As those of an older version, and those of ids that no Idempotency-Key was made into."""
    first = keyed(Deposit("a", 5))
    await direct(context, first)
    table = table_of(Handled)
    async with context.store.transaction() as session:
        [row] = map(table.from_row, await session.load(table, [(first.id,)]))
        await session.save(table, [table.to_row(msgspec.structs.replace(row, fingerprint=None))])
    [again] = await direct(context, keyed(Deposit("a", 7)))
    assert (again.state, again.duplicate) == ("done", True)
    await direct(context, message_of(Deposit("b", 5), "mine"))
    [again] = await direct(context, message_of(Deposit("b", 7), "mine"))
    assert (again.state, again.duplicate) == ("done", True)
    assert await balances(context) == {"a": 5, "b": 5}


async def test_a_stale_executor_can_do_no_harm_even_when_nothing_is_in_the_inbox(context: Context) -> None:
    executor, _ = reaction_of(context, "thank")
    await direct(context, Deposit("a", 1))
    [event, _] = await journal_of(context.store)
    task, move = Task(event, 1), Move("accounts", event.partition, 0, Checkpoint(1))
    await executor.run([task], [move])
    with pytest.raises(Moved):
        await executor.run([task], [move])
    assert (await rows(context.store, Thanks))["a"].count == 1


async def test_checkpoint_inbox_state_and_journal_move_together_or_not_at_all(bank: Bank, engines: Engines) -> None:
    """A process that ends at any of its calls, before or after the call's effect, leaves all or nothing."""
    await opened(bank.service, engines)
    for turn in range(1, 40):
        fuse = Fuse((turn + 1) // 2, late=turn % 2 == 0)
        context = make_context(bank.service, fuse.wrap(engines))
        message = message_of(Deposit(f"k{turn}", 1))
        await engines.log.append(context.commands_topic, [message])
        with suppress(Unavailable):
            await consume(context)
        healthy = make_context(bank.service, engines)
        effect = message.key in await balances(healthy)
        events = [event for event in await journal_of(engines.store) if event.key == message.key]
        inbox = await rows(engines.store, Handled)
        assert effect == bool(events) == (message.id in inbox)
        await consume(healthy)
        assert (await balances(healthy))[message.key] == 1
        if fuse.calls < fuse.at:
            break
    else:
        pytest.fail("more calls than expected")
    assert turn > 6


async def test_a_move_without_tasks_is_kept(context: Context) -> None:
    await commands_executor(context).run([], [Move(TOPIC, 0, 0, Checkpoint(7, 7))])
    assert (await commands_executor(context).checkpoints(TOPIC, [0, 1])) == {0: Checkpoint(7, 7), 1: Checkpoint()}


async def test_when_some_messages_fail_the_checkpoint_still_gets_to_the_end_of_the_batch(
    context: Context, bank: Bank
) -> None:
    bank.failing["bad"] = ValueError("as told")
    keys = ["a", "bad", "b", "c", "bad", "d", "e", "bad", "f"]
    await accept(context, *(Deposit(key, 1) for key in keys))
    await consume(context)
    at = await commands_executor(context).checkpoints(TOPIC, range(PARTITIONS))
    assert {p: c.number for p, c in at.items()} == dict(await context.log.ends(TOPIC))


async def test_who_waits_for_commits_is_woken(context: Context) -> None:
    waiting = asyncio.ensure_future(context.committed.wait(5.0))
    await asyncio.sleep(0)
    await direct(context, Deposit("a", 1))
    assert await waiting


# Refusals and failures (invariant 5)


@pytest.mark.parametrize("refused", [Open("a"), Withdraw("a", 1000)], ids=["before saving", "after saving and finding"])
async def test_a_refusal_is_recorded_and_its_changes_are_gone_while_its_neighbours_commit(
    context: Context, refused: Open | Withdraw
) -> None:
    await direct(context, Open("a"), Deposit("a", 1))
    before = len(await journal_of(context.store))
    messages = await accept(context, Deposit("b", 1), refused, Deposit("a", 2), Deposit("c", 3))
    outcomes = {m.id: await outcome_of(context, m) for m in messages} if await consume(context) else {}
    assert sorted(outcome.state for outcome in outcomes.values()) == ["done", "done", "done", "rejected"]
    rejected = outcomes[messages[1].id]
    assert rejected.reason in ("account_exists", "overdrawn")
    assert rejected.detail
    assert rejected.status == 409
    assert await balances(context) == {"a": 3, "b": 1, "c": 3}
    own = [event for event in await journal_of(context.store) if not event.type.startswith("accounts.share.")]
    shares = [event for event in await journal_of(context.store) if event.type.startswith("accounts.share.")]
    assert len(own) == 5
    assert len(own) + len(shares) > before
    assert await parked_of(context) == []


@pytest.mark.parametrize("engines", ["sqlite"], indirect=True)
async def test_a_refusal_after_sql_undoes_the_sql(engines: Engines, bank: Bank) -> None:
    context = await opened(bank.service, engines)
    await direct(context, Deposit("a", 1), Deposit("b", 1))

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        await tx.execute("UPDATE accounts SET balance = balance + 100 WHERE account_id = ?", messages[0].key)
        if messages[0].key == "a":
            raise Rejected("no")

    executor = Executor(context, "sql", invoke, parking_of(context, COMMANDS), inbox=True)
    outcomes = handled(await executor.run([Task(message_of(Deposit(key, 1))) for key in ("a", "b")]))
    assert [outcome.state for outcome in outcomes] == ["rejected", "done"]
    assert await balances(context) == {"a": 1, "b": 101}


async def test_a_failure_of_one_direct_command_is_told_to_its_caller_only(context: Context, bank: Bank) -> None:
    bank.failing["bad"] = ValueError("as told")
    outcomes = await direct(context, Deposit("a", 1), Deposit("bad", 1), Deposit("b", 1))
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "done"]
    assert await balances(context) == {"a": 1, "b": 1}
    bank.failing.clear()


async def test_a_direct_command_that_failed_may_be_tried_again_with_the_same_id(context: Context, bank: Bank) -> None:
    bank.failing["a"] = ValueError("as told")
    message = message_of(Deposit("a", 1), "same")
    [failed] = await direct(context, message)
    bank.failing.clear()
    [done] = await direct(context, message)
    assert (failed.state, done.state) == ("failed", "done")


async def test_what_was_done_before_the_store_went_away_is_told_as_done(engines: Engines, bank: Bank) -> None:
    """Direct commands redone one by one: those that committed must not be answered as if nothing was kept."""
    await opened(bank.service, engines)
    bank.failing["bad"] = ValueError("as told")
    lost = 0
    for at in range(1, 60):
        fuse = Fuse(at)
        context = make_context(bank.service, fuse.wrap(engines))
        commands = [Deposit(f"a{at}", 1), Deposit("bad", 1), Deposit(f"b{at}", 1)]
        try:
            outcomes = await direct_executor(context).run([Task(message_of(command)) for command in commands])
        except Unavailable as error:
            outcomes = [error] * 3
        kept = await balances(make_context(bank.service, engines))
        for command, outcome in zip(commands, outcomes, strict=True):
            told = isinstance(outcome, Outcome) and outcome.state == "done"
            lost += told != (command.account_id in kept)
        if not fuse.blown.is_set():
            break
    assert fuse.calls > 10
    assert lost == 0


async def test_a_handler_may_not_swallow_a_conflict_it_is_run_again(context: Context, bank: Bank) -> None:
    tries: list[int] = []

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        tries.append(1)
        tx.emit(Deposited(messages[0].key, 1))
        if len(tries) < 3:
            raise Conflict("somebody was faster")

    executor = Executor(context, "conflicts", invoke, parking_of(context, COMMANDS), inbox=True)
    [outcome] = handled(await executor.run([Task(message_of(Deposit("a", 1)))]))
    assert (outcome.state, len(tries)) == ("done", 3)
    assert [event.type for event in await journal_of(context.store)].count("accounts.Deposited") == 1


async def test_a_conflict_that_never_ends_is_set_aside_like_any_failure(context: Context) -> None:
    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        raise Conflict("always")

    executor = Executor(context, "conflicts", invoke, parking_of(context, COMMANDS), inbox=True)
    [outcome] = handled(await executor.run([Task(message_of(Deposit("a", 1)), 1)]))
    assert outcome.state == "retrying"
    assert "always" in outcome.detail


async def test_a_conflict_that_never_ends_is_told_to_who_waits_as_something_to_try_again(context: Context) -> None:
    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        raise Conflict("always")

    executor = Executor(context, "conflicts", invoke, ToldToCaller(), inbox=True)
    with pytest.raises(Unavailable, match="always"):
        await executor.run([Task(message_of(Deposit("a", 1)))])


async def test_an_answer_that_is_not_json_is_a_failure_of_its_command_only(context: Context) -> None:
    async def invoke(messages: Sequence[Message], tx: Transaction) -> Any:
        tx.save(Account(messages[0].key, 1))
        return object() if messages[0].key == "a" else None

    executor = Executor(context, "answers", invoke, parking_of(context, COMMANDS), inbox=True)
    outcomes = handled(await executor.run([Task(message_of(Deposit(key, 1)), n) for n, key in enumerate("ab", 1)]))
    assert [outcome.state for outcome in outcomes] == ["parked", "done"]
    assert await balances(context) == {"b": 1}


@pytest.mark.parametrize("text", ["\ud800", "nul \0 inside", "x" * 100_000])
@pytest.mark.parametrize("kind", [ValueError, Rejected])
async def test_an_error_whose_text_no_database_takes_does_not_block_the_others(
    context: Context, text: str, kind: type[Exception]
) -> None:
    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        tx.save(Account(messages[0].key, 1))
        if messages[0].key == "a":
            raise kind(text)

    executor = Executor(context, "texts", invoke, parking_of(context, COMMANDS), inbox=True)
    outcomes = handled(await executor.run([Task(message_of(Deposit(key, 1)), n) for n, key in enumerate("ab", 1)]))
    assert [outcome.state for outcome in outcomes] == ["rejected" if kind is Rejected else "retrying", "done"]
    assert await balances(context) == {"b": 1}


async def test_a_cancellation_that_a_handler_raises_itself_is_a_failure_of_its_message(context: Context) -> None:
    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        tx.save(Account(messages[0].key, 1))
        if messages[0].key == "a":
            raise asyncio.CancelledError

    executor = Executor(context, "cancelled", invoke, parking_of(context, COMMANDS), inbox=True)
    outcomes = handled(await executor.run([Task(message_of(Deposit(key, 1)), n) for n, key in enumerate("ab", 1)]))
    assert [outcome.state for outcome in outcomes] == ["retrying", "done"]


async def test_cancelling_the_executor_ends_it_and_keeps_nothing(context: Context) -> None:
    started = asyncio.Event()

    async def invoke(messages: Sequence[Message], tx: Transaction) -> None:
        tx.save(Account(messages[0].key, 1))
        started.set()
        await asyncio.sleep(60)

    executor = Executor(context, "cancelled", invoke, parking_of(context, COMMANDS), inbox=True)
    running = asyncio.ensure_future(executor.run([Task(message_of(Deposit("a", 1)), 1)]))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await balances(context) == {}
    assert await parked_of(context) == []


async def test_a_late_refusal_does_not_overwrite_what_became_of_the_command_meanwhile(
    bank: Bank, engines: Engines
) -> None:
    """Two requests with one id: one is refused and rolled back, the other gets in between and succeeds."""
    context = await opened(bank.service, engines)
    message = message_of(Withdraw("a", 5), "same")
    executor = direct_executor(context)
    settle = executor._settle_failure

    async def delayed(task: Task, moves: Sequence[Move], error: Exception) -> Outcome:
        await direct(make_context(bank.service, engines), Deposit("a", 5), message)
        return await settle(task, moves, error)

    executor._settle_failure = delayed  # type: ignore[method-assign]
    [outcome] = await direct(context, message, executor=executor)
    assert await balances(context) == {"a": 0}
    assert outcome.state == (await outcome_of(context, message)).state == "done"


# Reactions


async def react(context: Context, name: str, size: int = 500) -> list[Outcome]:
    executor, _ = reaction_of(context, name)
    wanted = {event.wire_type() for event in context.service.reactions[name].events}
    outcomes: list[Outcome] = []
    for partition, checkpoint in (await executor.checkpoints("accounts", range(PARTITIONS))).items():
        at = checkpoint.number
        while page := await context.store.journal(partition, at, size):
            tasks = [Task(event, event.number) for event in page if event.type in wanted]
            moves = [Move("accounts", partition, at, Checkpoint(page[-1].number))]
            outcomes += handled(await executor.run(tasks, moves))
            at = page[-1].number
    return outcomes


async def test_reactions_and_batch_projections_take_every_event_once(context: Context) -> None:
    await direct(context, *(Deposit(key, amount) for amount in (1, 2, 3) for key in "abcd"), Withdraw("a", 1))
    for _ in range(2):
        await react(context, "thank", size=3)
        await react(context, "enter", size=3)
    thanks, ledger = [await rows(context.store, entity) for entity in (Thanks, Ledger)]
    assert {key: (row.count, row.total) for key, row in thanks.items()} == dict.fromkeys("abcd", (3, 6))
    assert ledger["a"].count == 4


async def test_a_failing_event_of_a_batch_is_set_aside_and_the_others_go_on(context: Context, bank: Bank) -> None:
    bank.failing_batches["a"] = ValueError("as told")
    await direct(context, *(Deposit(key, 1) for key in "abcdab"))
    await react(context, "enter")
    ledger = await rows(context.store, Ledger)
    assert {key: row.count for key, row in ledger.items()} == {"b": 2, "c": 1, "d": 1}
    parked = await parked_of(context)
    assert [row.state for row in parked] == ["retrying", "behind"]
    assert {row.key for row in parked} == {"a"}


async def test_the_checkpoint_passes_events_that_nobody_wants_also_after_a_failure(
    context: Context, bank: Bank
) -> None:
    bank.failing_reactions["a"] = ValueError("as told")
    await direct(context, Deposit("a", 1), Deposit("a", 2), Close("a"))
    await react(context, "thank")
    executor, _ = reaction_of(context, "thank")
    at = await executor.checkpoints("accounts", range(PARTITIONS))
    assert {p: c.number for p, c in at.items()} == dict(await context.store.heads())


@pytest.mark.parametrize("name", ["thank", "enter"])
async def test_a_reaction_that_refuses_an_event_has_failed_and_the_event_is_not_lost(
    context: Context, bank: Bank, name: str
) -> None:
    bank.failing_batches["a"] = bank.failing_reactions["a"] = Rejected("no", "there is nobody to tell")
    await direct(context, *(Deposit(key, 1) for key in "abcd"))
    await react(context, name)
    [parked] = await parked_of(context)
    assert parked.key == "a"
    assert "there is nobody to tell" in parked.cause
    assert len(await rows(context.store, Thanks if name == "thank" else Ledger)) == 3


async def test_closing_an_account_removes_its_row(context: Context) -> None:
    await direct(context, Deposit("a", 1), Close("a"))
    assert await balances(context) == {}
