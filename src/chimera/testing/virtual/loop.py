"""An event loop of one thread on a virtual clock, for many simulated processes: every choice is from one seed.

Each process has a queue of callbacks. A step takes the next one of a process that is chosen at random among those that
have any; when none has, time goes on to the next timer. A process is killed by forgetting its queue: nothing of it runs
any more, no `finally` either, as when an operating system's process is killed. It is written on asyncio's public API
(`AbstractEventLoop`) alone.

Addresses are no part of a run: tasks and futures hash by a counter, so that sets of them are walked in the same order
in every run.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import warnings
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from random import Random
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from msgspec import Struct

Result = TypeVar("Result")
Work = Coroutine[Any, Any, Result] | Generator[Any, None, Result]

STEP_S = 2e-5
"""A step takes up to so much virtual time, so that a loop that only waits for time to pass ends."""
MOST_STEPS = 3_000_000
FORBIDDEN = (
    *("run_in_executor", "getaddrinfo", "getnameinfo", "create_connection", "create_server", "sendfile", "start_tls"),
    *("create_unix_connection", "create_unix_server", "connect_accepted_socket", "create_datagram_endpoint"),
    *("connect_read_pipe", "connect_write_pipe", "subprocess_shell", "subprocess_exec", "add_reader", "remove_reader"),
    *("add_writer", "remove_writer", "sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"),
    *("sock_sendall", "sock_sendto", "sock_connect", "sock_accept", "sock_sendfile", "add_signal_handler"),
    *("remove_signal_handler", "shutdown_default_executor", "set_default_executor"),
)
"""What reaches out of the simulation."""


class SimulationError(Exception):
    """The simulation can't go on: something in it does what can't be repeated, or nothing will ever happen again."""


class Handle(Struct, eq=False):
    """A callback of a process, perhaps at a time; what asyncio calls a TimerHandle."""

    home: SimProcess
    call: Callable[..., object]
    arguments: tuple[Any, ...]
    where: Context
    at: float
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.call, self.arguments = _nothing, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.at

    def __repr__(self) -> str:
        return f"<{self.home.name}: {self.call!r} at {self.at:.6f}>"


class SimTask(asyncio.Task[Result]):
    """A task that hashes by its number."""

    __slots__ = ("number",)

    def __init__(self, work: Any, number: int, loop: SimLoop, context: Context | None) -> None:
        self.number = number
        super().__init__(work, loop=loop, name="simulated", context=context)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[Result]):
    """A future that hashes by its number, which it is given as soon as it is made."""

    __slots__ = ("number",)
    number: int

    def __hash__(self) -> int:
        return self.number


class SimProcess:
    """A process of an operating system: its callbacks run in their order, and none once it is dead.

    `role` is its name without the count of its starts, such as `tally/write/0` of `tally/write/0#2`.
    `skew_s`: how much its wall clock is ahead, `most_skew_s` the most that it ever was. `chance`: its random numbers,
    of its own so that what another process does never changes them. `ended`: called once when it is killed, for those
    who are connected to it.
    """

    def __init__(self, loop: SimLoop, name: str, chance: Random) -> None:
        self.loop = loop
        self.name = name
        self.role = name.partition("#")[0]
        self.chance = chance
        self.skew_s = 0.0
        self.most_skew_s = 0.0
        self.is_alive = True
        self.is_paused = False
        self.queue: deque[Handle] = deque()
        self.ended: list[Callable[[], object]] = []
        self.context = copy_context()
        self.context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Result]) -> SimTask[Result]:
        """Run something in this process."""
        return self.loop.task_of(work, self.context.copy())

    def kill(self) -> None:
        """End it at once, between two awaits."""
        if self.is_alive:
            self.is_alive = False
            self.loop.bury(self)
            for each in self.ended:
                each()

    def skew(self, by_s: float) -> None:
        """Set its wall clock, to so many seconds ahead."""
        self.skew_s, self.most_skew_s = by_s, max(by_s, self.most_skew_s)

    def pause(self) -> None:
        """Let nothing of it run, as SIGSTOP does; time goes on."""
        self.is_paused = True
        self.loop.leave(self)

    def resume(self) -> None:
        """Let it run again."""
        if self.is_paused:
            self.is_paused = False
            if self.is_alive and self.queue:
                self.loop.enter(self)


PROCESS: ContextVar[SimProcess] = ContextVar("PROCESS")
"""The simulated process that runs now."""


class SimLoop(asyncio.AbstractEventLoop):
    """The loop. `shuffle`: the callbacks of a process are not kept in their order either.

    `trace` gets a line for each step, where there is one.
    """

    def __init__(self, seed: object, *, shuffle: bool = False) -> None:
        self.now = 0.0
        self.steps = 0
        self.trace: list[str] | None = None
        self.failures: list[str] = []
        self._order = Random(f"{seed}/order")
        self._seed = seed
        self._shuffle = shuffle
        self._numbers = 0
        self._stepped = 0
        self._witnessed = 0
        self._runnable: list[SimProcess] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._buried: list[Handle] = []  # who is killed must not be collected: its `finally` would run
        self._is_over = False
        self.world = self.process("world")

    @property
    def digest(self) -> int:
        """Sums up what has run: equal for equal runs."""
        return hash((self._stepped, self._witnessed)) & 0xFFFFFFFFFFFF

    def process(self, name: str) -> SimProcess:
        """A new process. Its name is of this run only once."""
        return SimProcess(self, name, Random(f"{self._seed}/chance/{name}"))

    def witness(self, what: str) -> None:
        """Something that a run did is part of its digest as well."""
        self._witnessed = hash((self._witnessed, self._stepped, zlib.crc32(what.encode())))
        if self.trace is not None:
            self.trace.append(what)

    def enter(self, process: SimProcess) -> None:
        self._runnable.append(process)

    def leave(self, process: SimProcess) -> None:
        if process in self._runnable:
            self._runnable.remove(process)

    def bury(self, process: SimProcess) -> None:
        """Nothing of a process runs any more; what it would have done next is kept, and with it all that waits."""
        self.leave(process)
        self._buried += process.queue
        process.queue.clear()

    # Running

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run until this has ended, in the process `world`. Raises SimulationError when nothing can happen any more."""
        task = self.world.spawn(work)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_later)
        asyncio._set_running_loop(self)  # noqa: SLF001 - what asyncio offers to those who write loops
        try:
            self._run_until(task.done)
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001
            sys.set_asyncgen_hooks(*hooks)
        return task.result()

    def scrap(self) -> None:
        """Forget everything; nothing of it runs any more, whatever is collected."""
        self._is_over = True
        self._runnable.clear()
        self._timers.clear()

    def _run_until(self, is_done: Callable[[], bool]) -> None:
        """Take steps; in one function, since there are ten thousand of them in a run."""
        runnable, timers, random = self._runnable, self._timers, self._order.random
        while not is_done():
            if not runnable or (timers and timers[0][0] <= self.now):
                self._ring()
                continue
            drawn = random() * len(runnable)
            chosen = int(drawn)
            process = runnable[chosen]
            queue = process.queue
            handle = self._any_of(queue) if self._shuffle else queue.popleft()
            if not queue:
                runnable[chosen] = runnable[-1]
                runnable.pop()
            if handle.is_cancelled:
                continue
            self.steps += 1
            self.now += (drawn - chosen) * STEP_S
            call = handle.call
            number = getattr(getattr(call, "__self__", None), "number", 0)
            self._stepped = hash((self._stepped, number, self.now))
            if self.trace is not None:
                self.trace.append(f"{self.now:.7f} {process.name} {number} {getattr(call, '__qualname__', '')}")
            try:
                handle.where.run(call, *handle.arguments)
            except Exception as error:  # noqa: BLE001 - as asyncio does: told, and the loop goes on
                self.call_exception_handler({"message": f"{handle!r} failed", "exception": error})
            if self.steps > MOST_STEPS:
                raise SimulationError(f"{MOST_STEPS} steps, and no end")

    def _ring(self) -> None:
        """Make ready what is due; when nobody can run, time goes on to what is due next."""
        timers = self._timers
        while timers and (timers[0][2].is_cancelled or not timers[0][2].home.is_alive):
            heapq.heappop(timers)
        if not self._runnable:
            if not timers:
                raise SimulationError("nothing will ever happen any more")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            handle = heapq.heappop(timers)[2]
            if not handle.is_cancelled:
                self._ready(handle)

    def _any_of(self, queue: deque[Handle]) -> Handle:
        if len(queue) == 1:
            return queue.popleft()
        at = int(self._order.random() * len(queue))
        queue.rotate(-at)
        handle = queue.popleft()
        queue.rotate(at)
        return handle

    def _ready(self, handle: Handle) -> None:
        process = handle.home
        if self._is_over:
            return
        if not process.is_alive:
            self._buried.append(handle)
            return
        if not process.queue and not process.is_paused:
            self._runnable.append(process)
        process.queue.append(handle)

    def _close_later(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._is_over:
            self.create_task(generator.aclose())

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now

    get_debug = bool  # false; asked for each task and future, so without a call into Python

    def is_running(self) -> bool:
        return not self._is_over

    def is_closed(self) -> bool:
        return self._is_over

    def close(self) -> None:
        self.scrap()

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        where = copy_context() if context is None else context
        handle = Handle(where.get(PROCESS, self.world), callback, args, where, self.now)
        self._ready(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Handle:
        where = copy_context() if context is None else context
        handle = Handle(where.get(PROCESS, self.world), callback, args, where, when)
        self._numbers += 1
        if handle.home.is_alive and not self._is_over:
            heapq.heappush(self._timers, (when, self._numbers, handle))
        return handle

    def create_future(self) -> SimFuture[Any]:
        future: SimFuture[Any] = SimFuture(loop=self)
        future.number = self._numbers = self._numbers + 1
        return future

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None, **_: object) -> Any:
        return self.task_of(coro, context)

    def task_of(self, work: Any, context: Context | None) -> SimTask[Any]:
        self._numbers += 1
        return SimTask(work, self._numbers, self, context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._is_over:
            error = context.get("exception")
            self.failures.append(f"{context['message']}: {error!r}" if error else context["message"])

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None: ...


def _nothing(*_: object) -> None: ...


def _forbid(name: str) -> Callable[..., NoReturn]:
    def forbidden(self: SimLoop, *_: object, **__: object) -> NoReturn:
        raise SimulationError(
            f"{PROCESS.get(self.world).name} calls loop.{name}: there are no threads, sockets, signals or processes in "
            "a simulation; reach other services by what Chimera offers, and others by something that a test replaces"
        )

    return forbidden


for _name in FORBIDDEN:
    setattr(SimLoop, _name, _forbid(_name))


def new_loop(seed: object, *, shuffle: bool = False) -> SimLoop:
    """A loop for one run."""
    return SimLoop(seed, shuffle=shuffle)  # type: ignore[abstract]  # the rest is forbidden, above


class Unraised:
    """Within it nothing is said about coroutines that are collected half-way: those of killed processes are."""

    def __enter__(self) -> None:
        self._hook = sys.unraisablehook
        sys.unraisablehook = lambda _: None
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.unraisablehook = self._hook
        self._warnings.__exit__(kind, error, traceback)
