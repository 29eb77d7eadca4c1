"""A module as text: what stands in it, and the same with more imports and more code at its end."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NamedTuple

WIDTH = 100


class Field(NamedTuple):
    """A field of a class that has to be given: its name, and its type as it is written."""

    name: str
    type: str


def names_in(text: str) -> set[str]:
    """The names that stand at the top of a module. Raises SyntaxError."""
    found: set[str] = set()
    for node in ast.parse(text).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.Import() | ast.ImportFrom():
                found |= {each.asname or each.name.partition(".")[0] for each in node.names}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def fields_of(text: str, name: str) -> list[Field] | None:
    """The fields of a class that have no default, in order; None where there is no such class."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return [
                Field(each.target.id, ast.unparse(each.annotation))
                for each in node.body
                if isinstance(each, ast.AnnAssign) and each.value is None and isinstance(each.target, ast.Name)
            ]
    return None


def with_code(text: str, imports: Mapping[str, Sequence[str]], code: str) -> str:
    """A module with code at its end, and with what that code imports, by module."""
    for module, names in imports.items():
        text = _with_import(text, module, names)
    return f"{text.rstrip()}\n\n\n{code}"


def _with_import(text: str, module: str, names: Sequence[str]) -> str:
    lines, body = text.splitlines(keepends=True), ast.parse(text).body
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module == module and not any(each.asname for each in node.names):
            wanted = sorted({each.name for each in node.names} | {*names}, key=_order)
            lines[node.lineno - 1 : node.end_lineno] = [_import(module, wanted)]
            return "".join(lines)
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    at = (imports[-1].end_lineno if imports else _docstring_end(body)) or 0
    lines[at:at] = [*(["\n"] if at and not imports else []), _import(module, sorted(names, key=_order))]
    return "".join(lines)


def _order(name: str) -> tuple[int, str]:
    """Names in capitals first, then classes, then the others, as import sorters have them."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def _import(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}\n"
    return (
        line
        if len(line) <= WIDTH
        else f"from {module} import (\n" + "".join(f"    {each},\n" for each in names) + ")\n"
    )


def _docstring_end(body: Sequence[ast.stmt]) -> int:
    match body[:1]:
        case [ast.Expr(value=ast.Constant(value=str())) as first]:
            return first.end_lineno or 0
    return 0
