"""A stranger at the port of a fleet: nothing is shown, nothing is changed; the fleet itself goes on."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Chimera, wait_until

KEY = "an operators' key, long enough to be one"
ANN = "the key of a program that asks as the seller"
PROGRAMS = f'[{{name = "ann", digest = "{sha256(ANN.encode()).hexdigest()}", roles = ["seller"]}}]'
CLOSED = {
    "CHIMERA_DEV": "false",
    "CHIMERA_OPEN": "false",
    "CHIMERA_OPERATORS__KEYS": f'["{KEY}"]',
    "CHIMERA_IDENTITY__API_KEYS": PROGRAMS,
}
OF = "/_chimera/top-clients"
TRIED = (
    ("GET", f"{OF}/journal?partition=0"),
    ("GET", f"{OF}/heads"),
    ("GET", f"{OF}/share/top-clients?key=ann"),
    ("GET", f"{OF}/share/top-clients/digests?partition=0"),
    ("PUT", f"{OF}/consumers"),
    ("GET", "/_chimera/gig-page/borrows"),
    ("PUT", "/_chimera/gig-page/borrows/top-clients"),
    ("GET", f"{OF}/status"),
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Chimera]:
    chimera = Chimera(tmp_path / "state", environment=CLOSED)
    yield chimera
    chimera.end()


def ask(base: str, method: str, path: str, token: str = "", body: object = None, *, key: str = "") -> tuple[int, Any]:
    headers = ({"Authorization": f"Bearer {token}"} if token else {}) | ({"X-Api-Key": key} if key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{base}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


@pytest.mark.parametrize("way", [(), ("--processes",)], ids=["one process", "processes"])
def test_a_stranger_gets_and_changes_nothing_and_services_know_each_other(fleet: Chimera, way: tuple[str, ...]) -> None:
    running = fleet.up(*way)
    base = fleet.base
    assert [line for line in running.lines if "who may: " in line and "/_chimera/: " in line]
    client = {"client_id": "c", "name": "Acme"}
    assert ask(base, "POST", "/sellers/ann/clients", body=client)[0] == 401
    assert ask(base, "POST", "/sellers/bob/clients", body=client, key=ANN)[0] == 403
    assert ask(base, "POST", "/sellers/ann/clients", body=client, key=ANN)[0] == 201
    gig = {"seller_id": "ann", "title": "A gig", "category": "x", "price_cents": 5}
    assert ask(base, "PUT", "/gigs/g1", body=gig)[0] == 401
    assert ask(base, "PUT", "/gigs/g1", body=gig, key=ANN)[0] == 201
    report = {
        "consumers": [{"consumer": "gig-page borrow.top-clients.async", "partition": 0, "number": 0, "offset": 0}]
    }
    for method, path in TRIED:
        body = {"mode": "sync"} if "borrows/" in path else report if method == "PUT" else None
        for token in ("", "wrong", "eyJhbGciOiJub25lIn0.e30."):
            assert ask(base, method, path, token, body)[0] == 401, path

    def page() -> Any:
        return ask(base, "GET", "/gigs/g1")[1]["top_clients"]

    assert wait_until(lambda: page()["state"] == "fresh" and page()["clients"]), running.output
    status, shown = ask(base, "GET", "/_chimera/gig-page/borrows", KEY)
    assert (status, shown["borrows"][0]["mode"]) == (200, "async")
    assert wait_until(lambda: reported(base)), "the owner knows where its borrower is"


def reported(base: str) -> bool:
    """Whether the owner of the top clients was told of a consumer of another service."""
    status, found = ask(base, "GET", f"{OF}/status", KEY)
    assert status == 200
    return "gig-page" in json.dumps(found)


def test_a_service_that_runs_alone_says_what_to_type(fleet: Chimera) -> None:
    running = fleet.start("run", "top-clients", "--port", str(fleet.port))
    running.wait_ready()
    assert "set CHIMERA_FLEET__KEYS, the same for all" in "".join(running.lines)
