"""The bell of a folder: whoever commits to a file in it rings, and other processes hear it without opening the file.

A ring is a byte at the end of a small file, so that none is ever lost; to listen is to look at its size now and then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

Heard = Callable[[], None]

NAME = ".bell"
POLL_S = 0.01
LONGEST = 1 << 20
"""Bytes after which the file begins anew."""


class Bell:
    """The bell of one folder in one event loop, shared by all files that are open there: so many `users`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._file: int | None = None
        self.users = 0
        self._size = 0
        self._listeners: dict[str, dict[object, Heard]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """One more file of the folder is open. A folder that can't be written has no bell."""
        self.users += 1
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            except OSError:
                return
            self._size = os.fstat(self._file).st_size

    def close(self) -> None:
        """One file less is open."""
        self.users -= 1
        if not self.users and self._file is not None:
            os.close(self._file)
            self._file = None

    def ring(self, path: str, by: object) -> None:
        """Something was committed to a file: tell other processes, and those here who listen to that file."""
        for listener, heard in self._listeners.get(path, {}).items():
            if listener is not by:
                heard()
        if self._file is None:
            return
        try:
            if self._size > LONGEST:
                os.ftruncate(self._file, 0)
                self._size = 0
            self._size += os.write(self._file, b".")
        except OSError:  # the disk is full: others look by themselves now and then
            return

    def listen(self, path: str, listener: object, heard: Heard) -> None:
        """Call `heard` whenever somebody else may have committed to a file, until `ignore`."""
        self._listeners.setdefault(path, {})[listener] = heard
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._look)

    def ignore(self, path: str, listener: object) -> None:
        """Call a listener no more."""
        listening = self._listeners.get(path, {})
        listening.pop(listener, None)
        if not listening:
            self._listeners.pop(path, None)
        if not self._listeners and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(POLL_S, self._look)
        if self._file is None:
            return
        size = os.fstat(self._file).st_size
        if size != self._size:
            self._size = size
            for listening in self._listeners.values():
                for heard in listening.values():
                    heard()


@lru_cache(64)
def _bell_in(folder: Path, loop: asyncio.AbstractEventLoop) -> Bell:
    return Bell(folder)


def bell_of(folder: Path) -> Bell:
    """The bell of a folder in this event loop."""
    return _bell_in(folder, asyncio.get_running_loop())
