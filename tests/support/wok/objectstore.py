"""What is kept as JSON by type and id: src/wok/objectstore.py."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from support.wok.exception import NotFoundError

MOST_CONNECTIONS = 10
TABLE = "CREATE TABLE IF NOT EXISTS objects (id TEXT, type TEXT, json TEXT, version TEXT, PRIMARY KEY (id, type))"


class ObjectStore:
    """src/wok/objectstore.py, ObjectStore: one session at a time; a connection is kept by the name of its thread."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.Semaphore()
        self._connections: dict[str, sqlite3.Connection] = {}
        self._file = file
        with self as session:
            session.run(TABLE)

    def __enter__(self) -> Session:
        self._lock.acquire()
        name = threading.current_thread().name
        if name not in self._connections:
            self._connections[name] = sqlite3.connect(self._file, timeout=10)
            if len(self._connections) > MOST_CONNECTIONS:
                del self._connections[next(iter(self._connections))]
        return Session(self._connections[name])

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


class Session:
    """src/wok/objectstore.py, ObjectStoreSession."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, text: str, *values: object) -> list[Any]:
        """One statement, and what it finds."""
        found = self._connection.execute(text, values).fetchall()
        self._connection.commit()
        return found

    def get(self, kind: str, ident: str, ignore_missing: bool = False) -> dict[str, Any]:
        """One object; what is missing is empty, or an error."""
        rows = self.run("SELECT json FROM objects WHERE type = ? AND id = ?", kind, ident)
        if not rows and not ignore_missing:
            raise NotFoundError("WOKOBJST0001E", {"item": ident})
        found: dict[str, Any] = json.loads(rows[0][0]) if rows else {}
        return found

    def versions(self, kind: str, ident: str) -> list[str]:
        """src/wok/objectstore.py, get_object_version."""
        return [row[0] for row in self.run("SELECT version FROM objects WHERE type = ? AND id = ?", kind, ident)]

    def store(self, kind: str, ident: str, data: dict[str, Any], version: str | None = None) -> None:
        """Writes one object."""
        self.run("REPLACE INTO objects VALUES (?, ?, ?, ?)", ident, kind, json.dumps(data), version or "3.0.0")
