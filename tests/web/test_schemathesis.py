"""Schemathesis, with all its checks, finds no fault with what is served as openapi.json describes it, whoever asks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.web.served import OPEN, Served, serve

SCHEMATHESIS = Path(sys.executable).parent / "st"
CURSORS = "\n".join(
    f"""
[[operations]]
include-path = "/sellers/{{seller_id}}/{what}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 503]
"""
    for what in ("gigs", "orders")
)
"""No schema can say which cursors were given; one that was not is 400."""
KEYS = {role: f"the key of a program that asks as a {role}" for role in ("seller", "operator")}
PROGRAMS = [
    {"name": f"{role}-1", "digest": sha256(key.encode()).hexdigest(), "roles": [role]} for role, key in KEYS.items()
]
RULED = {"identity": {"api_keys": PROGRAMS}}
"""Rules are asked, and programs are known by their keys."""


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """Services of its own, as it fills them with what other tests do not expect."""
    with serve(tmp_path / "state", request.param) as site:
        yield site


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("own", "key", "examples"),
    [
        pytest.param(OPEN, "", 15, id="nobody, where all is open"),
        pytest.param(RULED, "", 5, id="nobody"),
        pytest.param(RULED, KEYS["seller"], 5, id="a seller"),
        pytest.param(RULED, KEYS["operator"], 5, id="an operator"),
    ],
    indirect=["own"],
)
def test_schemathesis_finds_no_fault(own: Served, key: str, examples: int, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CURSORS)
    run = subprocess.run(
        [
            *(SCHEMATHESIS, "run", f"{own.base}/openapi.json", "--checks", "all"),
            *("--seed", "1", "--max-examples", str(examples), "--generation-database", "none"),
            *("--continue-on-failure", "--no-color", "--suppress-health-check", "all"),
            *(("--header", f"X-Api-Key: {key}") if key else ()),
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
