"""`P/config`: what this plugin is."""

from __future__ import annotations

from typing import Any

from ..model.config import ConfigModel
from ..model.services import Services
from .base import Controller, Request, route


class Config(Controller):
    def __init__(self, _services: Services) -> None:
        self._model = ConfigModel()

    @route("GET", "")
    def lookup(self, _request: Request) -> dict[str, Any]:
        return self._model.lookup()
