"""Our tab inside Wok: its page asks each plugin for `i18n.json` and for what its ui/config/tab-ext.xml names."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

import cherrypy

from ..control.base import Answer, Controller, Request, nothing_here, route
from ..model.services import Services

UI_FOLDER = Path(__file__).resolve().parent.parent / "ui"

_TYPES = mimetypes.MimeTypes()
"""Python's own, whatever the host calls a script."""

_TYPES.add_type("text/javascript", ".js")
_TYPES.add_type("text/x-gettext-translation", ".po")


def _file(*parts: str) -> Answer:
    """A file of ours. Raises ResourceNotFound."""
    path = UI_FOLDER.joinpath(*parts)
    if set(parts) & {"", ".", ".."} or not os.path.isfile(path):  # Path's own raises for a name that is too long
        raise nothing_here()
    kind = _TYPES.guess_type(path.name)[0] or "application/octet-stream"
    charset = ";charset=utf-8" if kind.startswith("text/") or kind == "application/json" else ""
    return Answer(path.read_bytes(), headers={"Content-Type": kind + charset})


class I18n(Controller):
    """The titles of our tabs, by what tab-ext.xml calls them."""

    def __init__(self, _services: Services) -> None:
        pass

    @route("GET", "")
    def lookup(self, _request: Request) -> Answer:
        return _file("config", "i18n.json")


class Tabs(Controller):
    """The page of a tab: a piece of HTML that Wok's page puts into its middle."""

    def __init__(self, _services: Services) -> None:
        pass

    @route("GET", "{page}")
    def lookup(self, request: Request) -> Answer:
        """As Wok does with its own (src/wok/root.py, tabs), it is where the next log-in leads to."""
        page = request.path["page"]
        answer = _file("tabs", page)
        cookie = cherrypy.serving.response.cookie
        cookie["lastPage"] = f"/#{request.mount.lstrip('/')}/tabs/{page.removesuffix('.html')}"
        cookie["lastPage"]["path"] = "/"
        return answer


class UI(Controller):
    """The modules and styles that the page needs, as `cloner serve` has them below /ui."""

    def __init__(self, _services: Services) -> None:
        pass

    @route("GET", "{file}")
    def lookup(self, request: Request) -> Answer:
        return _file(request.path["file"])

    @route("GET", "{folder}/{file}")
    def lookup_in_folder(self, request: Request) -> Answer:
        return _file(request.path["folder"], request.path["file"])
