"""`P/storagepools`: pools over HTTP, and below each its volumes."""

from __future__ import annotations

from typing import Any

from ..model.services import Services
from ..model.storagepools import StoragePoolsModel
from .base import Answer, Request, route
from .filters import listed
from .storagevolumes import StorageVolumes


class StoragePools(StorageVolumes):
    def __init__(self, services: Services) -> None:
        super().__init__(services)
        self._pools = StoragePoolsModel(services)

    @route("GET", "")
    def get_list(self, request: Request) -> Answer:
        return listed(self._pools.get_list(), request)

    @route("GET", "{pool}")
    def lookup(self, request: Request) -> dict[str, Any]:
        return self._pools.lookup(request.path["pool"])
