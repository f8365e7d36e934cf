"""Clones that somebody else undefined, with virsh for instance: in the end the journal forgets them as well."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .services import Services

log = logging.getLogger(__name__)

_PATIENCE_S = 3600.0
"""A definition that is undefined, changed and defined again is still the clone's."""


class GoneClones:
    """Forgets clones whose domain has been missing for an hour.

    Args:
        services: of this server.
        clock: seconds that go on.
    """

    def __init__(self, services: Services, clock: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._clock = clock
        self._missing: dict[str, float] = {}
        """Since when, by UUID."""

    def sweep(self) -> None:
        """Looks for clones that are missing, and forgets those that have been for long.

        Nothing is missing from a host of which not everything is known, nor from one that has none of the journal's
        clones: that may be another. Those that were made on another libvirt are for its servers to look for.
        Raises JournalUnavailable and LibvirtUnavailable.
        """
        made = self._services.journal.clones.servers()  # before it is asked who is there: a clone is defined first
        known = {uuid for uuid, server in made.items() if self._services.lease.is_of_here(server)}
        missing = {uuid for uuid in known if self._services.inventory.is_taken(f"UUID {uuid}") is False}
        missing = {uuid for uuid in missing if not self._services.host.has_domain_uuid(uuid)}
        if missing == known:
            missing = set()
        now = self._clock()
        self._missing = {uuid: self._missing.get(uuid, now) for uuid in missing}
        for uuid, since in list(self._missing.items()):
            if now - since >= _PATIENCE_S:
                self._services.journal.clones.forget(uuid)
                del self._missing[uuid]
                log.info("the clone %s is gone, by somebody else's hand, and forgotten", uuid)
