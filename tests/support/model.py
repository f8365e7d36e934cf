"""What the REST API promises, as a small model in plain Python: a host of one pool, and what each request does to it.

The model knows nothing of how clones are made. A clone that is quick has ended before the next request is sent; one
that is slow runs until somebody ends it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

RUNNING, FINISHED, FAILED, KILLED = "running", "finished", "failed", "killed"

Refusal = tuple[int, str]
"""Status and code of an error."""

MISSING_GUEST = (404, "KCHVM0002E")
MISSING_VOLUME = (404, "KCHVOL0002E")
MISSING_TASK = (404, "WOKASYNC0001E")
MISSING_BATCH = (404, "CLNBATCH0001E")
NAME_TAKEN = (409, "CLNNAME0002E")
IN_USE = (409, "CLNVM0007E")
KEY_REUSED = (422, "CLNAPI0009E")
WRONG_FIELD = (400, "CLNAPI0004E")


@dataclass
class Clone:
    """A task: what it makes, of what, and how it is doing. `volume` is the one that it makes or has made."""

    kind: str
    name: str
    volume: str
    source: str
    uuid: str
    batch: str | None
    stands_on: frozenset[str]
    is_slow: bool
    status: str = RUNNING
    has_warning: bool = False


@dataclass(frozen=True)
class Key:
    """An idempotency key: what it came with, and the tasks that it is answered with."""

    path: str
    body: Mapping[str, Any]
    tasks: Sequence[str]


@dataclass
class Model:
    """What there is. `guests` have their one volume, `volumes` the volumes that they are lost without."""

    guests: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, frozenset[str]] = field(default_factory=dict)
    tasks: dict[str, Clone] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    names: list[tuple[str, str]] = field(default_factory=list)
    """Kind and name of every clone that was ever accepted under a name of the server's making."""

    uuids: dict[str, str] = field(default_factory=dict)
    """Of the guests that are clones."""

    @property
    def running(self) -> dict[str, Clone]:
        return {number: task for number, task in self.tasks.items() if task.status == RUNNING}

    @property
    def batches(self) -> list[str]:
        """Those of which there are tasks, each once."""
        return list(dict.fromkeys(task.batch for task in self.tasks.values() if task.batch))

    def of_batch(self, batch: str) -> dict[str, Clone]:
        return {number: task for number, task in self.tasks.items() if task.batch == batch}

    # --- Cloning -----------------------------------------------------------------------------------------------------

    def refuses(self, path: str, body: Mapping[str, Any], key: str | None) -> Refusal | None:
        """What a request for clones that is not a repetition is refused with; None if it is accepted."""
        known = self.keys.get(key or "")
        if known is not None:
            return KEY_REUSED if (known.path, known.body) != (path, body) else MISSING_TASK
        if "name" in body and "count" in body:
            return WRONG_FIELD
        source = self.source_volume(path)
        if source is None:
            return MISSING_GUEST if path.startswith("vms/") else MISSING_VOLUME
        return NAME_TAKEN if "name" in body and self._is_taken(path, body, source) else None

    def repeats(self, path: str, body: Mapping[str, Any], key: str | None) -> list[str]:
        """The tasks that a request is answered with which was sent before; none if it was not."""
        known = self.keys.get(key or "")
        if known is None or (known.path, known.body) != (path, body):
            return []
        return [number for number in known.tasks if number in self.tasks]

    def source_volume(self, path: str) -> str | None:
        name = path.rpartition("/")[2]
        return self.guests.get(name) if path.startswith("vms/") else name if name in self.volumes else None

    def _is_taken(self, path: str, body: Mapping[str, Any], source: str) -> bool:
        name, volume = body["name"], body["name"]
        if path.startswith("vms/"):
            ending = ".qcow2" if body.get("method") == "linked" else PurePath(source).suffix
            volume = f"{name}-vda{ending}"
            if name in self.guests or any((task.kind, task.name) == ("domain", name) for task in self.running.values()):
                return True
        return volume in self.volumes or any(task.volume == volume for task in self.running.values())

    def accept(self, path: str, body: Mapping[str, Any], key: str | None, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Clones are being made now."""
        source = self.source_volume(path) or ""
        stands_on = self.volumes[source] | ({source} if body.get("method") == "linked" else set())
        for task in tasks:
            (disk,) = task["disks"]
            clone = Clone(
                kind=task["kind"],
                name=task["name"],
                volume=disk["target"]["name"],
                source=source,
                uuid=task.get("uuid", ""),
                batch=task["batch"],
                stands_on=stands_on,
                is_slow="bandwidth" in body,
            )
            self.tasks[task["id"]] = clone
            self.names += [] if "name" in body else [(clone.kind, clone.name)]
        if key is not None:
            self.keys[key] = Key(path, body, [task["id"] for task in tasks])

    def end(self, number: str, status: str) -> None:
        """A task has ended: its clone is there now, or nothing of it."""
        task = self.tasks[number]
        task.status = status
        if status == FINISHED:
            self.volumes[task.volume] = task.stands_on
            if task.kind == "domain":
                self.guests[task.name], self.uuids[task.name] = task.volume, task.uuid

    # --- Taking away -------------------------------------------------------------------------------------------------

    def is_needed(self, volumes: Collection[str]) -> bool:
        """Whether a clone that is being made reads one of these, or one that is there stands on it."""
        reads = [{task.source, *self.volumes.get(task.source, ())} for task in self.running.values()]
        return any(set(volumes) & needed for needed in [*reads, *self.volumes.values()])

    def delete_guest(self, name: str, *, storage: bool) -> None:
        """A guest goes, and its volume with it if that was made for it or if that is asked for."""
        volume = self.guests.pop(name)
        if self.uuids.pop(name, None) or storage:
            del self.volumes[volume]

    def withdraw(self, number: str) -> None:
        """What a finished task has made is removed with its batch, unless it is needed."""
        task = self.tasks[number]
        is_there = self.uuids.get(task.name) == task.uuid if task.kind == "domain" else task.volume in self.volumes
        if is_there and self.is_needed([task.volume]):
            task.has_warning = True
            return
        task.status = KILLED
        if is_there and task.kind == "domain":
            self.delete_guest(task.name, storage=False)
        elif is_there:
            del self.volumes[task.volume]
