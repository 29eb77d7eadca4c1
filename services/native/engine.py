"""What the other modules need to know of a server that runs without Docker."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Engine:
    name: str
    title: str
    programs: Mapping[str, str]  # a program and the Debian package that brings it
    command: Callable[[], list[str]]
    prepare: Callable[[], None]
    build: Callable[[], None] = _nothing
    sweep: Callable[[], None] = _nothing  # for what a server leaves running outside its session
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None  # for a server that refuses to run as root
    patience: float = 60.0  # seconds from its start to its first answer
    stop_signal: signal.Signals = signal.SIGTERM
