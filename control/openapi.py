"""`P/openapi.json`: all requests and answers, for programs and for the page that shows them to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model.services import Services
from .base import Controller, Request, route
from .document import Part, document
from .operations import OPERATIONS


class OpenAPI(Controller):
    """`resources` are those of the plugin, `beside` is what else the server has; both are told once it is built."""

    def __init__(self, _services: Services) -> None:
        self.resources: Mapping[str, type[Controller]] = {}
        self.beside: list[Part] = []

    @route("GET", "")
    def lookup(self, request: Request) -> dict[str, Any]:
        return document([Part(request.mount, self.resources, OPERATIONS), *self.beside])
