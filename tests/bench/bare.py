"""The limit of accepting: a CherryPy handler that does one SQLite commit and nothing else. bare.py FOLDER [BACKLOG]

Without a backlog, which is how many connections the kernel holds until a thread takes them, it is CherryPy's own.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import cherrypy

from support.running import wait_until
from support.server import MOUNT_POINT, START_TIMEOUT

_THREADS = 64
_END_TIMEOUT = 10.0  # seconds


class Bare:
    """`with Bare(folder) as server:` the handler in a process of its own; it is Serving, as client.py says."""

    token = ""

    def __init__(self, folder: Path, backlog: int | None = None) -> None:
        argv = [sys.executable, "-P", "-m", "bench.bare", str(folder), *([] if backlog is None else [str(backlog)])]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._log = folder / "bare.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        self.address = ("", 0)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Bare:
        wait_until(self._is_ready, START_TIMEOUT, "the bare handler serves", lambda: self.log)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(_END_TIMEOUT)

    def _is_ready(self) -> bool:
        found = re.search(r"Serving on http://([\d.]+):(\d+)", self.log)
        if found:
            self.address = (found[1], int(found[2]))
        return bool(found)


class Handler:
    """Answers every path."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "bare.sqlite", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("CREATE TABLE clones (id INTEGER PRIMARY KEY, name TEXT)")
        self._writing = threading.Lock()

    def default(self, *path: str) -> bytes:
        with self._writing:
            row = self._database.execute("INSERT INTO clones (name) VALUES (?)", (path[-1],)).lastrowid
        cherrypy.response.status = 202
        cherrypy.response.headers["Content-Type"] = "application/json"
        return json.dumps({"id": row, "name": f"clone-{row}"}).encode()

    # How CherryPy is told; its decorators have no types.
    default.exposed = True  # type: ignore[attr-defined]


def main(folder: Path, backlog: int | None) -> None:
    ours = {} if backlog is None else {"server.thread_pool": _THREADS, "server.socket_queue_size": backlog}
    cherrypy.config.update({"environment": "embedded", "log.screen": True, "server.socket_port": _free_port(), **ours})
    cherrypy.log.access_log.propagate = False
    cherrypy.log.access_log.handlers.clear()
    cherrypy.tree.mount(Handler(folder), MOUNT_POINT)
    cherrypy.engine.signals.subscribe()
    cherrypy.server.subscribe()
    cherrypy.engine.start()
    if backlog is not None:
        cherrypy.server.httpserver.keep_alive_conn_limit = backlog  # of 10; with more it would hang up on each
    cherrypy.engine.block()


def _free_port() -> int:
    """One that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
