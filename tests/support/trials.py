"""Clones in which something fails on purpose, one after the other, and what is wrong with how each of them ends."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import libvirt

from support.answers import refusal
from support.guests import define_guest, inventory, remove_guest
from support.libvirtd import PrivateLibvirtd
from support.server import Server
from support.storage import KiB, MiB, make_pool, make_qcow2, make_raw, qemu_img_compare, remove_pool, sha256, some_data

TESTS = Path(__file__).resolve().parents[1]
TEXT = "injected"
"""What every error says that support/failing.py raises."""

CAUSES = (TEXT, "invalid connection pointer")
"""What a task's message has of the cause; the second where only the next call found out that the connection is lost."""

REFUSALS = (400, 502, 503)
"""What is answered to a clone that cannot be looked into. Never 500, which says that nobody thought of it."""


@dataclass(frozen=True)
class Fault:
    """The nth call with this label fails in this way; see support/failing.py for both."""

    call: str
    nth: int
    how: str

    def __str__(self) -> str:
        return f"{self.call}, the {self.nth}., {self.how}"


def faults(calls: Mapping[str, int], known: Collection[str] = ()) -> Iterator[Fault]:
    """Each of the calls, in each way that it can fail; in one way, where other trials have tried all."""
    for label, count in calls.items():
        ways = _ways(label)[: 1 if label in known else None]
        yield from (Fault(label, nth, how) for nth in range(1, count + 1) for how in ways)


def _ways(label: str) -> tuple[str, ...]:
    name = label.split()[1]
    if name.startswith("journal"):
        return ("full",)
    if not name.startswith(("vir", "libvirt")):
        return ("EIO", "ENOSPC")
    # An internal error may mean that libvirt is busy with a volume, which counts where that is to go.
    return ("refused", "lost", "broken") if label.startswith("undo") else ("refused", "lost")


class FailingServer(Server):
    """A server in whose clones calls fail, see support/failing.py. `folder` keeps its state."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._faults, self._calls = folder / "faults", folder / "calls"
        env = {"PYTHONPATH": str(TESTS), "CLONER_FAULTS": str(self._faults), "CLONER_CALLS": str(self._calls)}
        super().__init__(uri, folder / "state", env=env)
        self._argv[self._argv.index("cloner")] = "support.failing"

    def arm(self, wanted: Sequence[Fault]) -> None:
        """Says what is to fail in the next clone."""
        self._faults.write_text(json.dumps([asdict(fault) for fault in wanted]), "utf-8")

    def calls(self) -> tuple[Counter[str], Counter[str]]:
        """The calls of the last clone by their labels, and those of them that failed."""
        pairs = [line.split("\t") for line in self._calls.read_text("utf-8").splitlines()]
        return Counter(label for label, _ in pairs), Counter(label for label, how in pairs if how)

    def open_files(self, folder: Path) -> list[str]:
        """The files in a folder that the server has open."""
        found = []
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(descriptor))
        return [path for path in found if path.startswith(str(folder))]


def journalled(state_dir: Path) -> list[Any]:
    """What a server's journal holds: tasks, reserved names and bytes, steps, clones."""
    tables = ("tasks", "reservations", "promises", "steps", "clones")
    with closing(sqlite3.connect(state_dir / "journal.sqlite", timeout=30)) as journal:
        return [row for table in tables for row in journal.execute(f"SELECT * FROM {table}")]  # noqa: S608 - as above


@dataclass(frozen=True)
class Case:
    """What is cloned, and where its disks go: each source with what the name of its clone ends with."""

    path: str
    method: str
    pool: str
    folder: Path
    disks: tuple[tuple[Path, str], ...]
    nvram: Path | None = None

    @property
    def is_domain(self) -> bool:
        return self.path.startswith("vms/")

    def inventory(self, conn: libvirt.virConnect) -> set[str]:
        """All that there is, UEFI variables too."""
        return inventory(conn, *([self.nvram.parent] if self.nvram else []))

    def nvram_of(self, name: str) -> Path | None:
        return self.nvram.with_name(f"{name}_VARS.fd") if self.nvram else None

    def made(self, name: str) -> dict[str, str]:
        """What the inventory says of a whole clone, with what a task's message calls each."""
        entries = {f"domain {name}": name} if self.is_domain else {}
        for volume in (f"{name}{ending}" for _, ending in self.disks):
            entries |= {f"volume {self.pool}/{volume}": volume, f"file {self.folder}/{volume}": volume}
        nvram = self.nvram_of(name)
        return entries | ({f"file {nvram}": str(nvram)} if nvram else {})

    def is_same(self, name: str) -> bool:
        """Whether the clone of this name has the content of its source."""
        nvram = self.nvram_of(name)
        if self.nvram and nvram and sha256(nvram) != sha256(self.nvram):
            return False
        pairs = [(source, self.folder / f"{name}{ending}") for source, ending in self.disks]
        if self.method in ("reflink", "copy"):
            return all(source.read_bytes() == copy.read_bytes() for source, copy in pairs)
        return all(qemu_img_compare(source, copy, strict=self.method != "linked") for source, copy in pairs)


@contextmanager
def uefi_guest(
    libvirtd: PrivateLibvirtd, name: str, folder: Path, data: int, size: int = 8 * MiB
) -> Iterator[dict[str, Case]]:
    """A guest with UEFI variables, and with a qcow2 and a raw disk of this size and with so much data, in a pool.

    The pool has the guest's name. Yields the case of its clone for each method. Both go at the end, if they
    are there and libvirtd runs.
    """
    with closing(libvirtd.open()) as conn:
        pool = make_pool(conn, name, folder / "pool")
        system = Path(make_qcow2(pool, f"{name}.qcow2", size, {0: some_data(data)}).path())
        raw = Path(make_raw(pool, f"{name}.img", size, {MiB: some_data(data, 1)}).path())
        nvram = folder / "nvram" / f"{name}_VARS.fd"
        nvram.parent.mkdir()
        nvram.write_bytes(some_data(100 * KiB, 2))
        shutil.chown(nvram.parent, libvirtd.uid, libvirtd.gid)
        define_guest(conn, name, [system, raw], nvram=nvram, macs=["52:54:00:12:34:56"])
    disks = ((system, "-vda.qcow2"), (raw, "-vdb.img"))
    linked = ((system, "-vda.qcow2"), (raw, "-vdb.qcow2"))
    methods = {"reflink": disks, "copy": disks, "linked": linked, "libvirt": disks}
    yield {method: Case(f"vms/{name}", method, name, folder / "pool", each, nvram) for method, each in methods.items()}
    with closing(libvirtd.open()) as conn:
        remove_guest(conn.lookupByName(name))
        remove_pool(conn.storagePoolLookupByName(name))


class Trials:
    """Clones of one case."""

    def __init__(self, server: FailingServer, conn: libvirt.virConnect, case: Case) -> None:
        self._server, self._conn, self._case = server, conn, case

    def calls(self) -> Counter[str]:
        """The calls of a clone in which nothing fails, and not the first: some answers are kept."""
        for _ in range(2):
            problem = self.attempt()
            assert problem is None, problem
        return self._server.calls()[0]

    def attempt(self, *wanted: Fault) -> str | None:
        """Clones once, in which these fail; what is wrong with how that ended, if anything."""
        before = self._state()
        self._server.arm(wanted)
        body = {"method": self._case.method, "pool": self._case.pool}
        answer = self._server.request("POST", f"{self._case.path}/clone", body)
        if answer.status == 202:
            task = self._server.wait_task(answer.json["id"])
            problem = self._problem(task, before[0])
            self._server.request("DELETE", f"tasks/{task['id']}")
        else:
            problem = None if refusal(answer)[0] in REFUSALS else f"it is answered {answer.text}"
        if self._server.calls()[1] != Counter(fault.call for fault in wanted):
            problem = f"what failed is {self._server.calls()[1]}"
        after = self._state()
        if problem is None and after != before:
            problem = f"more than before, or less, is {(after[0] ^ before[0]) or (after[1], before[1])}"
        return problem and f"{'; '.join(map(str, wanted))}: {problem}"

    def _state(self) -> tuple[set[str], list[Any]]:
        return self._case.inventory(self._conn), journalled(self._server.state_dir)

    def _problem(self, task: dict[str, Any], before: set[str]) -> str | None:
        made = self._case.made(task["name"])
        there = self._case.inventory(self._conn) - before
        if task["status"] == "finished":
            if there != set(made):
                return f"it has finished, and {there ^ set(made)} is too much or too little"
            if not self._case.is_same(task["name"]):
                return "it has finished, and is not the same as its source"
            self._delete(task["name"])
            return None
        if not any(cause in task["message"] for cause in CAUSES):
            return f"the cause is not named: {task['message']}"
        if not there <= set(made) or {made[entry] for entry in there} != self._named(task):
            return f"{there} is left, and the message says {task['message']}"
        self._remove(there)
        return None

    def _named(self, task: dict[str, Any]) -> set[str]:
        """What the task's message says is left."""
        rest = task["message"].partition("could be removed: ")[2]
        return {name for name in self._case.made(task["name"]).values() if f"{name} (" in rest}

    def _delete(self, name: str) -> None:
        if self._case.is_domain:
            assert self._server.request("DELETE", f"vms/{name}").status == 204
        else:
            self._conn.storagePoolLookupByName(self._case.pool).storageVolLookupByName(name).delete()

    def _remove(self, left: set[str]) -> None:
        """Removes what is left by hand, as the message asks for."""
        for kind, _, name in (entry.partition(" ") for entry in left):
            if kind == "domain":
                self._conn.lookupByName(name).undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
            if kind == "file":
                Path(name).unlink()
        if left:
            self._conn.storagePoolLookupByName(self._case.pool).refresh()
