"""The shape that is worth keeping."""

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import chimera
from chimera import ports

SOURCE = Path(chimera.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
ADAPTERS = [path for path in FILES if "adapters" in path.relative_to(SOURCE).parts and path.name != "__init__.py"]


def name_of(path: Path) -> str:
    parts = ("chimera", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """What a module imports when it is imported; imports for type checkers and inside functions don't count."""
    for node in _top_level(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module or ""


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.unparse(node.test):
                yield from _top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _top_level([*node.body, *(s for h in node.handlers for s in h.body), *node.orelse])
        else:
            yield node


def test_there_is_no_import_cycle() -> None:
    graph = {name: {each for each in imported(path) if each in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for each in sorted(graph[name]):
                visit(each, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


ALLOWED = {
    f"chimera.{name}" for name in ("messages", "errors", "ports", "entities", "signals", "lastknown", "migrations")
}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.name)
def test_an_adapter_imports_only_messages_errors_ports_entities_signals_and_what_adapters_share(path: Path) -> None:
    own = {each for each in imported(path) if each.split(".")[0] == "chimera"}
    assert {each for each in own if not each.startswith("chimera.adapters.")} <= ALLOWED


DECLARING = {
    "chimera",
    *(f"chimera.{name}" for name in ("borrowed", "entities", "errors", "folding", "messages")),
    *(f"chimera.{name}" for name in ("ports", "reader", "service", "transaction")),
}
OF_MSGSPEC = {"msgspec", "typing_extensions"}
RUNNING = {"asyncio", "email", "http", "socket", "sqlite3", "ssl", "subprocess"}


@pytest.mark.parametrize(
    ("module", "own", "others"),
    [
        ("chimera", DECLARING, OF_MSGSPEC),
        ("chimera.cli", DECLARING | {"chimera.cli", "chimera.settings"}, OF_MSGSPEC | {"click"}),
    ],
)
def test_declaring_a_service_and_asking_for_help_load_nothing_of_what_runs_one(
    module: str, own: set[str], others: set[str]
) -> None:
    code = f"import sys; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = set(ran.stdout.split())
    packages = {name.partition(".")[0] for name in loaded}
    assert {name for name in loaded if name.partition(".")[0] == "chimera"} == own
    assert packages - sys.stdlib_module_names - {"chimera"} <= others
    assert packages & RUNNING == set()


def test_the_public_names_are_these() -> None:
    assert chimera.__all__ == [
        "DELETED",
        "Borrow",
        "Borrowed",
        "ChimeraError",
        "Command",
        "Conflict",
        "DeclarationError",
        "Entity",
        "Event",
        "Invalid",
        "Message",
        "Position",
        "Reader",
        "Reads",
        "Rejected",
        "Reply",
        "Service",
        "SettingsError",
        "Transaction",
        "Unavailable",
        "View",
    ]
    assert all(hasattr(chimera, name) for name in chimera.__all__)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_says_what_it_is_for_and_is_not_too_long(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= (800 if path in ADAPTERS else 500), f"{path} is too long"


@pytest.mark.parametrize("port", [ports.Log, ports.Store, ports.ViewStore, ports.Owner, ports.Session])
def test_a_port_has_at_most_seven_methods(port: type) -> None:
    methods = [name for name, value in vars(port).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert 1 <= len(methods) <= 7
