"""`P/vms`: domains over HTTP."""

from __future__ import annotations

from typing import Any

from ..model.services import Services
from ..model.vms import VMsModel
from .base import Answer, Controller, Request, route
from .cloning import accepted, asked
from .filters import listed, part


class VMs(Controller):
    def __init__(self, services: Services) -> None:
        self._model = VMsModel(services)

    @route("GET", "")
    def get_list(self, request: Request) -> Answer:
        return listed(self._model.get_list(request.caller, *part(request)), request)

    @route("GET", "{name}")
    def lookup(self, request: Request) -> dict[str, Any]:
        return self._model.lookup(request.path["name"], request.caller)

    @route("DELETE", "{name}", schema="vm_delete", action="delete")
    def delete(self, request: Request) -> Answer:
        storage = request.body.get("storage", False)
        self._model.delete(request.path["name"], request.caller, storage=storage)
        return Answer(status=204, audit={"storage": storage})

    @route("POST", "{name}/start", schema="vm_start", action="start")
    def start(self, request: Request) -> dict[str, Any]:
        return self._model.start(request.path["name"], request.caller)

    @route("POST", "{name}/clone", schema="vm_clone", action="clone")
    def clone(self, request: Request) -> Answer:
        return accepted(self._model.clone(request.path["name"], asked(request)), request.mount)
