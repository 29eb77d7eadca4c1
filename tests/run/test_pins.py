"""`names.toml`, `chimera names` and `chimera check`; and a start that is refused, as a person meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera import SettingsError
from chimera.run.pins import check_pinned, gone, read_pinned, text_of, unpinned
from chimera.run.settings import read_settings
from tests.builds import SHOP, build, forget_all

ROOT = Path(__file__).parents[2]
CHIMERA = str(Path(sys.executable).with_name("chimera"))
TOML = '[services.shop]\napp = "app:shop"\n'


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    forget_all()


class Project:
    """A folder with a service, its settings, and what it has stored."""

    def __init__(self, folder: Path, app: str = SHOP, toml: str = TOML) -> None:
        self.folder = folder
        self.write(app, toml)

    def write(self, app: str, toml: str = TOML) -> None:
        (self.folder / "app.py").write_text(app)
        (self.folder / "chimera.toml").write_text(toml)

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("CHIMERA_")}
        return {**own, "PYTHONDONTWRITEBYTECODE": "1"}

    def chimera(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CHIMERA, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def runs(self, *orders: str) -> None:
        """Start it, place orders, and wait until their view shows them."""
        process = subprocess.Popen(
            [CHIMERA, "up", "--port", "0"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            base = process.stdout.readline().removeprefix("ready ").strip()
            for each in orders:
                urllib.request.urlopen(f"{base}/orders", f'{{"order_id": "{each}"}}'.encode()).close()
            for each in orders:
                _until_served(f"{base}/orders/{each}")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            process.stdout.close()

    def refused(self) -> str:
        """What `chimera up` says instead of starting: one line."""
        ended = self.chimera("up", "--port", "0")
        assert (ended.returncode, ended.stdout) == (2, "")
        [line] = ended.stderr.splitlines()
        assert line.startswith("chimera: ")
        return line


def _until_served(url: str) -> None:
    import time

    until = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def test_the_marketplaces_names_are_pinned_as_they_are() -> None:
    ended = subprocess.run([CHIMERA, "check", "--offline"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "all names are well\n"), ended.stderr
    assert read_settings(ROOT / "chimera.toml", {}).names == str(ROOT / "names.toml")


def test_a_renamed_function_class_or_service_does_not_start_and_one_line_says_what_to_type(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.runs("a", "b")
    project.write(SHOP.replace("send_mail", "mail_customer"))
    assert "app.py:26: the reaction 'mail_customer' of shop is new" in project.refused()
    project.write(SHOP.replace("Placed", "OrderPlaced"))
    assert 'app.py:15) is what it is called now, type: class OrderPlaced(Event, …, renamed_from="Placed")' in (
        project.refused()
    )
    other = SHOP.replace('Service("shop"', 'Service("store"').replace('source="shop"', 'source="store"')
    project.write(other, '[services.store]\napp = "app:shop"\nstore = "sqlite:///{state}/shop.db"\n')
    assert "app.py:5: Service(\"store\") has the store of 'shop'" in project.refused()
    project.write(SHOP)
    project.runs("c")


def test_names_are_pinned_compared_and_never_lost_from_the_file(tmp_path: Path) -> None:
    project = Project(tmp_path)
    ended = project.chimera("check")
    assert ended.returncode == 0
    assert ended.stdout.endswith("as stored; chimera names pins them in names.toml\n")
    assert project.chimera("names").stdout.endswith("names.toml is written; commit it (5 names)\n")
    assert (
        (tmp_path / "names.toml")
        .read_text()
        .endswith(
            '[shop]\nevents = ["Placed"]\ncommands = ["Place"]\nviews = ["sale"]\nreactions = ["send_mail"]\n'
            'tables = ["mails"]\n'
        )
    )
    assert project.chimera("check", "--offline").returncode == 0
    project.write(SHOP.replace("send_mail", "mail_customer"))
    said = "names.toml:8: the reaction 'send_mail' of shop is pinned, and nothing is called so any more; if "
    assert said + "mail_customer (app.py:26) is what it is called now" in project.refused()
    for command in (("names",), ("check", "--offline")):
        ended = project.chimera(*command)
        assert ended.returncode in (1, 2)
        assert said in ended.stderr
    project.write(
        SHOP.replace(
            "@shop.on(Placed)\nasync def send_mail", '@shop.on(Placed, renamed_from="send_mail")\nasync def mail'
        )
    )
    assert project.chimera("check").returncode == 0
    assert project.chimera("names").stdout.endswith("names.toml is as it was (5 names)\n")


def test_what_is_new_is_to_be_pinned_and_what_is_given_up_is_dropped(tmp_path: Path) -> None:
    path, service = tmp_path / "names.toml", build()
    path.write_text(text_of([service]))
    more = SHOP.replace("send_mail", "mail_customer") + '\nshop.forgotten(reactions=["send_mail"])\n'
    service = build(text=more)
    assert gone(path, read_pinned(path), service) == []
    [line] = unpinned(path, read_pinned(path), service)
    assert "the reaction 'mail_customer' of shop is not in names.toml; type: chimera names" in line
    path.write_text(text_of([service]))
    assert unpinned(path, read_pinned(path), service) == []
    assert "send_mail" not in path.read_text()


def test_without_a_file_nothing_is_pinned_and_a_broken_one_is_told(tmp_path: Path) -> None:
    service = build()
    check_pinned(tmp_path / "names.toml", [service])
    assert unpinned(tmp_path / "names.toml", {}, service) == []
    (tmp_path / "names.toml").write_text("[shop]\nviews = 3\n")
    with pytest.raises(SettingsError, match=r"names\.toml can't be read: .*; write it again with: chimera names"):
        check_pinned(tmp_path / "names.toml", [service])
