"""Python files, parsed, and what is defined in them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


class Module(NamedTuple):
    """A file of source, parsed. `name` is dotted, and a package's own for its `__init__.py`; `path` is inside src."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """The number of lines of the file."""
        return len(self.text.splitlines())


def read_source(src: Path) -> list[Module]:
    """The modules of every import package in a folder."""
    return [module for init in sorted(src.glob("*/__init__.py")) for module in read_folder(init.parent, src)]


def read_folder(folder: Path, base: Path) -> list[Module]:
    """The Python files in a folder and below, named as seen from `base`."""
    return [read_module(path, base) for path in sorted(folder.rglob("*.py"))]


def read_module(path: Path, base: Path) -> Module:
    """One file, parsed."""
    relative, text = path.relative_to(base), path.read_text()
    name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    return Module(name, relative, text, ast.parse(text, filename=str(path)))


def definitions(parent: ast.AST) -> Iterator[Definition]:
    """The functions and classes of a module or class, those under an `if` or `try` too; no nested ones."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Definition):
            yield node
        else:
            yield from definitions(node)


def class_table(modules: Iterable[Module]) -> dict[str, ast.ClassDef]:
    """The classes at the top of modules, by their whole name."""
    return {
        f"{module.name}.{node.name}": node
        for module in modules
        for node in definitions(module.tree)
        if isinstance(node, ast.ClassDef)
    }


def is_public(node: Definition) -> bool:
    """True for a definition without underscore that does not complete another one, as a setter does."""
    again = {"overload", "setter", "deleter"}
    return not node.name.startswith("_") and again.isdisjoint(map(named, node.decorator_list))


def named(node: ast.AST) -> str:
    """The last part of a dotted name, without what stands in brackets behind it; empty for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value):
            return named(value)
    return ""
