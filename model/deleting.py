"""How a guest is deleted: what goes with it, what others need of that, and what is left and has to be named."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress

from .. import errors
from ..engine import domainxml, files
from ..hypervisor.infos import DomainInfo, VolumeInfo
from .deletions import Deletions
from .guests import disk_mark
from .holding import forget_deleted
from .needs import Needs
from .services import Services
from .usage import (
    LOOKS_S,
    files_in_no_pool,
    refuse_open,
    stopped_volumes,
    written_volumes,
)


class Deleting:
    """Deletes guests of one host."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def delete(self, domain: DomainInfo, needs: Needs, *, everything: bool) -> None:
        """Deletes a guest whose images are held, with the storage that we made for it, or with `everything` it has.

        Raises PoolInactive and SourceInUse, when nothing is done yet; DomainDeletedInPart for what had to be left.
        """
        journal = self._services.journal
        clone = journal.clones.find(domain.uuid)
        ours = [] if clone is None else [dict(item) for item in clone.storage]
        seen = list(written_volumes(self._services.host, domain))
        for pool, volume in stopped_volumes(self._services.host, domain):
            if everything or {"pool": pool, "volume": volume} in ours:
                raise errors.PoolInactive(pool=pool)
        doomed = [
            volume
            for volume in seen
            if (everything or {"pool": volume.pool, "volume": volume.name} in ours)
            and not self._is_needed(volume, domain.uuid, needs)
        ]
        nvram = self._services.read(domain).nvram or ""
        lost = self._out_of_reach(domain, ours, seen, needs, everything=everything)
        lost |= self._given_up(domain, [item for item in ours if item.get("file") != nvram], seen, needs)
        keep_nvram = (clone is None and not everything) or bool(needs.users(nvram, but=domain.uuid))
        # libvirt removes those of a guest that was started meanwhile as well, so the server does it where it can.
        known = {} if keep_nvram or any(map(files.is_elsewhere, seen)) else self._removable(nvram)
        refuse_open(self._services, domain.name, [*(volume.path for volume in doomed), *([nvram] if known else [])])
        with Deletions(self._services).written_down(domain, doomed, nvram, known):
            with_tpm = (clone is not None or everything) and domainxml.has_kept_tpm(domain.tree)
            self._undefine(domain, keep_nvram=keep_nvram or bool(known), with_tpm=with_tpm)
            left = lost | self._delete_volumes(domain, doomed) | self._remove_nvram(domain, nvram, known)
            forget_deleted(self._services, [each for each in doomed if f"{each.pool}/{each.name}" not in left])
            journal.clones.forget(domain.uuid)
        if left:
            causes = "; ".join(dict.fromkeys(left.values()))
            raise errors.DomainDeletedInPart(name=domain.name, storage=", ".join(left), cause=causes)

    def _out_of_reach(
        self,
        domain: DomainInfo,
        ours: Collection[Mapping[str, str]],
        seen: Collection[VolumeInfo],
        needs: Needs,
        *,
        everything: bool,
    ) -> dict[str, str]:
        """Storage that should go and cannot, since no pool has it, or not that in which we made it; and why."""
        loose = files_in_no_pool(self._services.host, domain) if everything else []
        left = dict.fromkeys(filter(files.may_be_there, loose), "no active storage pool has it as a volume")
        found = {(volume.pool, volume.name) for volume in seen}
        paths = {volume.path for volume in seen} if everything else set()  # what goes, whatever its pool is
        for disk in domainxml.disks(domain.tree):
            if disk.is_written and disk.path not in paths:
                name = os.path.basename(disk.place)
                pools = [item["pool"] for item in ours if item.get("volume") == name]
                hidden = [pool for pool in pools if (pool, name) not in found and not self._is_gone(pool, disk.path)]
                if hidden:
                    left[disk.place] = f"it is no volume of pool {', '.join(hidden)} any more"
        return {
            place: why
            for place, why in left.items()
            if not needs.users(place, but=domain.uuid) and not needs.overlays(place)
        }

    def _given_up(
        self, domain: DomainInfo, ours: Collection[Mapping[str, str]], seen: Collection[VolumeInfo], needs: Needs
    ) -> dict[str, str]:
        """What we made for a guest that has something else in its place by now, such as a snapshot of it; and why.

        It may have been kept on purpose.
        """
        names = {os.path.basename(disk.place) for disk in domainxml.disks(domain.tree)}
        names.update(volume.name for volume in seen)
        left = {}
        for item in ours:
            place = item.get("file", "")
            if item.get("volume", "") in names or (place and not self._is_seen(place)):
                continue
            with suppress(errors.PoolNotFound, errors.VolumeNotFound):
                try:
                    place = place or self._services.host.volume(item["pool"], item["volume"]).path
                except errors.PoolInactive:
                    place = f"{item['pool']}/{item['volume']}"
                left[place] = "the guest had something else in its place by now"
        return {place: why for place, why in left.items() if not needs.users(place, but=domain.uuid)}

    def _is_seen(self, path: str) -> bool:
        return self._services.connections.is_local and files.may_be_there(path)

    def _is_needed(self, volume: VolumeInfo, but: str, needs: Needs) -> bool:
        """Whether anybody needs a volume, other than the domain with the UUID `but`; events may tell of newer users."""
        if needs.users(*volume.places, but=but) or needs.overlays(*volume.places):
            return True
        users = [user for place in volume.places for user in self._services.inventory.having(disk_mark(place)) or ()]
        return any(user.uuid != but for user in users)

    def _is_gone(self, pool: str, path: str | None) -> bool:
        """Whether a volume that libvirt does not find in a pool is nowhere else either."""
        if path and self._services.connections.is_local and not files.is_barred(path):
            return not files.may_be_there(path)
        with suppress(errors.PoolNotFound):
            found = self._services.host.pool(pool)
            return found.is_active and (not path or os.path.dirname(path) == found.path)
        return False

    def _removable(self, path: str) -> dict[str, int]:
        """The identity of a file that the server can remove by itself; empty for any other."""
        can_remove = self._services.connections.is_local and path and files.can_write(os.path.dirname(path))
        return files.identity(path) if can_remove else {}

    def _undefine(self, domain: DomainInfo, *, keep_nvram: bool, with_tpm: bool) -> None:
        """Raises SourceInUse for what was started meanwhile, and leaves it defined: libvirt undefines what runs."""
        host = self._services.host
        host.undefine(domain.uuid, keep_nvram=keep_nvram, with_tpm=with_tpm)
        with suppress(errors.DomainNotFound):
            if not host.domain_by_uuid(domain.uuid).persistent:
                host.define_again(domain)
            cause = "somebody has started or defined it meanwhile; shut it down, and try again"
            raise errors.SourceInUse(name=domain.name, act="deleted", cause=cause)

    def _delete_volumes(self, domain: DomainInfo, volumes: Collection[VolumeInfo]) -> dict[str, str]:
        """Deletes volumes; returns which are left, and why. Raises LibvirtUnavailable."""
        left = {}
        for volume in volumes:
            try:
                refuse_open(self._services, domain.name, [volume.path], LOOKS_S)
                self._services.host.delete_volume(volume.pool, volume.name, volume.path)
            except errors.LibvirtUnavailable:  # the deletion goes on when libvirt is back
                raise
            except errors.ClonerError as error:
                left[f"{volume.pool}/{volume.name}"] = error.reason
        return left

    def _remove_nvram(self, domain: DomainInfo, path: str, known: dict[str, int]) -> dict[str, str]:
        try:
            refuse_open(self._services, domain.name, [path] if known else [], LOOKS_S)
            files.remove(path, known)
        except errors.ClonerError as error:
            return {path: error.reason}
        return {}
