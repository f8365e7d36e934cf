"""`cloner clone`: asks for clones, and with --wait stays until they are made, or cancels them at Ctrl-C."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .connection import Answer
from .display import display
from .failures import DONE, INTERRUPTED, NOT_CLONED, Misused
from .http import Call, Server, path_of
from .render import document, is_terminal, show, size, text_of
from .waiting import FINISHED, Task, follow, task_of, tasks_of

IDEMPOTENCY = "idempotency-key"
"""The extension of a server that makes no second clone when a request comes again."""

_FIELDS = ("count", "name", "pool", "method", "bandwidth", "flatten", "drop_hostdevs", "start", "title", "description")
_OF_GUESTS_ALONE = ("drop_hostdevs", "start", "title", "description")


@dataclass(frozen=True)
class Accepted:
    """What the server has promised: `batch` is the id of several clones that were asked for together."""

    tasks: Sequence[Task]
    batch: str | None

    def document(self, tasks: Sequence[Task]) -> Any:
        """The answer again, with the tasks as they are now."""
        return tasks[0] if self.batch is None else {"batch": self.batch, "tasks": tasks}


def clone(options: argparse.Namespace, server: Server) -> int:
    call = _call(options, server)
    try:
        answer = server.ask(call)
    except KeyboardInterrupt:
        print("cloner: it may have been accepted nevertheless, which cloner tasks --all tells", file=sys.stderr)
        raise
    if options.dry_run:
        _print_plan(answer, options)
        return DONE
    accepted = _accepted(answer.row)
    if not options.wait:
        _print_names(accepted, answer, options)
        return DONE
    ended, was_interrupted = _wait(server, accepted, options)
    if options.json:
        _print_json(accepted.document(ended))
    status = conclude(ended)
    if was_interrupted and accepted.batch is not None and any(task["status"] == FINISHED for task in ended):
        batch = text_of(accepted.batch)
        print(f"cloner: some were made already; to remove them: cloner cancel --batch {batch} --undo", file=sys.stderr)
    return INTERRUPTED if was_interrupted else status


def _call(options: argparse.Namespace, server: Server) -> Call:
    body = {name: value for name in _FIELDS if (value := getattr(options, name)) not in (None, False)}
    if options.dry_run:
        body["dry_run"] = True
    path = _source(options.source)
    if "/" in options.source and (unfit := [name for name in _OF_GUESTS_ALONE if name in body]):
        raise Misused(f"--{unfit[0].replace('_', '-')} is for guests, not for a volume such as {options.source}")
    key = {"Idempotency-Key": f'"{uuid4()}"'}  # a string in the form of RFC 8941, as the IETF's draft has it
    return Call("POST", f"{path}/clone", body, headers=key, is_repeatable=server.has(IDEMPOTENCY))


def _source(name: str) -> str:
    """The path of a guest, or of a volume as POOL/VOLUME: no guest has a slash in its name, and no pool."""
    pool, slash, volume = name.partition("/")
    if not pool or (slash and not volume):
        raise Misused(f"{name!r} is neither a guest nor POOL/VOLUME")
    return path_of("storagepools", pool, "storagevolumes", volume) if slash else path_of("vms", pool)


def _accepted(row: dict[str, Any]) -> Accepted:
    if "tasks" in row:
        return Accepted(tasks_of(row["tasks"]), str(row.get("batch")))
    return Accepted([task_of(row)], None)


def _print_names(accepted: Accepted, answer: Answer, options: argparse.Namespace) -> None:
    if options.json:
        print(document(answer.text))
        return
    for task in accepted.tasks:
        print(text_of(task.get("name")))
    if accepted.batch is not None and is_terminal(sys.stderr):
        print(f"cloner: to follow them: cloner tasks --batch {text_of(accepted.batch)} --follow", file=sys.stderr)


def _print_plan(answer: Answer, options: argparse.Namespace) -> None:
    if options.json:
        print(document(answer.text))
        return
    plans, pools = answer.row.get("plans", []), answer.row.get("pools", {})
    show("plans", [{"name": plan.get("name"), **part} for plan in plans for part in _parts(plan)], sys.stdout)
    if is_terminal(sys.stdout):
        for pool, room in sorted(pools.items()):
            print(f"pool {text_of(pool)}: {size(room.get('needed'))} needed, {size(room.get('available'))} free")


def _parts(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """What is cloned of a guest, its UEFI variables and the state of its TPM in the manner of disks."""
    parts = list(plan.get("disks", []))
    if plan.get("nvram"):
        parts.append({"disk": "nvram", "action": "clone", "target": {"name": plan["nvram"].get("target")}})
    if plan.get("tpm"):
        parts.append({"disk": "tpm", "action": "clone"})
    return parts


def _print_json(content: Any) -> None:
    print(document(json.dumps(content, ensure_ascii=False, separators=(",", ":"))))


# --- Waiting ---------------------------------------------------------------------------------------------------------


def _wait(server: Server, accepted: Accepted, options: argparse.Namespace) -> tuple[list[Task], bool]:
    """The tasks as they ended, and whether Ctrl-C cancelled them. A second Ctrl-C leaves, as KeyboardInterrupt."""
    stream = sys.stderr if options.json else sys.stdout
    with display(accepted.tasks, stream, is_for_programs=options.json) as shown:
        for task in accepted.tasks:
            shown.show(task)
        try:
            return follow(server, accepted.tasks, accepted.batch, shown.show), False
        except KeyboardInterrupt:
            print("cloner: cancelling. Ctrl-C again leaves before it is done", file=sys.stderr)
        server.ask(_cancel(accepted))
        return follow(server, accepted.tasks, accepted.batch, shown.show), True


def _cancel(accepted: Accepted) -> Call:
    if accepted.batch is None:
        return Call("DELETE", path_of("tasks", accepted.tasks[0]["id"]), {"cancel": True})
    return Call("DELETE", path_of("batches", accepted.batch), {})


def conclude(tasks: Sequence[Task]) -> int:
    """Says on stderr what is not as it should be; the exit status."""
    status = DONE
    for task in tasks:
        words = task.get("warning") if task["status"] == FINISHED else task.get("message")
        if words:
            print(f"cloner: {text_of(task.get('name'))}: {text_of(words)}", file=sys.stderr)
        if words or task["status"] != FINISHED:
            status = NOT_CLONED
    return status
