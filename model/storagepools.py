"""Storage pools: what exists."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from .. import errors
from ..hypervisor.infos import PoolInfo
from .services import Services


class StoragePoolsModel:
    def __init__(self, services: Services) -> None:
        self._services = services

    def get_list(self) -> list[dict[str, Any]]:
        return [self._resource(pool) for pool in self._services.host.list_pools()]

    def lookup(self, name: str) -> dict[str, Any]:
        """Raises PoolNotFound."""
        return self._resource(self._services.host.pool(name))

    def _resource(self, pool: PoolInfo) -> dict[str, Any]:
        """A pool in Kimchi's words; sizes in bytes."""
        available = volumes = 0
        if pool.is_active:
            with suppress(errors.PoolNotFound, errors.PoolInactive):  # it ends in this moment
                available, volumes = self._services.host.available(pool), self._services.host.count_volumes(pool.name)
        return {
            "name": pool.name,
            "state": pool.state,
            "type": pool.type,
            "capacity": pool.capacity,
            "allocated": pool.allocated,
            "available": available,
            "path": pool.path,
            "source": pool.source,
            "nr_volumes": volumes,
            "autostart": pool.autostart,
            "persistent": pool.persistent,
            "in_use": None,
        }
