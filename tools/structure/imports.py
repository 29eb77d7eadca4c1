"""Imports between modules, and the chains and cycles that they form."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache

from structure.sources import Function, Module, named

Graph = Mapping[str, set[str]]
"""A module, or a package, to those that it imports."""


def imported(module: Module, names: set[str]) -> Iterator[tuple[str, str]]:
    """The modules in `names` that this one imports, each with when: `run`, `types` or `function`."""
    package = module.name.split(".") if module.path.name == "__init__.py" else module.name.split(".")[:-1]
    for kind, node in import_statements(module.tree, "run"):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            inner = [f"{source}.{alias.name}" for alias in node.names]
            targets = [each if each in names else source for each in inner]
        yield from ((kind, target) for target in targets if target in names and target != module.name)


def import_statements(parent: ast.AST, kind: str) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """The import statements below a node, each with when it runs."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield kind, node
        elif isinstance(node, Function):
            yield from import_statements(node, "function")
        elif isinstance(node, ast.If) and named(node.test) == "TYPE_CHECKING":
            yield from import_statements(ast.Module(node.body, []), "types")
            yield from import_statements(ast.Module(node.orelse, []), kind)
        else:
            yield from import_statements(node, kind)


def graph_of(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Graph:
    """These names, each with those that it leads to, apart from itself."""
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, to in pairs:
        if name != to:
            graph[name].add(to)
    return graph


def components(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Each name with all those that it can reach and that can reach it, itself among them."""
    reached: dict[str, set[str]] = {}
    for name in graph:
        reached[name], waiting = {name}, [name]
        while waiting:
            new = graph[waiting.pop()] - reached[name]
            reached[name] |= new
            waiting += new
    return {name: tuple(sorted(to for to in reached[name] if name in reached[to])) for name in graph}


def longest_chain(graph: Graph) -> Sequence[str]:
    """The most names in a row of which each leads to the next; a cycle is in it as a whole."""
    component = components(graph)

    @cache
    def below(part: tuple[str, ...]) -> tuple[str, ...]:
        following = {component[to] for name in part for to in graph[name]} - {part}
        return part + max(map(below, sorted(following)), key=len, default=())

    return max(map(below, sorted(set(component.values()))), key=len, default=())
