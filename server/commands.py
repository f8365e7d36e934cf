"""Commands that work on a host and a journal without serving: an audit of what domains share, and recovery by hand."""

from __future__ import annotations

import json

from .. import errors
from ..engine.ledger import ANOTHERS
from ..hypervisor.connection import Connections
from ..hypervisor.host import Host
from ..hypervisor.places import places
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
    """
    services = build(settings)
    services.connections.start(_CONNECT_S)
    for task in services.ledger.waiting():
        is_told = task.message.startswith(errors.UndoneLater.code)
        print(f"task {task.id}, {task.target_uri}: {task.message if is_told else ANOTHERS}")
    orphans = services.ledger.orphans()
    for task, steps in orphans:
        undone = [f"{step.kind} {step.args.get('name')} ({step.state})" for step in reversed(steps)]
        print(f"task {task.id}, {task.target_uri}: {'undo ' + ', '.join(undone) if undone else 'nothing to undo'}")
    if not orphans:
        print("nothing is left to recover")
    elif not dry_run:
        services.ledger.recover()
        print(f"{len(orphans)} recovered")
    _close(services)
    return 0


def _close(services: Services) -> None:
    services.connections.stop()
    services.journal.close()
    services.lease.release()
