"""What the client's commands do: ask, print, and end with a status that says how it went."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

from .access import read_access
from .cloning import clone
from .failures import DONE, INTERRUPTED, NOT_CLONED, ClientError, Misused, Refused
from .following import tasks
from .http import Call, Server, path_of
from .output import leave_output
from .render import document, show
from .waiting import KILLED, RUNNING, task_of


def run(name: str, options: argparse.Namespace) -> int:
    """Runs a command; returns its exit status, which failures.py and docs/cloner.1 explain."""
    try:
        access = read_access(
            os.environ,
            url=options.url,
            token_file=options.token_file,
            cacert=options.cacert,
            timeout=options.timeout,
        )
        with closing(Server(access)) as server:
            status = COMMANDS[name](options, server)
        sys.stdout.flush()
        return status
    except ClientError as error:
        return _say(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except OSError as error:  # all others of those that asking a server has are a ClientError by now
        leave_output()
        return _say(f"the output cannot be written: {error.strerror}", Misused.exit_status)


def _say(words: str, status: int) -> int:
    print(f"cloner: {words}", file=sys.stderr)
    return status


def ls(options: argparse.Namespace, server: Server) -> int:
    if (options.kind == "volumes") != bool(options.of_pool):
        raise Misused("volumes are listed with their pool, as in: cloner ls volumes default")
    if options.kind == "volumes":
        path = path_of("storagepools", options.of_pool, "storagevolumes")
    else:
        path = {"guests": "vms", "pools": "storagepools"}[options.kind]
    answer = server.ask(Call("GET", path))
    if options.json:
        print(document(answer.text))
    else:
        show(options.kind, answer.rows, sys.stdout)
    return DONE


def cancel(options: argparse.Namespace, server: Server) -> int:
    if bool(options.task) == bool(options.batch) or (options.undo and not options.batch):
        raise Misused("name tasks, or a --batch, which alone can be undone")
    return _cancel_batch(options, server) if options.batch else _cancel_tasks(options, server)


def _cancel_batch(options: argparse.Namespace, server: Server) -> int:
    answer = server.ask(Call("DELETE", path_of("batches", options.batch), {"undo": options.undo}))
    if options.json:
        print(document(answer.text))
    else:
        show("batches", [answer.row], sys.stdout)
    return DONE


def _cancel_tasks(options: argparse.Namespace, server: Server) -> int:
    """All that are named; the worst of what happened is the status."""
    status, told = DONE, []
    for number in options.task:
        try:
            task = task_of(server.ask(Call("DELETE", path_of("tasks", number), {"cancel": True})).row)
        except Refused as error:
            status = _say(str(error), max(status, error.exit_status))
            continue
        told.append(task)
        if task["status"] not in (RUNNING, KILLED):
            status = _say(f"task {number}: {task.get('explanation', 'it has ended')}", max(status, NOT_CLONED))
    _print(told, "tasks", options)
    return status


def start(options: argparse.Namespace, server: Server) -> int:
    answer = server.ask(Call("POST", path_of("vms", _guest(options), "start"), {}, is_repeatable=False))
    if options.json:
        print(document(answer.text))
    return DONE


def rm(options: argparse.Namespace, server: Server) -> int:
    body = {"storage": True} if options.storage else {}
    server.ask(Call("DELETE", path_of("vms", _guest(options)), body, is_repeatable=False))
    return DONE


def _guest(options: argparse.Namespace) -> str:
    if not options.guest:
        raise Misused("the guest's name is empty")
    return str(options.guest)


def _print(rows: list[dict[str, Any]], kind: str, options: argparse.Namespace) -> None:
    if options.json:
        print(document(json.dumps(rows, ensure_ascii=False, separators=(",", ":"))))
    else:
        show(kind, rows, sys.stdout)


COMMANDS: dict[str, Callable[[argparse.Namespace, Server], int]] = {
    "clone": clone,
    "ls": ls,
    "tasks": tasks,
    "cancel": cancel,
    "start": start,
    "rm": rm,
}
