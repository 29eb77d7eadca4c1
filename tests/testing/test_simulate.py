"""Simulating one's own services: a planted mistake is found, shrunk, told and kept; what can go wrong is said."""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from chimera import Command, Entity, Event, Service, Transaction
from chimera.cli.main import main
from chimera.errors import DeclarationError, SettingsError
from chimera.testing.plans.draw import possible_kinds
from chimera.testing.plans.plan import load, save
from chimera.testing.plans.values import draw_body
from chimera.testing.simulate import KINDS, Fleet, Plan, SimulationFailed, draw_plan, play, simulate
from chimera.testing.simulate.sweep import Report
from tests.testing.shop import box_office, fleet, nobody_stands

Simulate = Callable[..., Report]


def test_a_planted_mistake_is_found_shrunk_to_a_few_steps_told_in_words_and_kept(tmp_path: Path) -> None:
    with pytest.raises(SimulationFailed) as caught:
        simulate(fleet(), seeds=300, invariants=[nobody_stands], keep=tmp_path)
    failed = caught.value
    assert failed.plan.steps <= 10
    text = str(failed)
    assert "Broken: nobody stands: after a commit: 2 seats, and sold: " in text
    assert "reads shows of show-" in text
    assert "--replay" in text
    assert failed.path is not None
    assert load(failed.path) == failed.plan
    with pytest.raises(SimulationFailed, match="nobody stands"):
        simulate(fleet(), invariants=[nobody_stands], replay=failed.path)
    simulate(fleet(right=True), invariants=[nobody_stands], replay=failed.path)


def test_a_service_without_the_mistake_passes_under_the_same_faults(simulate: Simulate) -> None:
    report = simulate(fleet(right=True), seeds=60, invariants=[nobody_stands])
    assert report.runs == 60
    assert report.commands > 300
    assert report.reads > 300
    assert report.struck["killed"] > 0
    assert str(report).startswith("60 runs, ")


def test_kinds_that_never_struck_are_named() -> None:
    report = simulate(fleet(right=True), seeds=1, kinds=["killed", "conflict"], keep=None)
    assert set(report.struck) <= {"killed", "conflict"}
    assert set(report.never) == {"killed", "conflict"} - set(report.struck)
    assert "mode changed" not in possible_kinds(fleet(), KINDS)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_hypothesis_draws_plans_as_well(chance: random.Random) -> None:
    whole = fleet(right=True)
    outcome = play(whole, draw_plan(whole, 1, chance=chance), [nobody_stands])
    assert not outcome.broken


class Mood(Entity, key="mood_id", table="moods"):
    mood_id: str
    at: str


class Feel(Command, key="mood_id"):
    mood_id: str


def moods(handle: Callable[[Feel, Transaction], Awaitable[None]]) -> Fleet:
    service = Service("moods", partitions=1)
    service.entity(Mood)
    service.handle("POST /moods", direct=True)(handle)
    return Fleet(service)


def test_what_a_seed_does_not_decide_is_found(tmp_path: Path) -> None:
    handled: list[int] = []

    async def feel(command: Feel, tx: Transaction) -> None:
        handled.append(1)
        if len(handled) % 2:
            await tx.load(Mood, command.mood_id)
        tx.save(Mood(command.mood_id, str(datetime.now())))  # noqa: DTZ005 - the mistake

    def never(state: object) -> bool:
        return len(handled) < 3

    with pytest.raises(SimulationFailed, match=r"two runs of the plan of seed 1 differ: step \d+ was .*tx\.now"):
        simulate(moods(feel), seeds=1, invariants=[never], keep=tmp_path)


def test_a_handler_that_fails_is_told_with_its_line() -> None:
    async def snap(command: Feel, tx: Transaction) -> None:
        raise ZeroDivisionError("it snaps")

    with pytest.raises(SimulationFailed, match=r"no request fails: .*ZeroDivisionError.*in snap, line \d+ of test_"):
        simulate(moods(snap), seeds=1, keep=None)


def test_a_handler_that_sleeps_for_real_is_told() -> None:
    async def nap(command: Feel, tx: Transaction) -> None:
        time.sleep(0.1)  # noqa: ASYNC251 - the mistake

    with pytest.raises(SimulationFailed, match=r"time\.sleep: in a simulation nothing waits for the real world"):
        simulate(moods(nap), seeds=1, keep=None)


class Elsewhere(Event, source="elsewhere", key="a"):
    a: str


def test_a_fleet_lacks_an_owner() -> None:
    service = Service("alone")

    @service.on(Elsewhere)
    async def heard(event: Elsewhere, tx: Transaction) -> None: ...

    with pytest.raises(DeclarationError, match=r"alone uses what 'elsewhere' has.*add it, as in: Fleet\(alone, elsewh"):
        Fleet(service)
    with pytest.raises(DeclarationError, match="no such service"):
        Fleet(Service("one"), builds={"two": [Service("two")]})


class Line(msgspec.Struct):
    sku: str
    count: Annotated[int, Meta(ge=1, le=5)]


class Everything(Command, key="order_id"):
    order_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    amount: Annotated[int, Meta(gt=10, lt=20)]
    price: float
    is_gift: bool
    kind: Literal["a", "b"]
    at: datetime
    token: uuid.UUID
    lines: Annotated[list[Line], Meta(min_length=1)]
    note: str | None = None


@given(st.integers(0, 10_000))
def test_commands_are_drawn_that_their_types_take(seed: int) -> None:
    body = draw_body(Everything, random.Random(seed))
    decoded = msgspec.json.decode(msgspec.json.encode(body), type=Everything)
    assert re.fullmatch(r"order-[123]", decoded.order_id)


class Odd(Command, key="code"):
    code: Annotated[str, Meta(pattern=r"^Z{7}$")]


def test_what_chance_can_not_draw_is_said_with_what_to_write() -> None:
    with pytest.raises(DeclarationError, match=r"Odd\.code: no word .* Fleet\(…, commands=\{Odd: lambda chance: Odd"):
        draw_body(Odd, random.Random(1))


def test_a_plan_is_kept_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    whole = fleet()
    plan = draw_plan(whole, 7)
    save(plan, tmp_path / "plan.json")
    assert load(tmp_path / "plan.json") == plan
    later = msgspec.structs.replace(plan, version=plan.version + 1)
    save(later, tmp_path / "later.json")
    (tmp_path / "none.json").write_text("{}")
    for name, says in (("later.json", "later version"), ("none.json", "holds no plan"), ("nowhere", "can't be read")):
        with pytest.raises(SettingsError, match=says):
            load(tmp_path / name)


@pytest.mark.parametrize("seed", range(1, 40))
def test_a_plan_of_a_seed_is_always_the_same(seed: int) -> None:
    assert draw_plan(fleet(), seed) == draw_plan(fleet(), seed)
    assert isinstance(draw_plan(fleet(), seed), Plan)


def typed(*arguments: str) -> tuple[int, str]:
    ran = CliRunner().invoke(main, ["simulate", *arguments])
    return ran.exit_code, ran.output


def test_the_command_simulates_what_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = typed("--fleet", "tests.testing.shop:right_fleet", "--seeds", "5")
    assert code == 0
    assert "all is well: 5 runs" in said
    code, said = typed(
        *("--fleet", "tests.testing.shop:wrong_fleet", "--seeds", "300", "--plans", str(tmp_path)),
        *("--invariant", "tests.testing.shop:nobody_stands"),
    )
    assert code == 1
    assert "Broken: nobody stands" in said
    [kept] = tmp_path.glob("nobody-stands-*.json")
    code, said = typed(
        *("--fleet", "tests.testing.shop:wrong_fleet", "--replay", str(kept)),
        *("--invariant", "tests.testing.shop:nobody_stands"),
    )
    assert code == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "eaten"], "there is no fault eaten; there are: killed"),
        (["--fleet", "tests.testing.shop:nothing"], "must look like module:name"),
        (["--fleet", "tests.testing.shop:SEATS"], "is a int, not a Fleet"),
        (["--fleet", "tests.testing.shop:right_fleet", "--invariant", "nowhere"], "must look like module:name"),
        (["--fleet", "tests.testing.shop:right_fleet", "--replay", "nowhere.json"], "nowhere.json"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(arguments: list[str], says: str) -> None:
    code, said = typed(*arguments)
    assert code == 2
    assert says in said
    assert "Traceback" not in said


def test_box_offices_are_like_each_other() -> None:
    assert box_office(right=True).views.keys() == box_office(right=False).views.keys()
