"""`cloner tasks`: the tasks that there are, and with --follow how they go on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing

from .cloning import conclude
from .connection import Answer
from .display import Lines, percent_of
from .failures import DONE
from .http import Call, Server, path_of
from .render import document, is_terminal, line, moment, show, text_of
from .waiting import RUNNING, Task, follow, many, tasks_call, tasks_of

_ALL = "all"


def tasks(options: argparse.Namespace, server: Server) -> int:
    which = options.which or (_ALL if options.batch else RUNNING)
    if options.follow:
        return _follow_batch(options, server) if options.batch else _follow(options, server, which)
    answer = _list(server, options.batch, which)
    if options.json:
        print(document(answer.text))
    else:
        show("tasks", answer.rows, sys.stdout)
    if not answer.rows and which == RUNNING and is_terminal(sys.stdout):
        print("cloner: no clones are being made; --all lists those that ended, too", file=sys.stderr)
    return DONE


def _list(server: Server, batch: str | None, which: str) -> Answer:
    answer = server.ask(tasks_call(batch, None if which == _ALL else which))
    if batch is not None and not answer.rows:
        server.ask(Call("GET", path_of("batches", batch)))  # which says so if there is no such batch
    return answer


def _follow(options: argparse.Namespace, server: Server, which: str) -> int:
    """Until it is interrupted. A task that was once shown is shown to its end."""
    lines, shown = Lines(sys.stdout, _form(options)), set()
    with closing(many(server)) as changes:
        for number, task in changes:
            if task and (number in shown or which in (_ALL, task["status"])):
                shown.add(number)
                lines.show(task)
    return DONE


def _follow_batch(options: argparse.Namespace, server: Server) -> int:
    """Until all of it has ended; the status says how."""
    lines = Lines(sys.stdout, _form(options))
    first = tasks_of(_list(server, options.batch, _ALL).rows)
    for task in first:
        lines.show(task)
    return conclude(follow(server, first, options.batch, lines.show))


def _form(options: argparse.Namespace) -> Callable[[Task], str]:
    if options.json:
        return lambda task: document(json.dumps(task, ensure_ascii=False, separators=(",", ":")))
    return _for_people if is_terminal(sys.stdout) else lambda task: line("tasks", task)


def _for_people(task: Task) -> str:
    """What has the same width in each line comes first."""
    when = moment(task.get("ended") or task.get("started"))
    how_far = f"{task['status']:<8}  {percent_of(task):>3} %"
    return f"{when}  {how_far}  {text_of(task.get('name'))}  {text_of(task.get('message'))}"
