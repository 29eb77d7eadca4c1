"""YAML out of plain data, with a line above it that says where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chimera.errors import SettingsError


def header(command: str, advice: str) -> str:
    """The comment at the top of a written file: the command line that wrote it, and what to do instead of editing."""
    return f"# Written by `{command}`, from chimera.toml. {advice}\n"


def to_yaml(documents: Sequence[dict[str, Any]]) -> str:
    """The documents of one file, keys in the order they have. Raises SettingsError without PyYAML."""
    try:
        import yaml
    except ImportError as error:
        raise SettingsError("chimera deploy needs PyYAML: pip install 'chimera-kit[deploy]'") from error

    class Dumper(yaml.SafeDumper):
        """No anchors, lists set in, and lines kept as lines."""

        def ignore_aliases(self, data: object) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            return super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=200)
