"""Tools for tests of a service or an adapter: the kit, engines in memory, broken ones, contract suites, waiting."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chimera.testing.kit import RunningServices, Tried, folded, given, personal, running

__all__ = ["RunningServices", "Tried", "folded", "given", "personal", "running"]


def __getattr__(name: str) -> Any:
    """The names of the kit, loaded when they are asked for: contract suites and engines need nothing of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module("chimera.testing.kit"), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"chimera.testing.{name} needs {error.name}: pip install 'chimera-kit[testing]'") from error
