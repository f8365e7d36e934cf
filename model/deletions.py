"""Guests that are being deleted: what goes with each is written down before, lest a server that dies leave it.

A guest is undefined first. Were its server killed then, nobody would know whose its disks were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from .. import errors
from ..callers import ANYBODY
from ..engine import files
from ..engine.copying import take_back
from ..engine.undoing import ALONE, LATER
from ..hypervisor.infos import DomainInfo, VolumeInfo
from .holding import held
from .needs import Needs
from .services import Services
from .usage import is_kept_open

log = logging.getLogger(__name__)

_TURN_S = 60.0
"""Longer than the half minute that libvirt lets who would undefine a domain wait for what another does with it."""

_under_way: set[tuple[str, str]] = set()
"""Deletions that a request of this process does: its server, and the domain's UUID."""


class Deletions:
    """The deletions of one server, and those that others left.

    Args:
        services: of this server.
        clock: seconds that go on.
    """

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._there_since: dict[str, float] = {}
        """When the domains were found that libvirt may still have to undefine."""

    @contextmanager
    def written_down(
        self, domain: DomainInfo, volumes: Collection[VolumeInfo], nvram: str, known: Mapping[str, int]
    ) -> Iterator[None]:
        """For as long as a domain and these files of its are removed. `known` is the identity of the NVRAM, if any."""
        parts = [
            {"pool": each.pool, "name": each.name, "path": each.path, "file": self._seen(each), "changed": each.changed}
            for each in volumes
        ]
        here = self._services.lease.id
        what = {"server": here, "name": domain.name, "volumes": parts, "nvram": nvram, "file": dict(known)}
        _under_way.add((here, domain.uuid))
        try:
            self._services.journal.removals.begin_deletion(domain.uuid, what)
            yield
        except errors.LibvirtUnavailable:  # it may still do what it was asked for: that is swept
            raise
        except Exception:  # whatever it is: who asked is told of it
            self._break_off(domain.uuid)
            raise
        else:
            self._services.journal.removals.end_deletion(domain.uuid)
        finally:
            _under_way.discard((here, domain.uuid))

    def _break_off(self, uuid: str) -> None:
        """Forgets a deletion whose domain is there. Who asks again for one that is gone finds nothing: that is swept.

        Libvirt may be away by now, and cannot tell which of the two it is.
        """
        with suppress(errors.ClonerError):
            if self._services.host.has_domain_uuid(uuid):
                self._services.journal.removals.end_deletion(uuid)

    def _seen(self, volume: VolumeInfo) -> dict[str, int]:
        """What a volume's file is known by later on, where the server sees it."""
        is_seen = self._services.connections.is_local and not files.is_elsewhere(volume)
        return files.identity(volume.path) if is_seen else {}

    def left(self) -> dict[str, dict[str, Any]]:
        """What was being deleted on this libvirt, and is by nobody now: as the journal has it, by the domain's UUID."""
        return {
            uuid: what
            for uuid, what in self._services.journal.removals.deletions().items()
            if self._is_left(uuid, what)
        }

    def _is_left(self, uuid: str, what: Mapping[str, Any]) -> bool:
        lease = self._services.lease
        if what["server"] == lease.id:
            return (lease.id, uuid) not in _under_way
        return lease.is_of_here(what["server"]) and not lease.is_alive(what["server"])

    def sweep(self) -> None:
        """Goes on with what is left. Raises JournalUnavailable and LibvirtUnavailable."""
        left = self.left()
        self._there_since = {uuid: since for uuid, since in self._there_since.items() if uuid in left}
        for uuid, what in left.items():
            with self._adopted(uuid, what) as is_ours:
                if is_ours:
                    self._go_on(uuid, what)

    @contextmanager
    def _adopted(self, uuid: str, what: Mapping[str, Any]) -> Iterator[bool]:
        """Makes a deletion this server's, for as long as it goes on with it. False if another one was faster."""
        here = self._services.lease.id
        _under_way.add((here, uuid))
        try:
            yield self._services.journal.removals.adopt_deletion(uuid, what["server"], here)
        finally:
            _under_way.discard((here, uuid))

    def _go_on(self, uuid: str, what: Mapping[str, Any]) -> None:
        try:
            if self._may_go_yet(uuid):
                return
            self._finish(uuid, what)
        except (*ALONE, errors.LibvirtFailed) as error:
            log.warning("the storage of the deleted guest %s is kept for now: %s", uuid, error)
        else:
            self._services.journal.removals.end_deletion(uuid)

    def _may_go_yet(self, uuid: str) -> bool:
        """Whether libvirt may still undefine a domain for a server that died, or lost it, since it asked for that."""
        if uuid not in self._there_since and self._services.host.has_domain_uuid(uuid):
            self._services.host.catch_up()  # from then on it waits for other clients alone
            self._there_since[uuid] = self._clock()
        is_there = self._services.host.has_domain_uuid(uuid)
        return is_there and self._clock() < self._there_since.get(uuid, 0.0) + _TURN_S

    def _finish(self, uuid: str, what: Mapping[str, Any]) -> None:
        """Removes what is still as it was, and needed by nobody; nothing if the domain is there."""
        if self._services.host.has_domain_uuid(uuid):
            return
        needs = Needs(self._services)
        for part in what["volumes"]:
            places = (part["path"], f"{part['pool']}/{part['name']}")
            is_needed = needs.users(*places) or needs.overlays(*places) or is_kept_open(part["path"])
            if self._can_be_told(part) and not is_needed:
                self._remove(uuid, part)
            else:
                why = "somebody needs it by now" if is_needed else "it cannot be told from another's"
                log.warning("the deleted guest %s has left %s, since %s", uuid, part["path"], why)
        if what["file"] and not needs.users(what["nvram"]):
            with self._told(uuid, what["nvram"]):
                files.remove(what["nvram"], what["file"])
        self._services.journal.clones.forget(uuid)
        log.warning("the guest %s was being deleted when that was interrupted, and is gone now", uuid)

    def _can_be_told(self, part: Mapping[str, Any]) -> bool:
        """Whether a volume can be told from one that came in its place: by its file, or as libvirt sees that."""
        if part["file"]:
            return True
        try:
            now = self._services.host.volume(part["pool"], part["name"])
        except (errors.PoolNotFound, errors.VolumeNotFound):
            return False
        return now.changed is not None and now.changed == part.get("changed")

    def _remove(self, uuid: str, part: Mapping[str, Any]) -> None:
        """Removes a volume, unless a clone of it is being made, or one stands on it in a pool that cannot be seen."""
        with (
            self._told(uuid, part["path"]),
            held(self._services, part["name"], [part["path"]], "deleted", ANYBODY),
        ):
            take_back(self._services.host, part["pool"], part["name"], part)

    @contextmanager
    def _told(self, uuid: str, path: str) -> Iterator[None]:
        """Says in the log why a file is left for good. Raises one of LATER."""
        try:
            yield
        except LATER:
            raise
        except errors.ClonerError as error:
            log.warning("the deleted guest %s has left %s, since %s", uuid, path, error)
