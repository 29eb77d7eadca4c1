"""Schemathesis, with all its checks, finds no fault with what is served as openapi.json describes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.served import Served, serve

SCHEMATHESIS = Path(sys.executable).parent / "st"
CURSORS = "\n".join(
    f"""
[[operations]]
include-path = "/sellers/{{seller_id}}/{what}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 503]
"""
    for what in ("gigs", "orders")
)
"""No schema can say which cursors were given; one that was not is 400."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """Services of its own, as it fills them with what other tests do not expect."""
    with serve(tmp_path / "state") as site:
        yield site


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_schemathesis_finds_no_fault(own: Served, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CURSORS)
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "run", f"{own.base}/openapi.json", "--checks", "all"),
            *("--seed", "1", "--max-examples", "15", "--generation-database", "none"),
            *("--continue-on-failure", "--no-color", "--suppress-health-check", "all"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    described = own.ask("GET", "/openapi.json").json["paths"].values()
    assert f"Tested: {sum(len(operations) for operations in described)}" in run.stdout
