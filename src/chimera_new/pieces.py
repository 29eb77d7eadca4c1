"""What is added to a service: code that works at the end of its module, and a test of it in a file of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import NamedTuple

from chimera.errors import ChimeraError, SettingsError
from chimera.run.settings import Settings
from chimera_new import templates
from chimera_new.source import Field, fields_of, names_in, with_code

SAMPLES = {"str": '"k1"', "int": "1", "float": "1.5", "bool": "True"}
"""Values of a field, by its type, for a test."""


class Addition(NamedTuple):
    """What is to be added. `of`: the event that it emits, folds or is changed by; the view of a list.

    `owner` and `mode` are a borrow's, `where` and `order` a list's.
    """

    name: str
    key: str = ""
    of: str = ""
    owner: str = ""
    mode: str = ""
    where: str = ""
    order: str = ""


class ServiceFile(NamedTuple):
    """Where it is added: a service, the module that it is in, and what it is called there."""

    service: str
    module: str
    app: str
    path: Path
    text: str


class Piece(NamedTuple):
    """What is written: the code, what it imports, the names that it takes, the test and its file's name."""

    code: str
    imports: Mapping[str, Sequence[str]]
    takes: Sequence[str]
    test: str
    about: str


Maker = Callable[[ServiceFile, Addition], Piece]
"""What makes a piece."""


def add(
    settings: Settings,
    folder: Path,
    service: str | None,
    make: Callable[[ServiceFile, Addition], Piece],
    wanted: Addition,
) -> list[str]:
    """Add to a service of a project; returns the files that were written. Raises SettingsError; then nothing was."""
    place = place_of(settings, service)
    if wanted.key:
        _check(r"[a-z_][a-z0-9_]*", wanted.key, "key", snake(wanted.key))
    piece = make(place, wanted)
    if taken := sorted({*piece.takes} & names_in(place.text)):
        raise SettingsError(f"{place.path.name} has {taken[0]!r} already; choose another name")
    test = folder / "tests" / f"test_{snake(wanted.name)}.py"
    if test.exists():
        raise SettingsError(f"{_near(test)} exists already; choose another name, or remove it")
    text = with_code(place.text, piece.imports, piece.code)
    _try(place, text)
    written = {place.path: text, test: f'"""{piece.about}."""\n\n{piece.test}'}
    if not (conftest := folder / "tests" / "conftest.py").exists():
        written[conftest] = templates.CONFTEST
    test.parent.mkdir(exist_ok=True)
    for path, content in written.items():
        path.write_text(content)
    return [_near(path) for path in written]


def place_of(settings: Settings, service: str | None) -> ServiceFile:
    """The place of a service, or of the only one. Raises SettingsError."""
    if service is None and len(settings.services) > 1:
        raise SettingsError(f"say which service: --service {' or --service '.join(settings.services)}")
    name = service or next(iter(settings.services))
    settings.check_service(name)
    app = settings.services[name].app
    module, _, attribute = app.partition(":")
    try:
        spec = find_spec(module) if module and attribute else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise SettingsError(f"app = {app!r}: there is no file of a module {module!r} to write to")
    path = Path(spec.origin)
    try:
        text = path.read_text()
        names_in(text)
    except SyntaxError as error:
        raise SettingsError(f"{path.name}:{error.lineno}: {error.msg}; nothing was written") from error
    return ServiceFile(name, module, attribute, path, text)


def event(place: ServiceFile, wanted: Addition) -> Piece:
    """An event with its key."""
    _check(r"[A-Z][A-Za-z0-9]*", wanted.name, "event", camel(wanted.name))
    words = {"name": wanted.name, "key": wanted.key, "service": place.service, "module": place.module}
    return Piece(
        templates.EVENT.substitute(words),
        {"chimera": ["Event"]},
        [wanted.name],
        templates.EVENT_TEST.substitute(words),
        f"The event {wanted.name}",
    )


def command(place: ServiceFile, wanted: Addition) -> Piece:
    """A command and its handler, which emits an event that has the same fields, where one is named."""
    _check(r"[A-Z][A-Za-z0-9]*", wanted.name, "command", camel(wanted.name))
    fields = [Field(wanted.key, "str")]
    body = '"""What it changes stands here: tx.save(…), tx.emit(…)."""'
    if wanted.of:
        given = _fields(place, wanted.of, wanted.key)
        fields += [each for each in given if each.name != wanted.key]
        body = f"tx.emit({wanted.of}({', '.join(f'{each.name}=command.{each.name}' for each in given)}))"
    words = {"name": wanted.name, "key": wanted.key, "path": kebab(wanted.name), "function": snake(wanted.name)}
    words |= {"app": place.app, "module": place.module, "service": place.service, "body": body}
    words["fields"] = "\n".join(f"    {each.name}: {each.type}" for each in fields)
    words["json"] = ", ".join(f'"{each.name}": {SAMPLES[each.type]}' for each in fields)
    return Piece(
        templates.COMMAND.substitute(words),
        {"chimera": ["Command", "Transaction"]},
        [wanted.name, words["function"]],
        templates.COMMAND_TEST.substitute(words),
        f"The command {wanted.name}, through log and write head",
    )


def view(place: ServiceFile, wanted: Addition) -> Piece:
    """A view that counts an event."""
    _check(r"[a-z][a-z0-9_]*", wanted.name, "view", snake(wanted.name))
    _fields(place, wanted.of, wanted.key)
    words = {"name": wanted.name, "key": wanted.key, "path": kebab(wanted.name), "document": camel(wanted.name)}
    words |= {"app": place.app, "event": wanted.of, "function": f"{snake(wanted.of)}_counts", "module": place.module}
    words["function"] = f"{words['function']}_in_{wanted.name}"
    return Piece(
        templates.VIEW.substitute(words),
        {"msgspec": ["Struct"]},
        [wanted.name, words["document"], words["function"]],
        templates.VIEW_TEST.substitute(words),
        f"The view {wanted.name}",
    )


def list_of_view(place: ServiceFile, wanted: Addition) -> Piece:
    """A list of a view, with a path."""
    _check(r"[a-z][a-z0-9-]*", wanted.name, "list", kebab(wanted.name))
    if wanted.of not in names_in(place.text):
        raise SettingsError(
            f"{place.path.name} has no view {wanted.of!r}; type: chimera add view {snake(wanted.of)} --key … --of …"
        )
    where = wanted.where and f'where="{wanted.where}", '
    path = f"{wanted.name}/{{{wanted.where}}}" if where else wanted.name
    words = {"name": wanted.name, "variable": snake(wanted.name), "view": wanted.of, "where": where}
    words |= {
        "app": place.app,
        "module": place.module,
        "order": wanted.order,
        "path": path,
        "asked": f"{wanted.name}/1" if where else wanted.name,
    }
    return Piece(
        templates.LIST.substitute(words),
        {},
        [words["variable"]],
        templates.LIST_TEST.substitute(words),
        f"The list {wanted.name}",
    )


def share(place: ServiceFile, wanted: Addition) -> Piece:
    """A share with a document for each key that is wanted for."""
    _check(r"[a-z][a-z0-9-]*", wanted.name, "share", kebab(wanted.name))
    _fields(place, wanted.of, wanted.key)
    words = {"name": wanted.name, "key": wanted.key, "document": camel(wanted.name), "function": snake(wanted.name)}
    words |= {"app": place.app, "module": place.module, "event": wanted.of, "service": place.service}
    return Piece(
        templates.SHARE.substitute(words),
        {"msgspec": ["Struct"], "chimera": ["Reads"]},
        [words["document"], words["function"]],
        templates.SHARE_TEST.substitute(words),
        f"The share {wanted.name}",
    )


def borrow_of(settings: Settings) -> Maker:
    """The maker of a borrow, with a page that shows what is borrowed."""

    def borrow(place: ServiceFile, wanted: Addition) -> Piece:
        _check(r"[a-z][a-z0-9-]*", wanted.name, "borrow", kebab(wanted.name))
        if wanted.owner not in settings.services or wanted.owner == place.service:
            others = [name for name in settings.services if name != place.service]
            raise SettingsError(
                f"--owner {wanted.owner}: it must be another service of the settings; "
                f"there are: {', '.join(others) or f'none; add [services.{wanted.owner}] with its app and url'}"
            )
        words = {"name": wanted.name, "key": wanted.key, "document": camel(wanted.name), "variable": snake(wanted.name)}
        owner_module, _, owner_app = (settings.services[wanted.owner].app or "").partition(":")
        words |= {
            "app": place.app,
            "module": place.module,
            "owner_module": owner_module,
            "owner_app": owner_app,
            "owner": wanted.owner,
            "mode": wanted.mode,
            "function": f"show_{snake(wanted.name)}",
        }
        return Piece(
            templates.BORROW.substitute(words),
            {"msgspec": ["Struct"], "chimera": ["Borrowed", "Reader"]},
            [words["document"], words["variable"], words["function"]],
            templates.BORROW_TEST.substitute(words),
            f"The borrow {wanted.name}",
        )

    return borrow


def camel(name: str) -> str:
    """A name as a class is called."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-_]", name))


def snake(name: str) -> str:
    """A name as a function is called."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def kebab(name: str) -> str:
    """A name as a path or a share is called."""
    return snake(name).replace("_", "-")


def _check(pattern: str, name: str, what: str, better: str) -> None:
    if not re.fullmatch(pattern, name):
        hint = f"; write it as {better}" if re.fullmatch(pattern, better) else ""
        raise SettingsError(f"{name!r} can't name a {what}{hint}")


def _fields(place: ServiceFile, event: str, key: str) -> list[Field]:
    """The fields of an event of this module that a test can fill. Raises SettingsError."""
    fields = fields_of(place.text, event)
    if fields is None:
        raise SettingsError(f"{place.path.name} has no event {event!r}; type: chimera add event {event} --key {key}")
    for each in fields:
        if each.type not in SAMPLES:
            raise SettingsError(
                f"{event} has the field {each.name}: {each.type}, for which no test can be written here"
            )
    if key not in [each.name for each in fields]:
        raise SettingsError(
            f"{event} has no field {key!r} for the key; its fields: {', '.join(each.name for each in fields)}"
        )
    return fields


def _try(place: ServiceFile, text: str) -> None:
    """Run the module as it would be. Raises SettingsError where it can't be declared so."""
    spec = find_spec(place.module)
    assert spec is not None
    module = module_from_spec(spec)
    before = sys.modules.get(place.module)
    sys.modules[place.module] = module
    try:
        exec(compile(text, place.path, "exec"), vars(module))  # noqa: S102 - it is the author's module
    except ChimeraError as error:
        raise SettingsError(f"{error}; nothing was written") from error
    except Exception as error:
        raise SettingsError(f"{place.path.name}: {type(error).__name__}: {error}; nothing was written") from error
    finally:
        sys.modules.pop(place.module)
        if before is not None:
            sys.modules[place.module] = before


def _near(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
