"""What a function reads of the message that it is handed, told from its source; all of it where that can't be told.

Nothing is run. A field counts as read where the parameter is followed by its name, here or in a function that the
parameter is handed on to. Whatever else is done with the parameter may read all of it.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from types import FunctionType
from typing import Any, NamedTuple

from chimera.forms import fields_of

Fields = frozenset[str] | None
"""Names of fields; None for all, or for whatever can't be told."""
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

DEEPEST = 8
"""Functions that a message is followed through, one within the other."""
NOTHING: Fields = frozenset[str]()


class Read(NamedTuple):
    """What is read of a message: fields, as they are called in JSON, and `strange`, what its class has not at all.

    `perhaps`: what it has not, and what may be read of another message at the same place.
    """

    fields: Fields
    strange: frozenset[str] = frozenset()
    perhaps: frozenset[str] = frozenset()

    def and_(self, other: Read) -> Read:
        """What either reads."""
        fields = None if self.fields is None or other.fields is None else self.fields | other.fields
        return Read(fields, self.strange | other.strange, self.perhaps | other.perhaps)

    @property
    def of_several(self) -> Read:
        """The same, of a function that is handed other messages as well: what this one has not may be theirs."""
        return Read(self.fields, frozenset(), self.strange | self.perhaps)


def read_by(function: Callable[..., Any], place: int, of: type, *, many: bool = False) -> Read:
    """What a function reads of a message of class `of`, its parameter at `place`; `many`: of each one in a batch."""
    named = _Function(function)
    found = named.attributes(place, many=many, depth=0)
    if found is None:
        return Read(None)
    in_json = {each.name: each.encode_name for each in fields_of(of)}
    read = Read(frozenset(told for name, told in in_json.items() if name in found and told))
    for name in sorted(found - in_json.keys()):
        read = read.and_(_of_member(of, name))
    return read.of_several if many or named.asks else read


def _of_member(of: type, name: str) -> Read:
    """What is read by a property or a method of the message's own."""
    try:
        member = inspect.getattr_static(of, name)
    except AttributeError:
        return Read(NOTHING, frozenset({name}))
    if name == "key" and isinstance(keys := getattr(of, "__key_fields__", None), tuple):
        in_json = {each.name: each.encode_name for each in fields_of(of)}
        return Read(frozenset(str(in_json.get(key, key)) for key in keys[:1]))
    if isinstance(member, property) and member.fget is not None:
        return read_by(member.fget, 0, of)
    if isinstance(member, FunctionType):
        return read_by(member, 0, of)
    return Read(NOTHING if isinstance(member, classmethod | staticmethod) else None)


class _Function:
    """A function's source, as far as it can be found."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = inspect.unwrap(function)
        self.node = _node_of(self._function)

    @property
    def asks(self) -> bool:
        """True where it looks at what it was handed, before it reads."""
        return not self._names.isdisjoint({"isinstance", "hasattr", "type"})

    def attributes(self, place: int, *, many: bool, depth: int) -> set[str] | None:
        """The names that follow a parameter, or each of its items; None where more may be read."""
        names = [*self.node.args.posonlyargs, *self.node.args.args] if self.node else []
        if place >= len(names) or depth > DEEPEST or self._names & {"locals", "vars", "eval", "exec"}:
            return None
        name = names[place].arg
        if not many:
            return self._follow([name], set(), depth)
        items = self._items(name)
        return None if items is None else self._follow([each.id for each in items], {id(each) for each in items}, depth)

    def _items(self, name: str) -> list[ast.Name] | None:
        """What the items of a batch are called; None where something else is done with it."""
        found = []
        for each in self._uses(name):
            above = self._above.get(each)
            is_looped = isinstance(above, ast.For | ast.AsyncFor | ast.comprehension) and above.iter is each
            if is_looped and isinstance(above.target, ast.Name):  # type: ignore[union-attr]  # it is one of them
                found.append(above.target)  # type: ignore[union-attr]
            elif not _is_argument_of(above, each, "len"):
                return None
        return found

    def _follow(self, names: Sequence[str], given: set[int], depth: int) -> set[str] | None:
        found: set[str] = set()
        for name in dict.fromkeys(names):
            for each in self._uses(name):
                read = set() if id(each) in given else self._read_at(each, depth)
                if read is None:
                    return None
                found |= read
        return found

    def _read_at(self, name: ast.Name, depth: int) -> set[str] | None:
        above = self._above.get(name)
        if not isinstance(name.ctx, ast.Load):
            return None
        if isinstance(above, ast.Attribute):
            return {above.attr}
        if _is_argument_of(above, name, "isinstance"):
            return set()
        if _is_argument_of(above, name, "getattr"):
            told = self._value(above.args[1])  # type: ignore[union-attr]  # it is a call
            return {told} if isinstance(told, str) else None
        if isinstance(above, ast.Call) and name in above.args and not above.keywords:
            return self._handed_on(above, above.args.index(name), depth)
        return None

    def _handed_on(self, call: ast.Call, place: int, depth: int) -> set[str] | None:
        called = self._value(call.func)
        if not isinstance(called, FunctionType) or any(isinstance(each, ast.Starred) for each in call.args):
            return None
        return _Function(called).attributes(place, many=False, depth=depth + 1)

    def _value(self, node: ast.AST) -> object:
        """What a name or a constant stands for, where it is not this function's own."""
        if isinstance(node, ast.Constant):
            return node.value
        if not isinstance(node, ast.Name) or node.id in self._function.__code__.co_varnames:
            return None
        return self._around.get(node.id)

    @cached_property
    def _names(self) -> set[str]:
        return {each.id for each in ast.walk(self.node) if isinstance(each, ast.Name)} if self.node else set()

    @cached_property
    def _around(self) -> Mapping[str, object]:
        known = inspect.getclosurevars(self._function)
        return {**known.builtins, **self._function.__globals__, **known.nonlocals}

    @cached_property
    def _above(self) -> Mapping[ast.AST, ast.AST]:
        return (
            {child: each for each in ast.walk(self.node) for child in ast.iter_child_nodes(each)} if self.node else {}
        )

    def _uses(self, name: str) -> Iterator[ast.Name]:
        bodies = self.node.body if self.node else []
        for body in bodies if isinstance(bodies, list) else [bodies]:
            for each in ast.walk(body):
                if isinstance(each, ast.arg) and each.arg == name:
                    yield ast.Name(name, ast.Store())  # another thing of this name
                if isinstance(each, ast.Name) and each.id == name:
                    yield each


def _is_argument_of(call: ast.AST | None, name: ast.Name, of: str) -> bool:
    """True where the name is what the builtin of this name is called with first."""
    called = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == of
    return called and bool(call.args) and call.args[0] is name  # type: ignore[union-attr]  # it is a call


def _node_of(function: object) -> Definition | None:
    """The function in its file; None where it is not there, or not to be told from another one."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    found = [each for each in _defined_in(code.co_filename) if _is_of(each, code.co_firstlineno, function.__name__)]
    count = code.co_argcount
    found = [each for each in found if len([*each.args.posonlyargs, *each.args.args]) == count]
    return found[0] if len(found) == 1 else None


def _is_of(node: Definition, line: int, name: str) -> bool:
    if isinstance(node, ast.Lambda):
        return name == "<lambda>" and node.lineno == line
    return node.name == name and line in (node.lineno, *(each.lineno for each in node.decorator_list))


@cache
def _defined_in(path: str) -> Sequence[Definition]:
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return ()
    return [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
