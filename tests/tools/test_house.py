"""The figures of a small made-up checkout, as `tools/house.py` prints them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).parents[2] / "tools" / "house.py"
PORTS = '''
from typing import Protocol

class Log(Protocol):
    """A log."""
    def read(self):
        """Records."""
    def append(self):
        """Add."""
    def __len__(self): ...
    def close(self): ...
'''


def house(*words: str | Path) -> str:
    ran = subprocess.run([sys.executable, HOUSE, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def checkout(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"src/chimera/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def figures(root: Path, files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(house(checkout(root, files), "--json"))["now"]
    return found


def numbers(found: Mapping[str, dict[str, Any]], *labels: str) -> list[int]:
    return [found[label]["value"] for label in labels]


CYCLES = ["import cycles", "import cycles, types too", "import cycles, types and functions too"]


@pytest.mark.parametrize(
    ("back", "cycles"),
    [
        ("import chimera.one", [1, 1, 1]),
        ("try:\n    from chimera import one\nexcept ImportError:\n    pass", [1, 1, 1]),
        ("from . import one", [1, 1, 1]),
        ("if TYPE_CHECKING:\n    from chimera.one import A", [0, 1, 1]),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from chimera.one import A", [1, 1, 1]),
        ("def f():\n    from chimera.one import A", [0, 0, 1]),
        ("from chimera import other", [0, 0, 0]),
    ],
)
def test_a_cycle_is_one_of_run_time_of_types_or_of_functions(tmp_path: Path, back: str, cycles: list[int]) -> None:
    found = figures(tmp_path, {"src/chimera/one.py": "import chimera.two", "src/chimera/two.py": back})
    assert numbers(found, *CYCLES) == cycles
    assert found[CYCLES[2]]["items"] == (["chimera.one", "chimera.two"] if cycles[2] else [])


def test_packages_can_form_a_cycle_where_modules_form_none(tmp_path: Path) -> None:
    files = {
        "src/chimera/__main__.py": "import chimera.web.site",
        "src/chimera/errors.py": "",
        "src/chimera/web/__init__.py": "",
        "src/chimera/web/site.py": "import chimera.errors, chimera.journal.deep.feed",
        "src/chimera/web/wire/http.py": "",
        "src/chimera/journal/__init__.py": "",
        "src/chimera/journal/deep/__init__.py": "",
        "src/chimera/journal/deep/feed.py": "import chimera.web.wire.http",
    }
    found = figures(tmp_path, files)
    assert numbers(found, "import cycles", "package cycles") == [0, 1]
    assert found["package cycles"]["items"] == ["chimera.journal", "chimera.web"]


def test_the_longest_chain_goes_through_every_module_of_a_cycle(tmp_path: Path) -> None:
    found = figures(
        tmp_path,
        {
            "src/chimera/a.py": "from chimera import b, d",
            "src/chimera/b.py": "import chimera.c",
            "src/chimera/c.py": "import chimera.b, chimera.d",
            "src/chimera/d.py": "if TYPE_CHECKING:\n    import chimera.e",
            "src/chimera/e.py": "",
        },
    )
    assert found["longest import chain"]["items"] == ["chimera.a", "chimera.b", "chimera.c", "chimera.d"]


def test_every_package_in_src_counts_where_all_of_src_is_meant(tmp_path: Path) -> None:
    found = figures(
        tmp_path,
        {
            "src/chimera/one.py": "class Kept: ...\nclass Line: ...\n",
            "src/chimera/in/two.py": "class Kept: ...\n",
            "src/beside/__init__.py": "class Line: ...\n" + "\n" * 500,
            "src/no_package/three.py": "class Line: ...\n",
        },
    )
    assert numbers(found, "files", "files, all of src", "files over 400 lines", "largest file, all of src") == [
        3,
        4,
        0,
        501,
    ]
    assert found["class names twice"]["items"] == ["Kept (chimera.in.two, chimera.one)"]
    assert found["class names twice, all of src"]["items"][1] == "Line (beside, chimera.one)"


def test_a_folder_has_its_modules_its_folders_with_modules_and_the_mark_of_types(tmp_path: Path) -> None:
    found = figures(
        tmp_path,
        {
            "src/chimera/py.typed": "",
            "src/chimera/one.py": "",
            "src/chimera/web/site.py": "",
            "src/chimera/web/home/deep.py": "",
            "src/chimera/texts/page.html": "",
            "src/chimera/__pycache__/one.pyc": "",
        },
    )
    labels = ("names in the root folder", "names in the fullest other folder", "levels of folders")
    assert numbers(found, *labels) == [4, 2, 3]
    assert found["names in the fullest other folder"]["note"] == "chimera/web"


def test_an_adapter_need_not_say_again_what_its_port_says(tmp_path: Path) -> None:
    adapter = '''
from chimera.ports import Log
class Kafka:
    """A broker."""
    def read(self): ...
    def append(self): ...
    def close(self): ...
    def other(self): ...
    def _private(self): ...
class Half:
    def read(self): ...
'''
    found = figures(tmp_path, {"src/chimera/ports.py": PORTS, "src/chimera/adapters/kafka.py": adapter})
    assert found["undocumented public names"]["items"] == [
        *(f"chimera.adapters.kafka.{name}" for name in ("Kafka.close", "Kafka.other", "Half", "Half.read")),
        "chimera.ports.Log.close",
    ]
    assert found["undocumented, in what others import"]["items"] == ["chimera.ports.Log.close"]
    assert (found["port Log"]["value"], found["port Log"]["note"]) == (3, "(2 + close)")


def test_any_and_long_lists_of_parameters_are_counted_in_the_code(tmp_path: Path) -> None:
    code = (
        "from typing import Any\nimport typing\n"
        "# Any\n"
        "def f(a: Any, b, c, d: dict[str, typing.Any], *e, g, h, **i): ...\n"
        "class C:\n    def m(self, a, b, c, d, e, f, g): ...\n"
    )
    found = figures(tmp_path, {"src/chimera/one.py": code})
    assert numbers(found, "Any", "Any as a word, imports and text too") == [2, 4]
    assert found["functions with over 7 parameters"]["items"] == ["chimera/one.py:4 f 8"]


def test_a_constant_is_patched_through_its_module_or_by_its_dotted_name(tmp_path: Path) -> None:
    test = """
def test_it(monkeypatch):
    monkeypatch.setattr(copies, "LOOK_S", 0.1)
    monkeypatch.setattr("chimera.copies._MOST", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(copies, "LOOK_S", "once.MORE")
    monkeypatch.setattr(copies, "Console", 1)
    monkeypatch.setattr("chimera.copies.look", 1)
    monkeypatch.setenv("LOOK_S", "1")
"""
    found = figures(tmp_path, {"tests/deep/test_it.py": test})
    assert found["constants patched by tests"]["items"] == ["chimera.copies._MOST 1", "copies.LOOK_S 2"]


def test_the_table_shows_before_now_and_goal_and_no_goal_is_of_a_figure_that_is_not_there(tmp_path: Path) -> None:
    before = checkout(tmp_path / "before", {"src/chimera/one.py": "", "src/chimera/ports.py": PORTS})
    now = checkout(tmp_path / "now", {})
    rows = [line.split() for line in house(now, "--against", before).splitlines()]
    assert rows[0] == ["before", "now", "goal"]
    assert ["files", "3", "1", "≤", "130"] in rows
    assert ["port", "Log", "3", "(2", "+", "close)", "-", "5"] in rows
    assert [row for row in rows if "-" in row and row[0] != "port"] == []
