"""Guests that are being deleted: what goes with each is written down before, lest a server that dies leave it.

A guest is undefined first. Were its server killed then, nobody would know whose its disks were.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from .. import errors
from ..engine import files, locks
from ..engine.copying import take_back
from ..engine.ledger import LATER
from ..hypervisor.infos import VolumeInfo
from .needs import Needs
from .services import Services

log = logging.getLogger(__name__)


class Deletions:
    """The deletions of one server, and those that others left.

    Args:
        services: of this server.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    @contextmanager
    def written_down(
        self, uuid: str, volumes: Collection[VolumeInfo], nvram: str, known: Mapping[str, int]
    ) -> Iterator[None]:
        """For as long as a domain and these files of its are removed. `known` is the identity of the NVRAM, if any."""
        parts = [
            {"pool": each.pool, "name": each.name, "path": each.path, "file": self._seen(each)} for each in volumes
        ]
        what = {"server": self._services.lease.id, "volumes": parts, "nvram": nvram, "file": dict(known)}
        self._services.journal.begin_deletion(uuid, what)
        try:
            yield
        except Exception:  # whatever it is: who asked is told of it, and asks again
            with suppress(errors.JournalUnavailable):
                self._services.journal.end_deletion(uuid)
            raise
        self._services.journal.end_deletion(uuid)

    def _seen(self, volume: VolumeInfo) -> dict[str, int]:
        """What a volume's file is known by later on, where the server sees it."""
        return files.identity(volume.path) if self._services.connections.is_local else {}

    def sweep(self) -> None:
        """Goes on with what servers left that died. Raises JournalUnavailable and LibvirtUnavailable."""
        lease = self._services.lease
        for uuid, what in self._services.journal.deletions().items():
            if lease.is_alive(what["server"]) or not lease.is_of_here(what["server"]):
                continue
            try:
                self._finish(uuid, what)
            except (errors.Busy, errors.PoolInactive) as error:
                log.warning("the storage of the deleted guest %s is kept for now: %s", uuid, error)
                continue
            self._services.journal.end_deletion(uuid)

    def _finish(self, uuid: str, what: Mapping[str, Any]) -> None:
        """Removes what is still as it was, and needed by nobody; nothing if the domain is there."""
        if self._services.host.has_domain_uuid(uuid):
            return
        needs = Needs(self._services)
        for part in what["volumes"]:
            places = (part["path"], f"{part['pool']}/{part['name']}")
            is_needed = needs.users(*places) or needs.overlays(*places) or locks.is_open(part["path"])
            if part["file"] and not is_needed:
                self._remove(uuid, part)
            else:
                why = "somebody needs it by now" if is_needed else "it cannot be told from another's"
                log.warning("the deleted guest %s has left %s, since %s", uuid, part["path"], why)
        if what["file"] and not needs.users(what["nvram"]):
            files.remove(what["nvram"], what["file"])
        self._services.journal.clone_is_gone(uuid)
        log.warning("the guest %s was being deleted when its server stopped, and is gone now", uuid)

    def _remove(self, uuid: str, part: Mapping[str, Any]) -> None:
        try:
            take_back(self._services.host, part["pool"], part["name"], part)
        except LATER:
            raise
        except errors.ClonerError as error:
            log.warning("the deleted guest %s has left %s, since %s", uuid, part["path"], error)
