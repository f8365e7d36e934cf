"""The HTTP server: CherryPy's own, set up for many connections at once, with the plugin where Kimchi's would be."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import cherrypy

from .. import errors
from ..control.base import MAX_BODY_BYTES, Refusal, config
from ..plugin import Cloner
from ..settings import Settings
from .auth import Door, load_token
from .root import PAGE_HEADERS, UI_FOLDER, Root

MOUNT = "/plugins/kimchi"
"""Where consumers of Kimchi's API expect it."""

BACKLOG = 2048
"""Connections that the kernel holds until a thread takes them; Linux itself allows 4096 (net.core.somaxconn)."""

_SHUTDOWN_S = 1


@dataclass(frozen=True)
class Site:
    """What was mounted."""

    plugin: Cloner
    door: Door


def mount(settings: Settings) -> Site:
    """Builds the plugin and hangs everything into CherryPy's tree."""
    plugin = Cloner(settings)
    token = load_token(plugin.settings.folder) if settings.auth == "token" else None
    door = Door(token, settings.session_minutes * 60)
    cherrypy.tools.cloner_limits = cherrypy.Tool("on_start_resource", _refuse_large_bodies, priority=10)
    cherrypy.tools.cloner_door = cherrypy.Tool("on_start_resource", door.check, priority=20)
    common = {"tools.cloner_limits.on": True}
    plugin_config = plugin.get_custom_conf()
    plugin_config["/"] |= common | {"tools.cloner_door.on": True}
    cherrypy.tree.mount(plugin, MOUNT, plugin_config)
    cherrypy.tree.mount(Root(door), "", {"/": config() | common})
    static = {"tools.staticdir.on": True, "tools.staticdir.dir": str(UI_FOLDER), "tools.response_headers.on": True}
    static |= {"tools.response_headers.headers": list(PAGE_HEADERS.items())}
    cherrypy.tree.mount(None, "/ui", {"/": config() | common | static | {"request.dispatch": cherrypy.dispatch.Dispatcher()}})
    return Site(plugin, door)


def start(settings: Settings) -> str:
    """Starts the engine and the server; returns the address that it listens on, as `http://host:port`."""
    cherrypy.config.update(_global_config(settings))
    for log in (cherrypy.log, *(app.log for app in cherrypy.tree.apps.values())):
        log.access_log.setLevel(logging.WARNING)
        log.error_log.setLevel(logging.WARNING)
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    host, port = cherrypy.server.bound_addr[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _global_config(settings: Settings) -> dict[str, Any]:
    return config() | {
        "server.socket_host": settings.host,
        "server.socket_port": settings.port,
        "server.socket_queue_size": BACKLOG,
        "server.thread_pool": settings.threads,
        "server.max_request_body_size": 0,  # our own limit answers in our own shape
        "server.shutdown_timeout": _SHUTDOWN_S,
        "engine.autoreload.on": False,
        "checker.on": False,
        "log.screen": False,
        "tools.log_tracebacks.on": False,
        "request.dispatch": cherrypy.dispatch.Dispatcher(),
    }


def _refuse_large_bodies() -> None:
    length = cherrypy.serving.request.headers.get("Content-Length", "0")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise Refusal(errors.BodyTooLarge(limit=MAX_BODY_BYTES))
