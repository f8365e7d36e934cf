"""`P/storagepools/<pool>/storagevolumes`: volumes over HTTP.

Part of the pools' controller, since their path lies below a pool's.
"""

from __future__ import annotations

from typing import Any

from .. import errors
from ..model.services import Services
from ..model.storagevolumes import StorageVolumesModel
from .base import Answer, Controller, Request, nothing_here, route
from .cloning import accepted, asked
from .filters import listed


class StorageVolumes(Controller):
    def __init__(self, services: Services) -> None:
        self._volumes = StorageVolumesModel(services)

    def admit(self, request: Request) -> None:
        """Pools and volumes are for admins, as in Kimchi. Raises PoolNotFound or ResourceNotFound for others."""
        if not request.caller.is_admin:
            raise errors.PoolNotFound(pool=request.path["pool"]) if "pool" in request.path else nothing_here()

    @route("GET", "{pool}/storagevolumes")
    def get_volumes(self, request: Request) -> Answer:
        return listed(self._volumes.get_list(request.path["pool"]), request)

    @route("GET", "{pool}/storagevolumes/{name}")
    def lookup_volume(self, request: Request) -> dict[str, Any]:
        return self._volumes.lookup(request.path["pool"], request.path["name"])

    @route("POST", "{pool}/storagevolumes/{name}/clone", schema="storagevolume_clone", action="clone")
    def clone_volume(self, request: Request) -> Answer:
        pool, name = request.path["pool"], request.path["name"]
        return accepted(self._volumes.clone(pool, name, asked(request)), request.mount)
