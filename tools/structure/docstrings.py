"""The classes, functions and methods that should have a docstring."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence

from structure.sources import Definition, Module, class_table, definitions, is_public, named


def public_names(module: Module, bases: Bases) -> Iterator[tuple[str, Definition]]:
    """The public classes, functions and methods of a module that should have a docstring, by their whole names."""
    if any(part.startswith("_") for part in module.name.split(".")):
        return
    for node in definitions(module.tree):
        whole = f"{module.name}.{node.name}"
        if not is_public(node):
            continue
        yield whole, node
        for method in definitions(node) if isinstance(node, ast.ClassDef) else ():
            if is_public(method) and method.name not in bases.documented(whole):
                yield f"{whole}.{method.name}", method


class Bases:
    """Classes and their bases, as far as names tell: a base is looked for in the same module, then anywhere."""

    def __init__(self, library: Sequence[Module]) -> None:
        self._classes = class_table(library)
        self._named = defaultdict(list)
        for whole in self._classes:
            self._named[whole.rpartition(".")[2]].append(whole)
        self._protocols = {
            whole: methods
            for whole, node in self._classes.items()
            if "Protocol" in map(named, node.bases) and len(methods := self._methods(whole)) > 1
        }

    def documented(self, whole: str) -> set[str]:
        """The methods of a class that one of its bases or Protocols documents."""
        methods = self._methods(whole)
        above = set(self._above(whole))
        for protocol, asked in self._protocols.items():
            if asked <= methods:
                above |= {protocol, *self._above(protocol)}
        nodes = [method for name in above - {whole} for method in definitions(self._classes[name])]
        return {method.name for method in nodes if ast.get_docstring(method) is not None}

    def _methods(self, whole: str) -> set[str]:
        every = {node.name for name in [whole, *self._above(whole)] for node in definitions(self._classes[name])}
        return {name for name in every if not name.startswith("__")}

    def _above(self, whole: str, below: tuple[str, ...] = ()) -> Iterator[str]:
        for base in map(named, self._classes[whole].bases):
            beside = f"{whole.rpartition('.')[0]}.{base}"
            for name in [beside] if beside in self._classes else self._named.get(base, ()):
                if name not in (whole, *below):
                    yield name
                    yield from self._above(name, (whole, *below))
