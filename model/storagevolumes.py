"""Storage volumes: what exists, and its clones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import errors
from ..callers import Caller
from ..hypervisor.infos import VolumeInfo
from ..utils import few
from .accepting import Accepted, Request, accept, check_count
from .holding import held
from .needs import Needs
from .services import Services, paths_in_use, read_wishes
from .usage import refuse_misread, refuse_open, running_users
from .volumeorder import VolumeOrder

_CLOCKS_DIFFER_US = 50_000
"""A file system takes its times from the kernel's coarse clock, which lags."""


class StorageVolumesModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self, pool: str) -> list[dict[str, Any]]:
        """Raises PoolNotFound, PoolInactive."""
        volumes = self._services.host.list_volumes(pool, but_unreadable=True)
        used = paths_in_use(self._services.guests())
        return [_resource(volume, used) for volume in volumes]

    def lookup(self, pool: str, name: str) -> dict[str, Any]:
        """Raises PoolNotFound, PoolInactive, VolumeNotFound."""
        volume = self._services.host.volume(pool, name)
        return _resource(volume, paths_in_use(self._services.guests()))

    def clone(self, pool: str, name: str, request: Request) -> Accepted:
        """Accepts clones of the volume; workers make them.

        `request.params` are as API.json's `storagevolume_clone` has them. Raises what the survey and the plan raise,
        VolumeIsWritten, InvalidName and NameTaken, and what `accept` raises; nothing is written then.
        """
        return accept(self._services, request, lambda: self._order(pool, name, request))

    def delete_made(self, pool: str, name: str, since: int, caller: Caller, needs: Needs) -> None:
        """Deletes a clone of a volume, if it is still there and as it was made.

        `since` is when it was complete, in µs since 1970. Raises SourceInUse while anybody needs it, and for a volume
        that was changed since: it may be another one by now.
        """
        host = self._services.host
        try:
            volume = host.volume(pool, name)
        except errors.VolumeNotFound:
            return
        if volume.changed is not None and volume.changed > since + _CLOCKS_DIFFER_US:
            raise errors.SourceInUse(name=name, act="deleted", cause="it was changed since it was made")
        users, overlays = needs.users(*volume.places), needs.overlays(*volume.places)
        if users or overlays:
            cause = (
                f"it is a disk of {', '.join(users)}, or what one stands on"
                if users
                else f"{', '.join(overlays)} stands on it"
            )
            raise errors.SourceInUse(name=name, act="deleted", cause=cause)
        refuse_open(self._services, name, [volume.path])
        with held(self._services, name, [volume.path], "deleted", caller):
            host.delete_volume(pool, name, volume.path)

    def _order(self, pool: str, name: str, request: Request) -> VolumeOrder:
        services, params = self._services, request.params
        check_count(params)
        wanted = params.get("name")
        if wanted is not None:
            services.check_volume_name(wanted)
        wishes = read_wishes(params)
        survey = services.surveyor.volume(pool, name, wishes.pool, wishes.method, flatten=wishes.flatten)
        volumes = [disk.volume for disk in survey.disks if disk.volume]
        for volume in volumes:
            refuse_misread(services.inventory, services.host, volume)
        users = [user for volume in volumes for user in running_users(services.inventory, services.host, volume)]
        if not users and any(disk.has_writer for disk in survey.disks):
            users = ["a QEMU that runs"]
        if users:
            raise errors.VolumeIsWritten(name=name, users=few(users))
        return VolumeOrder(services, name, wanted, wishes, survey)


def _resource(volume: VolumeInfo, used: Mapping[str, list[str]]) -> dict[str, Any]:
    """A volume in Kimchi's words; sizes in bytes. What is not looked into is null."""
    users = [*used.get(volume.path, ()), *used.get(f"{volume.pool}/{volume.name}", ())]
    resource: dict[str, Any] = {
        "name": volume.name,
        "type": volume.type,
        "capacity": volume.capacity,
        "allocation": volume.allocation,
        "path": volume.path,
        "used_by": users,
        "format": volume.format,
        "isvalid": None,
        "has_permission": None,
    }
    return resource | ({"base": {"path": volume.backing}} if volume.backing else {})
