"""The headers that every command may have, as they are described."""

from __future__ import annotations


def _described(name: str, pattern: str, told: str) -> dict[str, object]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": told}


OF_COMMANDS = [
    _described(
        "Idempotency-Key",
        "^[!-~]{1,255}$",
        "The same key is the same command, however often it is sent; with another payload it is refused.",
    ),
    _described(
        "Chimera-Correlation",
        "^[!-~]{0,128}$",
        "The chain of commands and events that it belongs to; without one, it begins its own.",
    ),
]
