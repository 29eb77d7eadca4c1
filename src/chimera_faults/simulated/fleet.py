"""The fleet of three that Chimera itself is simulated with, and what must hold of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from chimera import Command
from chimera.core.timing import Timing
from chimera.testing.fleets.state import State
from chimera.testing.plans.fleet import Fleet
from chimera_faults.simulated.builds.board import next_board
from chimera_faults.simulated.builds.echo import Heard, echo
from chimera_faults.simulated.builds.next_echo import next_echo
from chimera_faults.simulated.rolling import DRAWS, remembered_in_order, said_as_sent
from chimera_faults.simulated.seating import Sit, draw_guest, nobody_stands
from chimera_faults.tally.borrower import board
from chimera_faults.tally.messages import Add, AddNow
from chimera_faults.tally.owner import AGEING, HANGING, SLOW, Account, Note, tally

KEYS = 4
Commands = dict[type[Command], Callable[[Random], Command] | None]


def fleet() -> Fleet:
    """Tally, board and echo: with commands from a log and direct ones, refusals, and failures that are tried again."""
    commands: Commands = {Add: _draw(Add), AddNow: _draw(AddNow), Sit: draw_guest, **DRAWS}
    builds = {"board": [next_board], "echo": [next_echo]}
    timing = Timing(audit_s=3.0, keep_s=0.5, handler_s=1.0)
    return Fleet(tally, board, echo, builds=builds, commands=commands, writers=3, readers=2, timing=timing)


def _draw(command: type[Add] | type[AddNow]) -> Callable[[Random], Add | AddNow]:
    """Accounts with an odd number take direct commands, the others those from the log: each in one order."""

    def draw(chance: Random) -> Add | AddNow:
        number = 2 * chance.randint(1, KEYS // 2) - (command is AddNow)
        amount = -1 if chance.random() < 0.15 else chance.randint(1, 9)
        poison = _poison(chance, command)
        return command(f"k-{number}", f"l{chance.randrange(10**9):09d}", amount, poison)

    return draw


def _poison(chance: Random, command: type[Add] | type[AddNow]) -> str:
    """Now and then a handler takes its time; of commands from the log one may fail, or hang, for a while."""
    drawn = chance.random()
    if drawn < (0.25 if command is AddNow else 0.05):
        return f"{SLOW}{chance.choice((0.004, 0.05, 0.4))}"
    if command is AddNow or drawn > 0.2:
        return ""
    return f"{AGEING if drawn < 0.15 else HANGING}{chance.choice((0.2, 0.6, 3.0))}"


def every_effect_once(state: State) -> None:
    """No label is anywhere twice."""
    rows: list[Account | Note | Heard] = [*state.rows(Account), *state.rows(Note), *state.rows(Heard)]
    for row in rows:
        assert len(set(row.labels)) == len(row.labels), f"a label is twice in {row}"


def in_one_order(state: State) -> None:
    """What is derived has the labels of an account in the account's order, as far as it is."""
    for account in state.rows(Account):
        derived: list[Note | Heard | None] = [
            state.row(Note, account.account_id),
            state.row(Heard, account.account_id),
        ]
        for row in derived:
            in_order = row is None or row.labels == account.labels[: len(row.labels)]
            assert in_order, f"{row} has other labels than {account}"


def as_the_model_says(state: State) -> None:
    """A model of the whole: the accounts hold what was done of what was sent, once, and nothing else."""
    additions = [settled for settled in state.commands if "label" in settled.sending.body]
    sent = {settled.sending.body["label"]: settled.sending.body for settled in additions}
    done = [settled.sending.body["label"] for settled in additions if settled.state == "done"]
    shown = [label for account in state.rows(Account) for label in account.labels]
    assert sorted(shown) == sorted(done), f"done or shown, and not both: {sorted({*shown} ^ {*done})}"
    for account in state.rows(Account):
        bodies = [sent[label] for label in account.labels]
        assert {body["account_id"] for body in bodies} == {account.account_id}, account
        assert (account.count, account.total) == (len(bodies), sum(body["amount"] for body in bodies)), account
    for document in state.documents(tally.views["sum"]).values():
        assert document.total == sum(sent[label]["amount"] for label in shown), document  # type: ignore[union-attr]


INVARIANTS = (every_effect_once, in_one_order, nobody_stands, remembered_in_order)
IN_THE_END = (as_the_model_says, said_as_sent)
