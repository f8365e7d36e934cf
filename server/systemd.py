"""What systemd is told of this process, where it asks (sd_notify(3)): ready, stopping, and again and again alive.

Alive is a server that answers its own /livez, through its socket and its threads as any client's. One whose threads are
all busy is alive as well, as long as requests come to an end: it is slow, and would only be slower for a restart.
"""

from __future__ import annotations

import http.client
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, MutableMapping
from contextlib import closing, suppress

import cherrypy

from .health import is_stopping
from .requests import ServedRequest

log = logging.getLogger(__name__)

_SEND_S = 1.0
_PINGS_A_PERIOD = 3
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to know it, not to listen on it
_FIRST = 0


class Systemd:
    """The service manager, as the environment names it. Without one every message goes nowhere.

    Takes its variables out of the environment, since they are for this process and none that it starts.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # of the abstract name space
            self._address = "\0" + self._address[1:]
        period, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_for_us = period.isdigit() and process in ("", str(os.getpid()))
        self.watchdog_s = int(period) / 1e6 if is_for_us else 0.0
        """Seconds after which systemd takes a silent process for dead; 0 if it does not mind."""

        self._is_deaf = False

    def tell(self, *lines: str) -> None:
        """Sends lines such as `READY=1`."""
        if not self._address.startswith(("/", "\0")):
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as out:
            out.settimeout(_SEND_S)
            try:
                out.sendto(message.encode(), self._address)
            except OSError as error:
                self._complain(error)
            else:
                self._is_deaf = False

    def _complain(self, error: OSError) -> None:
        if not self._is_deaf:
            log.warning("systemd cannot be told: %s", error)
        self._is_deaf = True


def introduce(systemd: Systemd, status: Callable[[], str]) -> None:
    """Tells systemd that the server, which serves by now, is ready, then that it lives, and at last that it stops.

    `status` is what `systemctl status` shows, in a line.
    """
    systemd.tell("READY=1", f"STATUS={status()}")
    cherrypy.engine.subscribe("stop", lambda: systemd.tell("STOPPING=1", "STATUS=Stopping"), priority=_FIRST)
    if systemd.watchdog_s:
        pause = systemd.watchdog_s / _PINGS_A_PERIOD
        threading.Thread(target=_keep_telling, args=(systemd, status, pause), name="watchdog", daemon=True).start()


def _keep_telling(systemd: Systemd, status: Callable[[], str], pause: float) -> None:
    pulse = Pulse(pause)
    ended = threading.Event()
    while not ended.wait(pause) and not is_stopping():
        if pulse.is_felt():
            systemd.tell("WATCHDOG=1", f"STATUS={status()}")
        else:
            log.error("no request is answered any more; systemd is not told that the server lives")
            systemd.tell("STATUS=No request is answered any more")


class Pulse:
    """Finds out whether requests are answered; waits up to `patience_s` seconds for that."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._answered = ServedRequest.answered_so_far

    def is_felt(self) -> bool:
        """Whether the server answers now, or has answered anybody since it was last asked."""
        answers = self._is_answered()
        before, self._answered = self._answered, ServedRequest.answered_so_far
        return answers or self._answered != before

    def _is_answered(self) -> bool:
        host, port = cherrypy.server.bound_addr[:2]
        host = _EVERYWHERE.get(host, host)
        with suppress(OSError, http.client.HTTPException), closing(self._connection(host, port)) as connection:
            connection.request("GET", "/livez", headers={"Connection": "close"})
            return connection.getresponse().status < http.HTTPStatus.INTERNAL_SERVER_ERROR
        return False

    def _connection(self, host: str, port: int) -> http.client.HTTPConnection:
        if cherrypy.server.httpserver.ssl_adapter is None:
            return http.client.HTTPConnection(host, port, timeout=self._patience_s)
        # To itself, and by its address, so there is nobody to be told from another.
        unverified = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(host, port, timeout=self._patience_s, context=unverified)
