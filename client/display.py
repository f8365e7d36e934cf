"""How waiting looks: bars on a terminal, a line for each change elsewhere, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO

from .render import is_terminal, text_of
from .waiting import RUNNING, Task

_STEP = 10
"""Per cent: a clone that takes long is told of at each of these."""


class Display(Protocol):
    """Is told of each change while it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, task: Task) -> None:
        """The task is another than it was."""


class Silence:
    """Nothing, for who asked for JSON alone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was begun."""

    def show(self, task: Task) -> None:
        """Nothing."""


def line_of_wait(task: Task) -> str:
    """The clone's name, status, per cent and message, separated by tabs."""
    return "\t".join(map(text_of, (task.get("name"), task["status"], percent_of(task), task.get("message"))))


def percent_of(task: Task) -> int:
    """How far it is; a task that has not been told of its progress is at 0."""
    return int(task.get("progress") or 0)


class Lines(Silence):
    """A line for each change that says something: of the status, or of ten per cent."""

    def __init__(self, stream: TextIO, form: Callable[[Task], str] = line_of_wait) -> None:
        self._stream, self._form = stream, form
        self._last: dict[str, tuple[str, int]] = {}

    def show(self, task: Task) -> None:
        state = (task["status"], percent_of(task) // _STEP if task["status"] == RUNNING else 0)
        if self._last.get(task["id"]) != state:
            self._last[task["id"]] = state
            print(self._form(task), file=self._stream, flush=True)


def display(tasks: Sequence[Task], stream: TextIO, *, is_for_programs: bool) -> Display:
    """What suits the stream; `is_for_programs`: nothing where nobody looks."""
    if is_terminal(stream):
        from .bars import Bars  # noqa: PLC0415 - programs need not wait for what draws

        return Bars(tasks, stream)
    return Silence() if is_for_programs else Lines(stream)
