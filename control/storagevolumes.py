"""`P/storagepools/<pool>/storagevolumes`: volumes over HTTP.

Part of the pools' controller, since their path lies below a pool's.
"""

from __future__ import annotations

from typing import Any

from ..model.services import Services
from ..model.storagevolumes import StorageVolumesModel
from .base import Answer, Controller, Request, route
from .filters import select
from .tasks import accepted


class StorageVolumes(Controller):
    def __init__(self, services: Services) -> None:
        self._volumes = StorageVolumesModel(services)

    @route("GET", "{pool}/storagevolumes")
    def get_volumes(self, request: Request) -> list[dict[str, Any]]:
        return select(self._volumes.get_list(request.path["pool"]), request.query)

    @route("GET", "{pool}/storagevolumes/{name}")
    def lookup_volume(self, request: Request) -> dict[str, Any]:
        return self._volumes.lookup(request.path["pool"], request.path["name"])

    @route("POST", "{pool}/storagevolumes/{name}/clone", schema="storagevolume_clone", action="clone")
    def clone_volume(self, request: Request) -> Answer:
        path = request.path
        return accepted(self._volumes.clone(path["pool"], path["name"], request.body, request.mount), request.mount)
