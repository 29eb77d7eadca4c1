"""New projects, and what is added to them: it works as it is written, its tests pass, nothing is written over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from hatchling.build import build_wheel

from chimera.cli.main import main
from chimera_new.project import new_project
from tests.e2e.conftest import wait_until

ROOT = Path(__file__).parents[2]
CURLS = re.findall(r"^\$ (curl .*)\n(.*)$", (ROOT / "docs" / "start.md").read_text(), re.MULTILINE)
BIN = Path(sysconfig.get_path("scripts"))
pytestmark = pytest.mark.timeout(300)


def typed(folder: Path, *words: str, path: Path = BIN) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHIMERA_")}
    environment |= {"PATH": f"{path}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)


def done(folder: Path, words: str) -> str:
    ran = typed(folder, *words.split())
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr
    return ran.stdout


def refused(folder: Path, words: str) -> str:
    ran = typed(folder, *words.split())
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stdout + ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
    return ran.stderr.removeprefix("chimera: ").rstrip()


def shown(command: str) -> str:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False).stdout.strip()


def answers(command: str, printed: str) -> bool:
    """Whether a command prints what the page says: a moment later, perhaps, for what it shows is counted then."""
    return re.fullmatch(re.escape(printed.strip()).replace("…", ".+"), shown(command)) is not None


def written(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    done(tmp_path, "chimera new shop")
    return tmp_path / "shop"


ADDED = [
    "event OrderShipped --key order_id",
    "command ShipOrder --key order_id --emits OrderShipped",
    "command CountOrder --key order_id --emits OrderPlaced",
    "command Ponder --key thought_id",
    "view shipments --key order_id --of OrderShipped",
    "list best-sellers --view sales --order=-revenue_cents",
    "list shipments-of --view shipments --where count --order order_id",
    "share stands --key seller_id --changed-by OrderPlaced",
]


def test_a_new_project_and_all_that_is_added_to_it_pass_their_tests_checks_and_style(shop: Path) -> None:
    for each in ADDED:
        assert "type: make test" in done(shop, f"chimera add {each}")
    done(shop.parent, "chimera new shop-page")
    (shop / "page.py").write_text((shop.parent / "shop-page" / "shop_page.py").read_text())
    (shop / "chimera.toml").write_text(
        (shop / "chimera.toml").read_text() + '\n[services.shop-page]\napp = "page:shop_page"\n'
    )
    page = (shop / "page.py").read_text()
    (shop / "page.py").write_text(page.replace('"POST /orders"', '"POST /pages"').replace("/sellers/", "/pages/"))
    done(shop, "chimera add borrow stands-of-sellers --key seller_id --owner shop --service shop-page --mode async")
    assert "12 passed" in done(shop, "make test")
    assert "all engines answer" in done(shop, "make check")
    done(shop, f"{BIN}/ruff check --isolated --select F,E4,E7,E9,UP .")


REFUSED = {
    "new shop": "shop exists and is not empty; choose another name, or remove it",
    "new Shop": "'Shop' can't name a service; use lower case letters, digits and dashes, as in: shop",
    "new json": "there is a module 'json' already; choose another name, as in: json-service",
    "new pytest": "there is a module 'pytest' already; choose another name, as in: pytest-service",
    "new class": "there is a module 'class' already; choose another name, as in: class-service",
    "add event OrderPlaced --key order_id": "shop.py has 'OrderPlaced' already; choose another name",
    "add event order_shipped --key order_id": "'order_shipped' can't name a event; write it as OrderShipped",
    "add event Shipped --key order-id": "'order-id' can't name a key; write it as order_id",
    "add event Shop --key order_id": "tests/test_shop.py exists already; choose another name, or remove it",
    "add command Ship --key order_id --emits Shipped": (
        "shop.py has no event 'Shipped'; type: chimera add event Shipped --key order_id"
    ),
    "add view shipments --key buyer_id --of OrderPlaced": (
        "OrderPlaced has no field 'buyer_id' for the key; its fields: order_id, seller_id, amount_cents"
    ),
    "add view Shipments --key order_id --of OrderPlaced": "'Shipments' can't name a view; write it as shipments",
    "add list best --view sale --order orders": (
        "shop.py has no view 'sale'; type: chimera add view sale --key … --of …"
    ),
    "add borrow stands --key seller_id --owner stalls": (
        "--owner stalls: it must be another service of the settings; there are: none; add [services.stalls] with its "
        "app and url"
    ),
    "add event Shipped --key order_id --service shpo": "there is no service 'shpo'; there are: shop",
    "--config nowhere.toml add event Shipped --key order_id": (
        "nowhere.toml can't be read (No such file or directory); name another with --config"
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_can_not_be_written_is_refused_in_one_line_and_nothing_is_changed(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(shop := tmp_path / "shop")
    before = written(shop)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path if words.startswith("new") else shop)
    ran = CliRunner().invoke(main, words.split(), prog_name="chimera")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (2, "", f"chimera: {REFUSED[words]}\n")
    assert written(shop) == before


def test_what_the_declaration_refuses_is_not_written(shop: Path) -> None:
    before = written(shop)
    said = refused(shop, "chimera add list best-sellers --view sales --order revenue")
    assert "revenue" in said
    assert said.endswith("; nothing was written")
    assert written(shop) == before


def test_a_module_that_is_not_there_or_can_not_be_read_is_left_as_it_is(shop: Path) -> None:
    (shop / "shop.py").write_text("def broken(:\n")
    assert refused(shop, "chimera add event Shipped --key order_id") == (
        "shop.py:1: invalid syntax; nothing was written"
    )
    (shop / "shop.py").unlink()
    assert refused(shop, "chimera add event Shipped --key order_id") == (
        "app = 'shop:shop': there is no file of a module 'shop' to write to"
    )


def test_a_project_without_tests_is_given_what_they_need(shop: Path) -> None:
    for path in (shop / "tests").iterdir():
        path.unlink()
    (shop / "tests").rmdir()
    assert "tests/conftest.py" in done(shop, "chimera add view orders --key seller_id --of OrderPlaced")
    assert "1 passed" in done(shop, "make test")


@pytest.mark.slow
def test_from_an_empty_environment_with_only_the_wheel_a_project_is_made_tested_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.chdir(ROOT)
        wheel = tmp_path / build_wheel(str(tmp_path))
    done(tmp_path, f"{sys.executable} -m venv empty")
    made = typed(tmp_path, "empty/bin/pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
    assert made.returncode == 0, made.stderr
    own = tmp_path / "empty" / "bin"
    assert typed(tmp_path, "chimera", "new", "shop", path=own).returncode == 0
    tested = typed(tmp_path / "shop", "make", "test", path=own)
    assert "3 passed" in tested.stdout, tested.stdout + tested.stderr
    environment = {**os.environ, "PATH": f"{own}:{os.environ['PATH']}", "CHIMERA_PORT": "0"}
    running = subprocess.Popen(
        ["make", "run"],
        cwd=tmp_path / "shop",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running:
        try:
            assert running.stdout
            said = (line for line in running.stdout if not line.startswith("make["))  # make, inside of make test
            base = next(said).removeprefix("ready ").strip()
            assert CURLS
            for command, printed in CURLS:
                asked = command.replace("127.0.0.1:8000", base)
                assert wait_until(partial(answers, asked, printed)), f"$ {asked}\nprints\n{shown(asked)}"
        finally:
            os.killpg(running.pid, signal.SIGTERM)
