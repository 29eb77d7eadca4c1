"""The shape that is worth keeping: rooms in order, small folders, short chains, engines in their adapters."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structure.figures import Figures, measure
from structure.imports import imported
from structure.sources import Module, read_source

import chimera

ROOT = Path(__file__).parents[1]
MODULES = {module.name: module for module in read_source(ROOT / "src")}
LIBRARY = {name: module for name, module in MODULES.items() if name.partition(".")[0] == "chimera"}

ORDER = [
    "chimera",
    "chimera.core",
    "chimera.journal",
    "chimera.share",
    "chimera.commands",
    "chimera.views",
    "chimera.borrow",
    "chimera.upkeep",
    "chimera.web",
    "chimera.run",
    "chimera.cli",
    "chimera.adapters",
    "chimera.testing",
]
"""The rooms: a module imports from its own and from those above it, types and imports in functions included."""

BESIDE = {
    "rabbitstream": set[str](),
    "chimera_deploy": {"chimera"},
    "chimera_compare": {"chimera"},
    "chimera_faults": {"chimera", "chimera_compare"},
    "chimera_new": {"chimera"},
    "chimera_contracts": {"chimera"},
    "chimera_issuer": {"chimera"},
}
"""The packages beside the library, and which others of ours they import. The library imports only `rabbitstream`."""

ALLOWED_TO_ADAPTERS = {
    *(f"chimera.{name}" for name in ("entities", "errors", "messages", "ports")),
    *(f"chimera.core.{name}" for name in ("aio.signals", "paging")),
}


@pytest.fixture(scope="module")
def figures() -> Figures:
    return measure(ROOT)


def room_of(name: str) -> str:
    parts = name.split(".")
    room = ".".join(parts[:2])
    return room if len(parts) > 1 and room in ORDER else "chimera"


def own_imports(module: Module) -> set[str]:
    return {name for _, name in imported(module, set(MODULES))}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_module_imports_only_from_its_room_and_those_above_it(name: str) -> None:
    if name == "chimera.__main__":
        return
    above = set(ORDER[: ORDER.index(room_of(name)) + 1])
    found = {each for each in own_imports(LIBRARY[name]) if each.partition(".")[0] == "chimera"}
    assert not {each for each in found if room_of(each) not in above}


@pytest.mark.parametrize("package", BESIDE)
def test_a_package_beside_the_library_imports_only_what_it_stands_on(package: str) -> None:
    own = [module for name, module in MODULES.items() if name.partition(".")[0] == package]
    others = {each.partition(".")[0] for module in own for each in own_imports(module)} - {package}
    assert others <= BESIDE[package]


def test_the_library_knows_nothing_of_what_stands_beside_it() -> None:
    named = {each.partition(".")[0] for module in LIBRARY.values() for each in own_imports(module)}
    assert named <= {"chimera", "rabbitstream"}


def test_there_is_no_import_cycle_types_and_imports_in_functions_included(figures: Figures) -> None:
    cycles = {label: figure.value for label, figure in figures.items() if "cycle" in label}
    assert cycles
    assert not any(cycles.values())


def test_folders_chains_and_files_stay_small(figures: Figures) -> None:
    values = {label: figure.value for label, figure in figures.items()}
    assert values["names in the root folder"] <= 35
    assert values["names in the fullest other folder"] <= 12
    assert values["levels of folders"] <= 3
    assert values["longest import chain"] <= 21
    assert len([name for name in figures["longest import chain"].items if room_of(name) != "chimera.testing"]) <= 17
    assert values["largest file, all of src"] <= 500


def test_a_class_name_is_defined_once(figures: Figures) -> None:
    assert not figures["class names twice, all of src"].items


ADAPTERS = [module for name, module in LIBRARY.items() if room_of(name) == "chimera.adapters"]


@pytest.mark.parametrize("module", ADAPTERS, ids=lambda module: module.name)
def test_an_adapter_imports_only_ports_errors_messages_entities_and_what_adapters_share(module: Module) -> None:
    own = {each for each in own_imports(module) if not each.startswith(("chimera.adapters", "rabbitstream"))}
    assert own <= ALLOWED_TO_ADAPTERS


OF_THE_SYSTEM = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "sleep"},
    "os": {"urandom"},
    "uuid": {"uuid1", "uuid4"},
    "datetime": {"now", "today", "utcnow"},
    "random": {"random", "choice", "randint", "shuffle", "uniform"},
    "secrets": {"token_hex", "token_bytes", "randbelow"},
}
"""What is asked for by `chimera.core.clock` alone, so that a simulation decides it."""
OUTSIDE = ("chimera.adapters", "chimera.cli", "chimera.testing", "chimera.core.clock")
"""Engines, the command line and tests, which no simulation runs; and the clock itself."""
PROCESSES = {"chimera.run.serving", "chimera.run.supervisor", "chimera.run.front.gateway"}
"""Processes of the operating system: signals, ports, children."""


@pytest.mark.parametrize("name", [name for name in LIBRARY if not name.startswith(OUTSIDE) and name not in PROCESSES])
def test_time_and_chance_come_from_the_clock_that_is_handed_in(name: str) -> None:
    asked = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(LIBRARY[name].tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr in OF_THE_SYSTEM.get(node.value.id, ())
    ]
    assert asked == []


DECLARING = {
    "chimera",
    *(
        f"chimera.{name}"
        for name in (
            "caller",
            "entities",
            "errors",
            "finding",
            "reads",
            "folds",
            "forms",
            "messages",
            "replies",
            "rules",
            "signature",
            "supplies",
        )
    ),
    *(
        f"chimera.{name}"
        for name in (
            "forms",
            "parts",
            "personal",
            "ports",
            "reader",
            "service",
            "signature",
            "supplies",
            "transaction",
            "unique",
            "versions",
        )
    ),
}
ASKING = {
    "chimera.cli",
    "chimera.cli.main",
    "chimera.cli.typed",
    "chimera.core",
    "chimera.core.timing",
    "chimera.run",
    "chimera.run.front.identity",
    "chimera.run.front.keys",
    "chimera.web.identity.people",
    "chimera.run.front",
    "chimera.run.front.settings",
    "chimera.run.settings",
    "chimera.web",
    "chimera.web.identity",
    "chimera.web.identity.settings",
}
OF_MSGSPEC = {"msgspec", "typing_extensions"}
RUNNING = {"asyncio", "http", "socket", "sqlite3", "ssl", "subprocess"}


@pytest.mark.parametrize(
    ("module", "own", "others"),
    [("chimera", DECLARING, OF_MSGSPEC), ("chimera.cli.main", DECLARING | ASKING, OF_MSGSPEC | {"click"})],
)
def test_declaring_a_service_and_asking_for_help_load_nothing_of_what_runs_one(
    module: str, own: set[str], others: set[str]
) -> None:
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = set(ran.stdout.split())
    packages = {name.partition(".")[0] for name in loaded}
    assert {name for name in loaded if name.partition(".")[0] == "chimera"} == own
    assert packages - sys.stdlib_module_names - {"chimera"} <= others
    assert packages & RUNNING == set()


def test_the_public_names_are_these() -> None:
    assert chimera.__all__ == [
        "DELETED",
        "Application",
        "Borrow",
        "Borrowed",
        "Caller",
        "ChimeraError",
        "Command",
        "Conflict",
        "Cookie",
        "DeclarationError",
        "Entity",
        "Event",
        "Expired",
        "FieldError",
        "Forgotten",
        "FormPart",
        "Handling",
        "InColumn",
        "Invalid",
        "Lagging",
        "ListPage",
        "Message",
        "ModelCommand",
        "ModelEvent",
        "NewId",
        "Personal",
        "Position",
        "Problem",
        "Range",
        "Reader",
        "Reads",
        "Rejected",
        "Reply",
        "Request",
        "Rule",
        "Secret",
        "ServerEvent",
        "ServerEvents",
        "Service",
        "SettingsError",
        "Stream",
        "Subject",
        "Taken",
        "Transaction",
        "Unavailable",
        "Unique",
        "Upload",
        "View",
        "ViewList",
        "Work",
        "anyone",
        "asgi",
        "owner_of",
        "redirect",
        "role",
        "rule",
        "scope",
        "somebody",
        "tenant_of",
    ]
    assert all(hasattr(chimera, name) for name in chimera.__all__)


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_a_module_says_what_it_is_for(module: Module) -> None:
    assert len(ast.get_docstring(module.tree) or "") > 10, f"{module.name} has no docstring"


MIRRORED = {
    f"chimera.{name}": name for name in ("core", "journal", "share", "commands", "views", "borrow", "upkeep")
} | {f"chimera.{name}": name for name in ("web", "run", "cli", "adapters", "testing")}
MIRRORED |= {"chimera_faults": "faults", "chimera_compare": "compare", "chimera_deploy": "deploy"}
MIRRORED |= {"chimera_new": "new", "chimera_contracts": "contracts", "chimera_issuer": "issuer"}
MIRRORED |= {"rabbitstream": "rabbitstream"}
WHOLE = {
    "builds.py",
    "conftest.py",
    "docs",
    "e2e",
    "evolution",
    "marketplace",
    "mortal.py",
    "support.py",
    "tools",
    "types",
    "upgrade",
}
WHOLE |= {"test_shape.py"}
"""What tests of the whole, and helpers, are called."""


def test_tests_mirror_the_packages() -> None:
    here = {path.name for path in (ROOT / "tests").iterdir() if path.name != "__pycache__"}
    of_root = {f"test_{path.stem}.py" for path in (ROOT / "src" / "chimera").glob("*.py")} | {"test_keys.py"}
    assert {room for room in MIRRORED.values() if room not in here} == set()
    assert here - set(MIRRORED.values()) - WHOLE - of_root == set()
