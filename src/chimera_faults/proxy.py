"""A TCP proxy on loopback that cuts, delays, halves and corrupts what a server answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

CHUNK = 1 << 16

Trouble = Literal["none", "cut", "delay", "halve", "corrupt", "hold"]


class Proxy:
    """Stands before a server. Set `trouble` at any time; `struck` counts what it did.

    `cut` resets every connection and takes no new one; `delay` holds answers up for `delay_s`; `halve` sends half of
    an answer and resets the connection; `corrupt` overwrites the first bytes of an answer; `hold` keeps every answer
    back until `cut`.
    """

    def __init__(self, host: str, port: int, *, delay_s: float = 0.5) -> None:
        self.trouble: Trouble = "none"
        self.struck = 0
        self.port = 0
        self._host = host
        self._to = port
        self._delay_s = delay_s
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._awaited = b""
        self._passed = asyncio.Event()

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1, which is `port` from then on."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Take no more connections, and reset those that there are."""
        if self._server is not None:
            self._server.close()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def make(self, trouble: Trouble) -> None:
        """From now on do this; `cut` resets what is connected."""
        self.trouble = trouble
        if trouble == "cut":
            for writer in list(self._open):
                self.struck += 1
                writer.transport.abort()

    async def hold_after(self, word: bytes) -> None:
        """Keep answers back from when a request with this word passes; returns once one has."""
        self._passed.clear()
        self._awaited = word
        await self._passed.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            if self.trouble == "cut":
                self.struck += 1
                writer.transport.abort()
                return
            await self._join(reader, writer)
        except asyncio.CancelledError:
            return  # closed; asyncio's streams would log it
        finally:
            self._running.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection(self._host, self._to)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, to_writer}
        self._open |= both
        ways = [
            asyncio.ensure_future(self._carry(reader, to_writer)),
            asyncio.ensure_future(self._answer(to_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= both
            for each in ways:
                each.cancel()
            for end in both:
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if self._awaited and self._awaited in chunk:
                    self._awaited = b""
                    self.make("hold")
                    self._passed.set()
                writer.write(chunk)
                await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                match self.trouble:
                    case "delay":
                        self.struck += 1
                        await asyncio.sleep(self._delay_s)
                    case "hold":
                        self.struck += 1
                        await asyncio.Event().wait()  # what cuts the connection ends this
                    case "halve":
                        self.struck += 1
                        writer.write(chunk[: len(chunk) // 2])
                        await writer.drain()
                        return
                    case "corrupt":
                        self.struck += 1
                        chunk = b"\0\xff\0\xff" + chunk[4:]
                writer.write(chunk)
                await writer.drain()
