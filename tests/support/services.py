"""A server's parts in this process, without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloner.engine.observer import Observer
from cloner.model.services import Services
from cloner.plugin import build
from cloner.settings import Settings, demo_uri


@contextmanager
def connected(state_dir: Path, observer: Observer | None = None) -> Iterator[Services]:
    """The parts, connected to libvirt's test driver with the demo's host. No worker runs until a test starts them."""
    found = build(Settings(connect=demo_uri(), state_dir=str(state_dir)), observer)
    found.connections.start(10)
    found.inventory.start()
    yield found
    found.executor.stop(10)
    found.inventory.stop()
    found.connections.stop()
    found.journal.close()
    found.lease.release()


@contextmanager
def server_parts(uri: str, state_dir: Path, *, is_local: bool = True) -> Iterator[Services]:
    """The parts, connected to a libvirt; what they have begun is a dead server's at the end."""
    services = build(Settings(connect=uri, state_dir=str(state_dir)))
    services.connections.is_local = is_local
    services.connections.start(10)
    try:
        yield services
    finally:
        services.connections.stop()
        services.journal.close()
        services.lease.release()
