"""How a load shows that it is getting on: bars on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from marketplace.account import Account

_LINE_EVERY_S = 5.0


class Display:
    """Call it with the account as often as you like; on standard error, so that the report can be piped."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: list[TaskID] = []
        self._said_at = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, account: Account) -> None:
        if self._console.is_terminal:
            self._draw(account)
        elif time.monotonic() - self._said_at >= _LINE_EVERY_S:
            self._said_at = time.monotonic()
            done = account.everything
            sent = f"{done.sent + done.skipped:,} of {account.expected:,} sent"
            self._console.print(f"{account.doing}: {sent}, {done.settled:,} settled", highlight=False)

    def _draw(self, account: Account) -> None:
        if not self._tasks:
            self._tasks = [self._bars.add_task(words, total=account.expected) for words in ("", "settled")]
        done = account.everything
        self._bars.update(self._tasks[0], description=account.doing, completed=done.sent + done.skipped)
        self._bars.update(self._tasks[1], completed=done.settled)
