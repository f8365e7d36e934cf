"""Commands that work on a host and a journal without serving: an audit of what domains share, and recovery by hand."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from .. import errors
from ..engine.ledger import ANOTHERS
from ..engine.records import RUNNING
from ..hypervisor.connection import Connections
from ..hypervisor.host import Host
from ..hypervisor.places import places
from ..model.batches import BatchesModel
from ..model.deletions import Deletions
from ..model.services import Services
from ..model.sharing import shared
from ..plugin import build
from ..settings import Settings

_CONNECT_S = 10.0


def audit(settings: Settings, *, as_json: bool) -> int:
    """Prints what any two domains of the host share and should not; exit status 1 if there is anything."""
    connections = Connections(settings.connect)
    connections.start(_CONNECT_S)
    own = places(settings.connect, settings.nvram_dir, settings.tpm_dir)
    found = shared(Host(connections), own)
    connections.stop()
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        for mark, names in found.items():
            print(f"{mark}: {', '.join(names)}")
        print(f"{len(found)} shared" if found else "nothing is shared that should not be")
    return 1 if found else 0


def recover(settings: Settings, *, dry_run: bool) -> int:
    """Prints what servers that died left unfinished, and, unless `dry_run`, finishes or undoes it.

    What servers that live cannot undo yet is printed as well, and left to them, and so is what is of another libvirt.
    Batches are left to the next server.
    """
    services = build(settings)
    try:
        services.connections.start(_CONNECT_S)
        _recover(services, dry_run=dry_run)
    finally:
        _close(services)
    return 0


def _recover(services: Services, *, dry_run: bool) -> None:
    for task in services.ledger.waiting():
        is_told = task.message.startswith(errors.UndoneLater.code)
        print(f"task {task.id}, {task.target_uri}: {task.message if is_told else ANOTHERS}")
    batches = BatchesModel(services).left()
    for batch in batches:  # also what is not begun: it takes its time
        print(f"batch {batch}, whose undoing was interrupted: the next server goes on with that")
    deletions = Deletions(services)
    left = deletions.left()
    for uuid, what in left.items():
        name, rest = what.get("name", uuid), _rest_of_deletion(services, uuid, what)
        print(f"guest {name}, of which a DELETE was interrupted: {rest}")
    orphans = services.ledger.orphans()
    for task, steps in orphans:
        undone = [f"{step.kind} {step.args.get('name')} ({step.state})" for step in reversed(steps)]
        print(f"task {task.id}, {task.target_uri}: {'undo ' + ', '.join(undone) if undone else 'nothing to undo'}")
    if not (orphans or left or batches):
        print("nothing is left to recover")
    elif (orphans or left) and not dry_run:
        deletions.sweep()
        services.ledger.recover()
        wait = _unfinished(services, [task.id for task, _ in orphans]) + len(deletions.left())
        print(f"{len(orphans) + len(left) - wait} recovered" + (f", {wait} not yet" if wait else ""))


def _rest_of_deletion(services: Services, uuid: str, what: Mapping[str, Any]) -> str:
    if services.host.has_domain_uuid(uuid):
        return "nothing to remove as long as it is there"
    paths = [part["path"] for part in what["volumes"]] + ([what["nvram"]] if what["file"] else [])
    return f"remove {', '.join(paths)}" if paths else "nothing to remove"


def _unfinished(services: Services, tasks: Collection[int]) -> int:
    return sum(task.status == RUNNING for task in services.journal.tasks_of(tasks))


def _close(services: Services) -> None:
    services.connections.stop()
    services.journal.close()
    services.lease.release()
