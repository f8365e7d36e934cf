"""Storage volumes: what exists, and its clones."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from .. import errors
from ..callers import Caller
from ..engine.deciding import draft_volume
from ..engine.journal import SOURCE, Task, Transaction
from ..engine.plan import Draft, VolumePlan, split_volume_name
from ..hypervisor.host import Host, PoolInfo, VolumeInfo
from ..utils import MAX_FILE_NAME_BYTES, get_next_clone_name
from .services import VOLUME_NAME, Services, Skipping, check_volume_name, paths_in_use, read_wishes, room
from .usage import refuse_held, running_users


class StorageVolumesModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self, pool: str) -> list[dict[str, Any]]:
        """Raises PoolNotFound, PoolInactive."""
        volumes = self._services.host.list_volumes(pool)
        used = paths_in_use(self._services.guests())
        return [_resource(volume, used) for volume in volumes]

    def lookup(self, pool: str, name: str) -> dict[str, Any]:
        """Raises PoolNotFound, PoolInactive, VolumeNotFound."""
        volume = self._services.host.volume(pool, name)
        return _resource(volume, paths_in_use(self._services.guests()))

    def clone(self, pool: str, name: str, params: Mapping[str, Any], mount: str, caller: Caller) -> Task:
        """Accepts a clone of the volume; workers make it.

        Args:
            pool: of the source.
            name: of the source.
            params: as API.json's `storagevolume_clone` has them.
            mount: URI path that the plugin is served at, which `target_uri` starts with.
            caller: who asks.

        Raises what the survey and the plan raise, InvalidName and NameTaken; nothing is written then.
        """
        services = self._services
        wanted = params.get("name")
        wishes = read_wishes(params)
        if wanted is not None:
            check_volume_name(wanted)
        survey = services.surveyor.volume(pool, name, wishes.pool, flatten=wishes.flatten)
        users = [user for disk in survey.disks if disk.volume for user in self._users(disk.volume)]
        if users:
            raise errors.VolumeIsWritten(name=name, users=", ".join(users))
        with services.journal.transaction() as transaction:
            draft = draft_volume(survey, wishes, room(transaction, services.host))
            refuse_held(services, transaction, name, draft.reads)
            plan, task = self._accept(transaction, draft, (name, wanted), mount, caller)
        services.executor.submit(task.id, plan)
        return task

    def _users(self, volume: VolumeInfo) -> list[str]:
        return running_users(self._services.inventory, self._services.host, volume)

    def _accept(
        self, transaction: Transaction, draft: Draft, names: tuple[str, str | None], mount: str, caller: Caller
    ) -> tuple[VolumePlan, Task]:
        name, wanted = names
        copy = draft.copies[0]
        if transaction.is_reserved(VOLUME_NAME, copy.source.pool, name):
            raise errors.VolumeNotCloneable(name=name, cause="it is still being made")
        taken = _TakenNames(self._services.host, transaction, draft.pool(copy.pool))
        if wanted is not None and wanted in taken:
            raise errors.NameTaken(name=wanted)
        base, _ = split_volume_name(name)
        free = Skipping(taken, lambda: self._services.observer.name_skipped(VOLUME_NAME))
        new_name = wanted or get_next_clone_name(
            free, base, copy.extension, ts=True, clock=transaction, max_bytes=MAX_FILE_NAME_BYTES
        )
        self._services.limits.check(transaction, caller, draft.copies)
        task_id = transaction.new_task_id()
        plan = draft.volume_plan(new_name)
        transaction.reserve(VOLUME_NAME, copy.pool, new_name, task=task_id)
        transaction.promise(task_id, copy.pool, new_name, copy.size)
        for path in draft.reads:
            transaction.reserve(SOURCE, path, str(task_id), task=task_id)
        uri = f"{mount}/storagepools/{copy.pool}/storagevolumes/{new_name}/clone"
        lease = self._services.lease.id
        return plan, transaction.add_task(task_id, VOLUME_NAME, uri, lease, plan.describe(), owner=caller.name)


class _TakenNames(Container[str]):
    """Names that a volume of one pool cannot have: asked one by one, never listed."""

    def __init__(self, host: Host, transaction: Transaction, pool: PoolInfo) -> None:
        self._host = host
        self._transaction = transaction
        self._pool = pool

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if self._transaction.is_reserved(VOLUME_NAME, self._pool.name, name):
            return True
        return self._host.has_volume(self._pool, name)


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
