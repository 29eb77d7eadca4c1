"""The figures; how each is counted is said at the function that counts it.

A figure is of the library alone unless its label says "all of src".
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from structure.docstrings import Bases, public_names
from structure.imports import Graph, components, graph_of, import_statements, imported, longest_chain
from structure.sources import Definition, Function, Module, class_table, definitions, named, read_folder, read_source

LIBRARY = "chimera"
ALL = ", all of src"
CHAIN = "longest import chain"
LONG_FILE = 400
MANY_PARAMETERS = 7


class Figure(NamedTuple):
    """A number, a remark to show behind it, and the things that were counted."""

    value: int
    note: str = ""
    items: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.value:,} {self.note}".rstrip()


Figures = dict[str, Figure]
"""A label to its figure, in the order of the table."""


def measure(root: Path) -> Figures:
    """All figures of the checkout in this folder."""
    everything = read_source(root / "src")
    library = [module for module in everything if module.name.partition(".")[0] == LIBRARY]
    return {
        **sizes(library, everything),
        **folders(root / "src" / LIBRARY),
        **imports_between(library),
        **any_names(library),
        **classes_twice(library, everything),
        **ports(library),
        **undocumented(library, read_folder(root / "marketplace", root)),
        **patched_constants(read_folder(root / "tests", root)),
        **habits(library),
    }


def sizes(library: Sequence[Module], everything: Sequence[Module]) -> Figures:
    """Files and their lines, empty and commented ones too."""
    figures = {}
    for modules, where in ((library, ""), (everything, ALL)):
        largest = max(modules, key=lambda each: each.lines)
        long = [f"{module.path} {module.lines}" for module in modules if module.lines > LONG_FILE]
        figures[f"files{where}"] = Figure(len(modules))
        figures[f"lines{where}"] = Figure(sum(module.lines for module in modules))
        figures[f"median lines{where}"] = Figure(int(median(module.lines for module in modules)))
        figures[f"largest file{where}"] = Figure(largest.lines, str(largest.path))
        figures[f"files over {LONG_FILE} lines{where}"] = Figure(len(long), items=long)
    return figures


def folders(package: Path) -> Figures:
    """Names in a folder: Python files, folders with Python files, and `py.typed`; how deep folders go."""
    files = list(package.rglob("*.py"))
    inside = defaultdict(set)
    for path in [*files, *package.glob("py.typed")]:
        for child in [path, *path.parents]:
            if package in child.parents:
                inside[child.parent].add(child)
    counts = {folder.relative_to(package.parent): len(names) for folder, names in sorted(inside.items())}
    root = counts.pop(Path(package.name))
    fullest = max(counts, key=counts.__getitem__, default=Path())
    deepest = max(files, key=lambda path: len(path.parts)).relative_to(package.parent)
    return {
        "names in the root folder": Figure(root),
        "names in the fullest other folder": Figure(
            counts.get(fullest, 0), str(fullest), [f"{folder} {count}" for folder, count in counts.items()]
        ),
        "levels of folders": Figure(len(deepest.parts) - 1, str(deepest.parent)),
    }


def imports_between(library: Sequence[Module]) -> Figures:
    """Chains and cycles of imports.

    An import of `a.b` counts as one of `a.b`, not of `a`, whose `__init__.py` runs as well. Run time means when the
    module is imported; imports for type checkers only, and those inside functions, are added to it in turn.
    A package is a folder directly below the root, with all that is in it; the root's modules are one more, without
    `__main__.py`, which nobody imports.
    """
    names = {module.name for module in library}
    found = [(module.name, kind, to) for module in library for kind, to in imported(module, names)]
    home = {module.name: package_of(module) for module in library}
    figures, package_cycles = {}, {}
    for kinds, label in (
        (("run",), ""),
        (("run", "types"), ", types too"),
        (("run", "types", "function"), ", types and functions too"),
    ):
        pairs = [(name, to) for name, kind, to in found if kind in kinds]
        modules = graph_of(names, pairs)
        if not label:
            chain = longest_chain(modules)
            figures[CHAIN] = Figure(len(chain), "modules", chain)
        packages = graph_of(home.values(), [(home[name], home[to]) for name, to in pairs])
        figures[f"import cycles{label}"] = cycles_in(modules, "modules")
        package_cycles[f"package cycles{label}"] = cycles_in(packages, "packages")
    return {**figures, **package_cycles}


def package_of(module: Module) -> str:
    """The folder directly below the root that a module is in, or the root."""
    if module.path.parts[1:] == ("__main__.py",):
        return module.name
    return ".".join(module.path.parts[: min(2, len(module.path.parts) - 1)])


def cycles_in(graph: Graph, what: str) -> Figure:
    """The groups whose members all lead to each other, and the largest of them."""
    groups = sorted((each for each in set(components(graph).values()) if len(each) > 1), key=lambda each: -len(each))
    return Figure(len(groups), f"largest: {len(groups[0])} {what}", groups[0]) if groups else Figure(0)


def any_names(library: Sequence[Module]) -> Figures:
    """`Any` and `typing.Any` in the code, but for import statements; and the word wherever it stands (`grep -ow`)."""
    nodes = [node for module in library for node in ast.walk(module.tree) if isinstance(node, ast.Name | ast.Attribute)]
    words = sum(len(re.findall(r"\bAny\b", module.text)) for module in library)
    return {
        "Any": Figure(sum(named(node) == "Any" for node in nodes)),
        "Any as a word, imports and text too": Figure(words),
    }


def classes_twice(library: Sequence[Module], everything: Sequence[Module]) -> Figures:
    """Names of classes at the top of more than one module, and by how many classes they are too many."""
    figures = {}
    for modules, where in ((library, ""), (everything, ALL)):
        homes = defaultdict(list)
        for whole in sorted(class_table(modules)):
            home, _, name = whole.rpartition(".")
            homes[name].append(home)
        twice = {name: homes[name] for name in sorted(homes) if len(homes[name]) > 1}
        surplus = sum(len(each) - 1 for each in twice.values())
        items = [f"{name} ({', '.join(each)})" for name, each in twice.items()]
        figures[f"class names twice{where}"] = Figure(len(twice), f"({surplus} too many)" if twice else "", items)
    return figures


def ports(library: Sequence[Module]) -> Figures:
    """The methods that each Protocol in `chimera.ports` adds itself, without dunder methods; `close` is shown apart."""
    where = f"{LIBRARY}.ports"
    figures = {}
    for node in class_table(module for module in library if f"{module.name}.".startswith(f"{where}.")).values():
        if "Protocol" in map(named, node.bases):
            own = [each.name for each in definitions(node) if not each.name.startswith("__")]
            note = f"({len(own) - 1} + close)" if "close" in own else ""
            figures[f"port {node.name}"] = Figure(len(own), note, own)
    return figures


def undocumented(library: Sequence[Module], marketplace: Sequence[Module]) -> Figures:
    """Public classes, functions and methods without a docstring.

    Public: no part of the dotted name begins with an underscore. Left out are nested functions, overloads, setters and
    deleters, and methods that a base class or Protocol of the library documents under this name; a class has the
    Protocols that it names, and those all of whose methods it has. What others import are the modules that
    `chimera/__init__.py`, the adapters and the marketplace import, apart from the adapters themselves.
    """
    names = {module.name for module in library}
    adapters = {name for name in names if f"{name}.".startswith(f"{LIBRARY}.adapters.")}
    readers = [module for module in library if module.name in adapters | {LIBRARY}]
    used = {to for module in [*readers, *marketplace] for _, to in imported(module, names)} - adapters
    bases = Bases(library)
    public = [(module.name, name, node) for module in library for name, node in public_names(module, bases)]
    missing = [(module, name) for module, name, node in public if ast.get_docstring(node) is None]
    missing_used = [name for module, name in missing if module in used]
    total, total_used = len(public), sum(module in used for module, _, _ in public)
    return {
        "undocumented public names": Figure(len(missing), f"of {total:,}", [name for _, name in missing]),
        "undocumented, in what others import": Figure(len(missing_used), f"of {total_used:,}", missing_used),
    }


def patched_constants(tests: Sequence[Module]) -> Figures:
    """Calls of `setattr(module, "NAME", …)` and `setattr("module.NAME", …)` for UPPER_CASE names and those in _S."""
    patched = [name for module in tests for node in ast.walk(module.tree) if (name := constant_set(node))]
    each = [f"{name} {count}" for name, count in sorted(Counter(patched).items())]
    return {"constants patched by tests": Figure(len(patched), items=each)}


def constant_set(node: ast.AST) -> str | None:
    """The constant that a call of a `setattr` method sets, if it is one."""
    match node:
        case ast.Call(func=ast.Attribute(attr="setattr"), args=[ast.Constant(value=str(name)), _]):
            pass
        case ast.Call(func=ast.Attribute(attr="setattr"), args=[owner, ast.Constant(value=str(attribute)), *_]):
            name = f"{ast.unparse(owner)}.{attribute}"
        case _:
            return None
    return name if re.search(r"\.(_?[A-Z][A-Z0-9_]*|\w+_S)$", name) else None


def habits(library: Sequence[Module]) -> Figures:
    """Docstrings by their first word, what hides where a call leads, and long lists of parameters."""
    nodes = [(module, node) for module in library for node in ast.walk(module.tree)]
    kinds = [kind for module in library for kind, _ in import_statements(module.tree, "run")]
    texts = [
        text for _, node in nodes if isinstance(node, Definition | ast.Module) and (text := ast.get_docstring(node))
    ]
    vague = [text for text in texts if re.match(r"(What|How|Where|Whether|Those)\b", text)]
    partials = [node for _, node in nodes if isinstance(node, ast.Call) and named(node.func) == "partial"]
    functions = [(module, node, parameters(node)) for module, node in nodes if isinstance(node, Function)]
    many = [
        f"{module.path}:{node.lineno} {node.name} {count}"
        for module, node, count in functions
        if count > MANY_PARAMETERS
    ]
    return {
        "docstrings that begin with What, How …": Figure(len(vague), f"of {len(texts):,}"),
        "lambdas": Figure(sum(isinstance(node, ast.Lambda) for _, node in nodes)),
        "partials": Figure(len(partials)),
        "imports inside functions": Figure(kinds.count("function")),
        f"functions with over {MANY_PARAMETERS} parameters": Figure(len(many), items=many),
    }


def parameters(function: Function) -> int:
    """The number of parameters of a function, `*` and `**` among them, self and cls not."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return sum(each is not None and each.arg not in ("self", "cls") for each in every)
