"""The work of `chimera compare`: checks the options, runs the comparison, prints and draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from chimera.errors import SettingsError
from chimera.run.engines import load_service
from chimera.run.settings import Settings
from chimera_compare.measuring import compare
from chimera_compare.plan import DEADLINE_BUDGETS, LoadPlan, declared_borrow, seconds_of
from chimera_compare.report import check_drawing, tables, title_of, write_report

OUT = Path("comparison")
MOST_PAGES = 1_000_000


async def run_comparison(
    settings: Settings, service: str, share: str, *, out: Path | None, json: bool, **options: Any
) -> None:
    """Compare, and print the table or, with `json`, the rows. The picture is left out for `json` without `out`.

    `options` are those of the command line. Raises SettingsError for what can't be compared.
    """
    plan = read_plan(settings, service, share, **options)
    is_drawn = out is not None or not json
    if is_drawn:
        check_drawing()
    errors = Console(stderr=True)
    with errors.status("starting") as status:
        rows = await compare(plan, status.update)
    if json:
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
    else:
        console = Console()
        console.print(title_of(plan), highlight=False)
        for table in tables(rows):
            console.print(table)
    if is_drawn:
        for path in write_report(out or OUT, rows, plan):
            errors.print(f"wrote {path}", markup=False, highlight=False)


def read_plan(
    settings: Settings,
    service: str,
    share: str,
    *,
    known: tuple[float, ...],
    owner_latency: str,
    deadline: str | None,
    **load: Any,
) -> LoadPlan:
    """The plan that the options ask for. Raises SettingsError."""
    settings.check_service(service)
    borrow = declared_borrow(load_service(settings.services[service].app), share)
    for each in known:
        if not 0 < each <= 1:
            raise SettingsError(f"--known {each:g}: the share of keys that have a document is above 0 and at most 1")
    plan = LoadPlan(
        document=borrow.document,
        declared=settings.services[service].borrows.get(share, borrow.mode),
        budget=borrow.budget,
        max_age=borrow.max_age,
        known=known,
        owner_latency=seconds_of(owner_latency),
        deadline=seconds_of(deadline) if deadline else DEADLINE_BUDGETS * borrow.budget,
        **load,
    )
    if plan.reads * plan.seconds > MOST_PAGES:
        raise SettingsError(f"{plan.reads * plan.seconds:,.0f} pages a run; at most {MOST_PAGES:,}: take fewer --reads")
    return plan
