"""`chimera compare`: what it measures, how it counts, and how it shows it."""

import asyncio
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from click.testing import CliRunner

from chimera.cli.main import main
from chimera.errors import SettingsError, Unavailable
from chimera.testing.memory import MemoryStore
from chimera.web.wire.http import Receive, Scope, Send
from chimera_compare import command
from chimera_compare.figures import Answer, Counted, Row, percentile, row_of
from chimera_compare.ledger import WriteLedger
from chimera_compare.load import ask
from chimera_compare.made_up import made_up
from chimera_compare.measuring import DOCUMENTS, measure
from chimera_compare.plan import LoadPlan, Trouble, Way, declared_borrow, seconds_of
from chimera_compare.trouble import TroubledSite, TroubledStore
from marketplace.top_clients.messages import TopClients
from tests.support import Card, Shop

FEW, MANY = 0.2, 0.6
PLAN = LoadPlan(
    document=Card,
    keys=60,
    reads=40,
    writes=20,
    seconds=1.2,
    budget=1.0,
    max_age=60.0,
    deadline=5.0,
    trouble="down",
    trouble_share=0.4,
)
RUNS: list[tuple[Way, float]] = [
    ("sync", FEW),
    ("async", FEW),
    ("hybrid", FEW),
    ("hybrid", MANY),
    ("monolith", FEW),
]


async def run_all() -> dict[tuple[Way, float], Row]:
    documents = made_up(PLAN.document, DOCUMENTS, PLAN.seed)
    return {(way, known): await measure(PLAN, way, known, documents) for way, known in RUNS}


@pytest.fixture(scope="module")
def rows() -> dict[tuple[Way, float], Row]:
    """Each way, with an owner that is down for a part of the run. The budget is wide: no figure is of time."""
    return asyncio.run(run_all())


def test_sync_calls_the_owner_most_hybrid_less_and_async_never(rows: Any) -> None:
    calls = {way: rows[way, FEW].owner_calls_per_page for way in ("sync", "hybrid", "async")}
    assert calls["sync"] > calls["hybrid"] > calls["async"] == 0
    keys = {way: rows[way, FEW].owner_keys_per_page for way in ("sync", "hybrid", "async")}
    assert keys["sync"] > 2 * keys["hybrid"] > keys["async"] == 0


def test_hybrid_asks_in_proportion_to_the_keys_that_have_a_document(rows: Any) -> None:
    few, many = (rows["hybrid", known].owner_keys_per_page for known in (FEW, MANY))
    assert 1.5 * few < many < 1


def test_what_is_kept_is_documents_or_keys_or_nothing(rows: Any) -> None:
    copied = {way: rows[way, FEW].copied_bytes_per_s for way in ("sync", "hybrid", "async")}
    assert copied["sync"] == 0 < copied["hybrid"] < copied["async"] <= rows["async", FEW].event_bytes_per_s
    assert rows["async", FEW].answer_bytes_per_s == 0 < rows["hybrid", FEW].answer_bytes_per_s


def test_with_the_owner_down_sync_knows_least_and_async_everything(rows: Any) -> None:
    knew = {way: rows[way, FEW].trouble_data_availability for way in ("sync", "hybrid", "async")}
    assert knew["sync"] < knew["hybrid"] < knew["async"] == 1.0
    assert rows["async", FEW].document_availability == 1.0


def test_an_owner_that_is_down_breaks_no_borrowers_page_but_the_monoliths(rows: Any) -> None:
    answered = {way: rows[way, FEW].availability for way in ("sync", "hybrid", "async", "monolith")}
    assert answered["sync"] == answered["hybrid"] == answered["async"] == 1.0
    assert 0.3 < answered["monolith"] < 0.9
    assert rows["monolith", FEW].trouble_availability < 0.5


def test_a_page_is_as_stale_as_the_oldest_version_that_it_lacks() -> None:
    ledger = WriteLedger([("a", 1, 10.0), ("a", 2, 20.0), ("a", 3, 30.0)])
    assert ledger.staleness("a", 3, 99.0) == 0
    assert ledger.staleness("a", 2, 31.5) == 1.5
    assert ledger.staleness("a", 1, 31.5) == 11.5
    assert ledger.staleness("a", 1, 19.0) == 0, "the next version was not committed yet"
    assert ledger.staleness("unheard of", 0, 1.0) == 0


def test_the_ledger_takes_versions_in_their_order_only() -> None:
    ledger = WriteLedger([("a", 1, 10.0)])
    with pytest.raises(ValueError, match="version 3 of a follows version 1"):
        ledger.committed("a", 3, 11.0)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile([3.0, 1.0, 4.0, 2.0], share) == value
    assert percentile([], share) is None


def page(key: str, *, at: float = 0.0, took: float = 0.01, status: int = 200, **shown: Any) -> Answer:
    return Answer(key, at, at + took, status, json.dumps({"certain": True, "version": None, **shown}).encode())


def figures(answers: list[Answer], ledger: WriteLedger | None = None, **changes: Any) -> Row:
    plan = msgspec.structs.replace(PLAN, keys=4, seconds=10.0, trouble="failing", trouble_share=0.2, **changes)
    return row_of(plan, "sync", 0.5, answers, Counted(calls=3, spared=1, asked_keys=6), ledger or WriteLedger(), 0.0)


def test_a_page_that_fails_or_comes_late_is_not_available() -> None:
    row = figures([page("k"), page("k", status=503), page("k", took=5.1), page("k", took=4.9)])
    assert (row.availability, row.data_availability, row.pages) == (0.5, 0.5, 4)
    assert (row.owner_calls_per_page, row.spared_calls_per_page, row.owner_keys_per_page) == (0.75, 0.25, 1.5)


def test_a_page_without_a_document_has_data_if_it_could_learn_that_there_is_none() -> None:
    [known, *_] = msgspec.structs.replace(PLAN, keys=4).known_keys(0.5)
    row = figures([page("none"), page("none", certain=False), page(known, version=1), page(known, certain=False)])
    assert (row.availability, row.data_availability, row.document_availability) == (1.0, 0.5, 0.5)


def test_pages_asked_for_during_the_trouble_are_counted_apart() -> None:
    row = figures([page("k", at=3.9, status=503), page("k", at=4.0), page("k", at=5.9), page("k", at=6.0, status=503)])
    assert (row.availability, row.trouble_availability) == (0.5, 1.0)


def test_latency_is_of_answered_pages_and_staleness_of_those_with_a_document() -> None:
    ledger = WriteLedger([("a", 1, -9.0), ("a", 2, 1.0)])
    answers = [page("a", at=2.0, took=0.5, version=1), page("a", at=2.0, took=0.1, version=2), page("a", at=2.0)]
    row = figures([*answers, page("a", took=3.0, status=503)], ledger)
    assert (row.page_p50_ms, row.page_p99_ms) == (100, 500)
    assert (row.staleness_p50_ms, row.staleness_p99_ms, row.staleness_max_ms) == (0, 1500, 1500)


def test_the_known_keys_are_so_many_and_the_same_for_the_same_seed() -> None:
    plan = LoadPlan(document=Card, keys=1000)
    assert [len(plan.known_keys(known)) for known in (0.0001, 0.05, 1.0)] == [1, 50, 1000]
    assert plan.known_keys(0.05) == plan.known_keys(0.05)
    assert plan.known_keys(0.05) != msgspec.structs.replace(plan, seed=2).known_keys(0.05)


class Part(msgspec.Struct, tag=True):
    name: Annotated[str, msgspec.Meta(min_length=30, max_length=40)]
    below: "Part | None" = None


class Other(msgspec.Struct, tag=True):
    at: datetime
    sizes: tuple[int, float]


class Rich(msgspec.Struct, rename="camel"):
    some_id: str
    colour: Literal["red", "green"]
    stars: Annotated[int, msgspec.Meta(ge=1, le=5)]
    price: Annotated[int, msgspec.Meta(gt=0, multiple_of=5)]
    below_zero: Annotated[float, msgspec.Meta(lt=0)]
    parts: list[Part | Other]
    by_name: dict[str, set[int]]
    note: str | None = None


@pytest.mark.parametrize("document", [Card, TopClients, Rich])
def test_made_up_documents_are_of_the_declared_type_and_the_same_for_the_same_seed(document: Any) -> None:
    documents = made_up(document, 50, seed=1)
    assert all(msgspec.json.decode(each, type=document) for each in documents)
    assert documents == made_up(document, 50, seed=1) != made_up(document, 50, seed=2)


def test_a_type_that_can_not_be_made_up_is_said_so() -> None:
    class Coded(msgspec.Struct):
        code: Annotated[str, msgspec.Meta(pattern="^[0-9]{3}-[a-z]$")]

    with pytest.raises(SettingsError, match=r"no Coded can be made up .*code"):
        made_up(Coded, 1, seed=1)


@pytest.mark.parametrize(("text", "seconds"), [("5ms", 0.005), ("0.5s", 0.5), ("2s", 2.0)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    with pytest.raises(SettingsError, match="looks like 5ms"):
        seconds_of(text.rstrip("ms"))


def test_a_share_that_is_not_borrowed_is_answered_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"shop does not borrow 'dards'; it borrows: cards"):
        declared_borrow(Shop().service, "dards")


async def well(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


@pytest.mark.parametrize(
    ("trouble", "answer"), [("none", (200, b"well")), ("failing", (500, b"{")), ("garbage", (200, b"<html>"))]
)
async def test_an_owner_in_trouble_answers_accordingly(trouble: Trouble, answer: tuple[int, bytes]) -> None:
    status, body = await ask(TroubledSite(well, lambda: trouble, latency=0.0, slow=0.0), "/_chimera/owner/heads")
    assert (status, body[: len(answer[1])]) == answer


async def test_a_troubled_database_fails_reads_and_a_slow_one_does_not() -> None:
    trouble: Trouble = "none"
    store = TroubledStore(MemoryStore(), lambda: trouble, slow=0.0)
    for trouble in ("failing", "down", "garbage"):
        with pytest.raises(Unavailable, match=trouble):
            async with store.snapshot():
                pass
    async with TroubledStore(MemoryStore(), lambda: "slow", slow=0.0).snapshot() as session:
        assert session


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Row]:
    """Rows in place of a comparison, and a folder to work in."""
    rows = [msgspec.structs.replace(figures([page("k")]), mode=way) for way in ("sync", "async", "hybrid", "monolith")]

    async def compare(plan: LoadPlan, progress: Any) -> list[Row]:
        assert (plan.document, plan.declared, plan.budget, plan.deadline) == (TopClients, "async", 0.05, 0.25)
        return rows

    monkeypatch.setattr(command, "compare", compare)
    monkeypatch.setenv("CHIMERA_CONFIG", str(Path(__file__).parents[2] / "chimera.toml"))
    monkeypatch.chdir(tmp_path)
    return rows


def test_json_is_a_list_of_rows_by_their_documented_names(recorded: list[Row]) -> None:
    ran = CliRunner().invoke(main, ["compare", "gig-page", "top-clients", "--json"])
    assert ran.exit_code == 0, ran.output
    printed = json.loads(ran.stdout)
    assert [row["mode"] for row in printed] == ["sync", "async", "hybrid", "monolith"]
    documented = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    assert set(printed[0]) == set(Row.__struct_fields__)
    assert [name for name in Row.__struct_fields__ if f"`{name}`" not in documented] == []
    assert list(Path().iterdir()) == [], "no picture was asked for"


def test_the_table_is_printed_and_the_picture_drawn(recorded: list[Row]) -> None:
    ran = CliRunner().invoke(main, ["compare", "gig-page", "top-clients", "--out", "drawn"])
    assert ran.exit_code == 0, ran.output
    for word in ("sync", "monolith", "owner calls a page", "staleness p99", "declared as async"):
        assert word in ran.stdout
    assert Path("drawn/compare.png").read_bytes().startswith(b"\x89PNG")
    assert "| owner calls a page | 3.00 | 3.00 | 3.00 | 3.00 |" in Path("drawn/tables.md").read_text()
    html = Path("drawn/compare.html").read_text()
    assert "data:image/png;base64," in html
    assert "http" not in html, "the page needs nothing beside it"
    assert max(path.stat().st_size for path in Path("drawn").iterdir()) < 200_000


def test_without_matplotlib_the_error_says_what_to_install(
    recorded: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = CliRunner().invoke(main, ["compare", "gig-page", "top-clients"])
    assert ran.exit_code == 2
    assert ran.stderr.strip().splitlines() == [
        "chimera: a picture needs matplotlib: pip install 'chimera-kit[compare]', or ask for --json alone"
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["gig-page", "bottom-clients"], "it borrows: top-clients"),
        (["gig-pages", "top-clients"], "there is no service 'gig-pages'"),
        (["gig-page", "top-clients", "--known", "1.5"], "--known 1.5"),
        (["gig-page", "top-clients", "--owner-latency", "5"], "'5' is not a duration"),
    ],
)
def test_what_can_not_be_compared_is_said_in_a_line(recorded: list[Row], arguments: list[str], error: str) -> None:
    ran = CliRunner().invoke(main, ["compare", *arguments])
    assert (ran.exit_code, len(ran.stderr.strip().splitlines())) == (2, 1)
    assert error in ran.stderr
