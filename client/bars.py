"""Bars on a terminal, drawn by rich: one for each clone as far as they fit, and one for all of them together."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from datetime import timedelta
from types import FrameType, TracebackType
from typing import NoReturn, Self, TextIO

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .render import STYLES, text_of
from .table import console_of
from .waiting import FAILED, FINISHED, RUNNING, Task

_PER_SECOND = 8
_LINES_KEPT_FREE = 2  # the bar of all, and where the cursor is
_BAR_WIDTH = 30
_FULL = 100.0
_WORDS = {FINISHED: "done", "killed": "cancelled"}


class Bars:
    """A picture of the tasks on a terminal, drawn again several times a second until it is left."""

    def __init__(self, tasks: Sequence[Task], stream: TextIO) -> None:
        self._lock = threading.Lock()  # rich draws in a thread of its own
        self._tasks = {task["id"]: task for task in tasks}
        self._console = console_of(stream)
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=_PER_SECOND)

    def show(self, task: Task) -> None:
        """To be drawn the next time."""
        with self._lock:
            self._tasks[task["id"]] = task

    def _draw(self) -> RenderableType:
        with self._lock:
            tasks = list(self._tasks.values())
        return picture(tasks, max(1, self._console.height - _LINES_KEPT_FREE))

    def __enter__(self) -> Self:
        self._at_term = signal.signal(signal.SIGTERM, _end)  # which would leave the cursor hidden
        try:
            self._live.start(refresh=True)
        except BaseException:  # whatever ends us now: the cursor is hidden already
            try:
                self._live.stop()
            except IndexError:  # rich stumbles where it has only half begun
                self._console.show_cursor()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        signal.signal(signal.SIGTERM, self._at_term)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # as shells have it


def picture(tasks: Sequence[Task], height: int) -> Table:
    """At most `height` clones, those that most is to be seen of, and if there are several, how far all are."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column(width=_BAR_WIDTH)
    table.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
    for task in chosen(tasks, height):
        table.add_row(Text(text_of(task.get("name"))), _bar(_percent(task), task["status"]), _state(task))
    if len(tasks) > 1:
        ended = sum(task["status"] != RUNNING for task in tasks)
        mean = sum(map(_percent, tasks)) / len(tasks)
        table.add_row(Text("all", "bold"), _bar(mean, _status_of(tasks)), Text(f"{ended} of {len(tasks)}", "bold"))
    return table


def chosen(tasks: Sequence[Task], height: int) -> list[Task]:
    """As many as there are lines, in their own order: first what runs, then what failed, what ended, what waits."""
    ranked = sorted(range(len(tasks)), key=lambda place: _rank(tasks[place]))
    return [tasks[place] for place in sorted(ranked[:height])]


def _rank(task: Task) -> int:
    if task["status"] == RUNNING:
        return 0 if _percent(task) > 0 else 3
    return 2 if task["status"] == FINISHED else 1


def _percent(task: Task) -> float:
    return _FULL if task["status"] == FINISHED else float(task.get("progress") or 0)


def _status_of(tasks: Sequence[Task]) -> str:
    if any(task["status"] == RUNNING for task in tasks):
        return RUNNING
    return FINISHED if all(task["status"] == FINISHED for task in tasks) else FAILED


def _bar(percent: float, status: str) -> ProgressBar:
    style = STYLES.get(status, "")
    return ProgressBar(total=_FULL, completed=percent, width=_BAR_WIDTH, complete_style=style, finished_style=style)


def _state(task: Task) -> Text:
    status = str(task["status"])
    if status != RUNNING:
        words = text_of(task.get("message")) if status == FAILED else _WORDS.get(status, status)
        return Text(words, STYLES.get(status, ""))
    left = task.get("eta_seconds")
    after = f", {timedelta(seconds=round(left))} left" if left else ""
    return Text(f"{_percent(task):.0f} %{after}")
