"""`P/batches`: clones that were accepted together, over HTTP."""

from __future__ import annotations

from typing import Any

from ..model.batches import BatchesModel
from ..model.services import Services
from . import audit
from .base import Answer, Controller, Request, route


class Batches(Controller):
    def __init__(self, services: Services) -> None:
        self._model = BatchesModel(services)

    @route("GET", "{id}")
    def lookup(self, request: Request) -> dict[str, Any]:
        return self._model.lookup(request.path["id"], request.caller)

    @route("DELETE", "{id}", schema="batch_delete", action="withdraw")
    def delete(self, request: Request) -> Answer:
        undo = request.body.get("undo", False)
        batch = self._model.delete(request.path["id"], request.caller, undo=undo)
        return Answer(batch, 202, audit={"outcome": audit.ACCEPTED, "undo": undo})
