"""What Docker and this machine's own servers both do."""

from collections.abc import Mapping
from typing import Protocol

from settings import log_of


class ServerError(Exception):
    """What went wrong, in one line that says which engine and what to look at."""

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(f"{engine}: {reason}; log: {log_of(engine)}")


class Backend(Protocol):
    TITLES: Mapping[str, str]

    def start(self, names: list[str]) -> list[ServerError]: ...

    def stop(self, names: list[str]) -> list[ServerError]: ...

    def kill(self, names: list[str]) -> list[ServerError]: ...

    def describe(self, name: str) -> str: ...
