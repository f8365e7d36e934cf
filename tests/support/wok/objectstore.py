"""What is kept as JSON by type and id: src/wok/objectstore.py, in memory."""

from __future__ import annotations

import json
import threading
from typing import Any

from support.wok.exception import NotFoundError


class ObjectStore:
    """src/wok/objectstore.py, ObjectStore and ObjectStoreSession: one session at a time."""

    def __init__(self) -> None:
        self._lock = threading.Semaphore()
        self._objects: dict[tuple[str, str], str] = {}

    def __enter__(self) -> ObjectStore:
        self._lock.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self._lock.release()

    def get(self, kind: str, ident: str, ignore_missing: bool = False) -> dict[str, Any]:
        """One object; what is missing is empty, or an error."""
        if (kind, ident) not in self._objects and not ignore_missing:
            raise NotFoundError("WOKOBJST0001E", {"item": ident})
        found: dict[str, Any] = json.loads(self._objects.get((kind, ident), "{}"))
        return found

    def store(self, kind: str, ident: str, data: dict[str, Any], version: str | None = None) -> None:
        """Writes one object."""
        self._objects[kind, ident] = json.dumps({**data, "version": version})
