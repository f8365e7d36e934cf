"""The HTTP server: CherryPy's own, set up for many connections at once, with the plugin where Kimchi's would be."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import ssl
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cherrypy

from .. import errors
from ..control.base import MAX_BODY_BYTES, Controller, config
from ..plugin import Cloner
from ..settings import Settings, listed
from .accounts import Accounts, rules
from .auth import Door
from .health import Livez, Readyz
from .origin import Origins
from .protocol import HTTPServer
from .proxies import Proxies
from .requests import Listener, ServedRequest
from .root import UI_FOLDER, Root
from .token_file import load_token

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger(__name__)

MOUNT = "/plugins/kimchi"
"""Where consumers of Kimchi's API expect it."""

BACKLOG = 2048
"""Connections that the kernel holds until a thread takes them; Linux itself allows 4096 (net.core.somaxconn)."""

_SWITCH_S = 0.0005
"""How long a thread may compute before another gets its turn: a worker must not keep a request waiting for 5 ms."""

_MOST_CONNECTIONS = 4096
_FEWEST_CONNECTIONS = 128
_OTHER_FILES = 512
_SHUTDOWN_S = 1
_LONGEST_STOP_S = 4.5
_FIRST = 0


@dataclass(frozen=True)
class Site:
    """What was mounted."""

    plugin: Cloner
    door: Door

    def status(self) -> str:
        """In a line, how it goes."""
        load = self.plugin.services.executor.load().values()
        running, waiting = sum(lane.running for lane in load), sum(lane.waiting for lane in load)
        libvirt = "answers" if self.plugin.services.connections.is_connected else "does not answer"
        return f"{running} clones are being made, {waiting} wait; libvirt {libvirt}"


def check_address(settings: Settings) -> None:
    """Raises InvalidConfiguration if nothing can listen there. To be asked before anything is started."""
    try:
        family, *_, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind(address)
    except OSError as error:
        cause = f"nothing can listen on {settings.host} port {settings.port}: {error.strerror}"
        raise errors.InvalidConfiguration(cause=cause) from error


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """How HTTPS is spoken; None where it is not. Raises InvalidConfiguration for a certificate of no use.

    To be asked before anything is started.
    """
    if not settings.tls_cert:
        if settings.tls_key:
            raise errors.InvalidConfiguration(cause="tls_key is of no use without tls_cert")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password=_no_password)
    except (OSError, ValueError) as error:  # of which ssl.SSLError is one
        files = f"tls_cert {settings.tls_cert} with tls_key {settings.tls_key or settings.tls_cert}"
        raise errors.InvalidConfiguration(cause=f"{files} cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """OpenSSL would ask for it on the terminal."""
    raise ValueError("the key has a password, which nobody is there to type")


def check_pam(settings: Settings) -> None:
    """Raises InvalidConfiguration if PAM cannot be asked. To be asked as check_address."""
    if settings.auth == "pam" and find_spec("pam") is None:
        raise errors.InvalidConfiguration(cause="auth pam needs the Python package python-pam: pip install cloner[pam]")


def mount(settings: Settings) -> Site:
    """Builds the plugin and hangs everything into CherryPy's tree."""
    metrics = _metrics()
    plugin = Cloner(settings, metrics)
    token = load_token(plugin.settings.folder) if settings.auth != "none" else None
    origins = Origins(settings.host, listed(settings.server_names))
    accounts = Accounts(rules(settings) if settings.auth == "pam" else None)
    door = Door(token, settings.session_minutes * 60, plugin.services.tokens, accounts, origins)
    cherrypy.tools.cloner_door = cherrypy.Tool("on_start_resource", door.check, priority=20)
    plugin_config = plugin.get_custom_conf()
    cherrypy.tools.cloner_origin = cherrypy.Tool("on_start_resource", door.check_origin, priority=15)
    plugin_config["/"] |= {"tools.cloner_door.on": True, "tools.cloner_origin.on": True}
    others, config_of_others = _for_machines(plugin, settings, metrics)
    root_config = {"/": config() | {"tools.cloner_origin.on": True}} | config_of_others
    make_request = partial(ServedRequest, metrics or Listener(), Proxies(settings.proxies))
    root_of_server = Root(door, others)
    plugin.openapi_json.beside.append(root_of_server.described)
    for root, path, settings_of_path in (
        (plugin, MOUNT, plugin_config),
        (root_of_server, "", root_config),
        (None, "/ui", {"/": config() | _static(UI_FOLDER) | {"tools.cloner_origin.on": True}}),
    ):
        cherrypy.tree.mount(root, path, settings_of_path).request_class = make_request
    return Site(plugin, door)


def _for_machines(
    plugin: Cloner, settings: Settings, metrics: Metrics | None
) -> tuple[dict[str, Controller], dict[str, dict[str, Any]]]:
    """What watches over a server asks for, by name, with CherryPy's configuration of each: who may ask, and how."""
    found: dict[str, Controller] = {"livez": Livez(), "readyz": Readyz(plugin.services)}
    opened = {f"/{name}": {"tools.cloner_origin.on": False} for name in found}  # by whatever name of this host
    if metrics is None:
        return found, opened
    metrics.watch(plugin.services)
    is_open = settings.metrics_auth == "none"
    asked = {"/metrics": {"tools.cloner_door.on": not is_open, "tools.cloner_origin.on": not is_open}}
    return found | {"metrics": metrics.page(is_open=is_open)}, opened | asked


def _metrics() -> Metrics | None:
    """What counts, where the library for it is installed."""
    try:
        from .metrics import Metrics  # noqa: PLC0415 - see above
    except ImportError:
        log.warning("prometheus_client is not installed, so there is no /metrics")
        return None
    return Metrics()


def _static(folder: Path) -> dict[str, Any]:
    """CherryPy's configuration of a folder whose files are served."""
    return {"tools.staticdir.on": True, "tools.staticdir.dir": str(folder)}


def start(settings: Settings) -> str:
    """Starts the engine and the server; returns the address that it listens on, as `https://host:port`."""
    cherrypy.config.update(_global_config(settings))
    _adopt_logs()
    cherrypy.server.instance = HTTPServer(cherrypy.server, tls_context(settings), _most_connections())
    cherrypy.engine.subscribe("stop", _begin_last_resort, priority=_FIRST)
    sys.setswitchinterval(_SWITCH_S)
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.start()
    host, port = cherrypy.server.bound_addr[:2]
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def wait() -> None:
    """Until the engine has ended. CherryPy's `block` would look ten times a second whether it has.

    A signal may come to any thread, and this one, in which Python handles it, has to be woken then: by a pipe.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    cherrypy.engine.subscribe("exit", partial(_wake, writer))
    try:
        while cherrypy.engine.state != cherrypy.engine.states.EXITING:
            os.read(reader, 1)
    except KeyboardInterrupt:
        cherrypy.engine.exit()
    cherrypy.engine.block()


def _wake(writer: int) -> None:
    with suppress(BlockingIOError):  # then it is awake
        os.write(writer, b"\0")


def _adopt_logs() -> None:
    """What CherryPy and cheroot have to tell goes the way of our own log, without the time, which a line has anyway.

    Their access log says less than ours, and takes its time even where nobody reads it.
    """
    cherrypy.log.screen = False
    for logs in (cherrypy.log, *(app.log for app in cherrypy.tree.apps.values())):
        logs.access = _say_nothing
        logs.error_log.setLevel(logging.WARNING)
        logs.time = str


def _say_nothing() -> None:
    """In the place of CherryPy's access log."""


def _most_connections() -> int:
    """How many there may be at once, with some files left for everything else that is open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):  # where that is not allowed
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return max(soft - _OTHER_FILES, _FEWEST_CONNECTIONS)
    return _MOST_CONNECTIONS


def _begin_last_resort() -> None:
    """Sees to it that the process ends in time, whoever hangs: the next start learns from the journal what to undo."""
    timer = threading.Timer(_LONGEST_STOP_S, _end)
    timer.daemon = True
    timer.start()


def _end() -> None:
    log.error("a request or a copy does not end; what it leaves is undone at the next start")
    os._exit(0)


def _global_config(settings: Settings) -> dict[str, Any]:
    return config() | {
        "server.socket_host": settings.host,
        "server.socket_port": settings.port,
        "server.socket_queue_size": BACKLOG,
        "server.thread_pool": settings.threads,
        "server.max_request_body_size": MAX_BODY_BYTES,
        "server.shutdown_timeout": _SHUTDOWN_S,
        "engine.autoreload.on": False,
        "checker.on": False,
        "log.screen": False,
        "tools.log_tracebacks.on": False,
        "request.dispatch": cherrypy.dispatch.Dispatcher(),
    }
