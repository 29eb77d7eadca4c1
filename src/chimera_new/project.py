"""A new project: a service, its settings, a Makefile, tests."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from chimera.errors import SettingsError
from chimera_new import templates

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


def new_project(folder: Path) -> list[str]:
    """Write a project into a folder that is called as its service; returns its files. Raises SettingsError."""
    service = folder.name
    module = service.replace("-", "_")
    if not _NAME.fullmatch(service) or service.endswith("-"):
        raise SettingsError(f"{service!r} can't name a service; use lower case letters, digits and dashes, as in: shop")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module == "tests" or _is_installed(module):
        raise SettingsError(f"there is a module {module!r} already; choose another name, as in: {service}-service")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} exists and is not empty; choose another name, or remove it")
    files = _files(service, module)
    try:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    except OSError as error:
        raise SettingsError(f"{folder} can't be written: {error.strerror}; choose another folder") from error
    return list(files)


def _files(service: str, module: str) -> Mapping[str, str]:
    named = {"service": service, "module": module, "title": service.replace("-", " ").capitalize()}
    return {
        f"{module}.py": templates.SERVICE.substitute(named),
        "chimera.toml": templates.SETTINGS.substitute(named),
        "Makefile": templates.MAKEFILE,
        "README.md": templates.README.substitute(named),
        "requirements.txt": templates.REQUIREMENTS,
        "requirements-dev.txt": templates.REQUIREMENTS_DEV,
        "pytest.ini": templates.PYTEST,
        ".gitignore": templates.IGNORED,
        "tests/conftest.py": templates.CONFTEST,
        f"tests/test_{module}.py": templates.TESTS.substitute(named),
    }


def _is_installed(module: str) -> bool:
    """True where the name would hide a package that is installed; what lies in the current folder hides nothing."""
    found = find_spec(module)
    return found is not None and found.origin is not None and "site-packages" in found.origin
