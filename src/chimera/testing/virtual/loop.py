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


class Handle(asyncio.TimerHandle):
    """A callback of a process, perhaps at a time."""

    __slots__ = ("arguments", "at", "call", "home", "is_cancelled", "where")

    def __init__(  # it has nothing of what a loop of asyncio's own keeps in it
        self, home: SimProcess, call: Callable[..., object], arguments: tuple[Any, ...], where: Context, at: float
    ) -> None:
        self.home = home
        self.call = call
        self.arguments = arguments
        self.where = where
        self.at = at
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.call, self.arguments = _nothing, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self.at

    def __repr__(self) -> str:
        return f"<{self.home.name}: {self.call!r} at {self.at:.6f}>"

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class SimTask(asyncio.Task[Result]):
    """A task that hashes by its number."""

    def __init__(self, work: Any, number: int, loop: SimLoop, context: Context | None) -> None:
        self.number = number
        super().__init__(work, loop=loop, name="simulated", context=context)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[Result]):
    """A future that hashes by its number."""

    def __init__(self, number: int, loop: SimLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

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
            self.queue.clear()
            self.loop.leave(self)
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

    `digest` sums up what has run: equal for equal runs. `trace` gets a line for each step, where there is one.
    """

    def __init__(self, seed: object, *, shuffle: bool = False) -> None:
        self.now = 0.0
        self.steps = 0
        self.digest = 0
        self.trace: list[str] | None = None
        self.failures: list[str] = []
        self._order = Random(f"{seed}/order")
        self._seed = seed
        self._shuffle = shuffle
        self._numbers = 0
        self._runnable: list[SimProcess] = []
        self._timers: list[tuple[float, int, Handle]] = []
        self._kept: dict[int, SimTask[Any]] = {}  # who is killed must not be collected: its `finally` would run
        self._is_over = False
        self.world = self.process("world")

    def process(self, name: str) -> SimProcess:
        """A new process. Its name is of this run only once."""
        return SimProcess(self, name, Random(f"{self._seed}/chance/{name}"))

    def witness(self, what: str) -> None:
        """Something that a run did is part of its digest as well."""
        self.digest = (self.digest * 31 + zlib.crc32(what.encode())) & 0xFFFFFFFFFFFF
        if self.trace is not None:
            self.trace.append(what)

    def enter(self, process: SimProcess) -> None:
        self._runnable.append(process)

    def leave(self, process: SimProcess) -> None:
        if process in self._runnable:
            self._runnable.remove(process)

    # Running

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run until this has ended, in the process `world`. Raises SimulationError when nothing can happen any more."""
        task = self.world.spawn(work)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_later)
        asyncio._set_running_loop(self)  # noqa: SLF001 - what asyncio offers to those who write loops
        try:
            while not task.done():
                if self.steps > MOST_STEPS:
                    raise SimulationError(f"{MOST_STEPS} steps, and no end")
                self._step()
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001
            sys.set_asyncgen_hooks(*hooks)
        return task.result()

    def scrap(self) -> None:
        """Forget everything; nothing of it runs any more, whatever is collected."""
        self._is_over = True
        self._runnable.clear()
        self._timers.clear()

    def _step(self) -> None:
        runnable, timers = self._runnable, self._timers
        if not runnable or (timers and timers[0][0] <= self.now):
            self._ring()
            if not runnable:
                return
        chosen = int(self._order.random() * len(runnable))
        process = runnable[chosen]
        handle = self._next_of(process.queue) if self._shuffle else process.queue.popleft()
        if not process.queue:
            runnable[chosen] = runnable[-1]
            runnable.pop()
        if handle.is_cancelled:
            return
        self.steps += 1
        self.now += self._order.random() * STEP_S
        owner = getattr(handle.call, "__self__", None)
        number = getattr(owner, "number", 0)
        self.digest = (self.digest * 31 + number * 1_000_003 + int(self.now * 1e7)) & 0xFFFFFFFFFFFF
        if self.trace is not None:
            self.trace.append(f"{self.now:.7f} {process.name} {number} {getattr(handle.call, '__qualname__', '')}")
        try:
            handle.where.run(handle.call, *handle.arguments)
        except Exception as error:  # noqa: BLE001 - as asyncio does: told, and the loop goes on
            self.call_exception_handler({"message": f"{handle!r} failed", "exception": error})
        if number in self._kept and owner.done():  # type: ignore[union-attr]
            del self._kept[number]

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

    def _next_of(self, queue: deque[Handle]) -> Handle:
        if not self._shuffle or len(queue) == 1:
            return queue.popleft()
        at = int(self._order.random() * len(queue))
        queue.rotate(-at)
        handle = queue.popleft()
        queue.rotate(at)
        return handle

    def _ready(self, handle: Handle) -> None:
        process = handle.home
        if process.is_alive and not self._is_over:
            if not process.queue and not process.is_paused:
                self._runnable.append(process)
            process.queue.append(handle)

    def _close_later(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._is_over:
            self.create_task(generator.aclose())

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

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
        if handle.home.is_alive and not self._is_over:
            self._numbers += 1
            heapq.heappush(self._timers, (when, self._numbers, handle))
        return handle

    def create_future(self) -> SimFuture[Any]:
        self._numbers += 1
        return SimFuture(self._numbers, self)

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None, **_: object) -> Any:
        return self.task_of(coro, context)

    def task_of(self, work: Any, context: Context | None) -> SimTask[Any]:
        self._numbers += 1
        task: SimTask[Any] = SimTask(work, self._numbers, self, context)
        self._kept[self._numbers] = task
        return task

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
