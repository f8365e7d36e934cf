"""`python -m support.failing serve …`: a cloner in which calls fail that its clones make, each when a test asks for it.

Calls are those of libvirt's methods, those of the operating system's functions for files and processes, and the
journal's transactions. Each has a label that tells when, what and where: `make: os.truncate in copying.fill`. When a
clone is asked for, the file CLONER_FAULTS is read, a JSON list of {"call": label, "nth": number, "how": one of _HOW};
from then on each call's label goes to the file CLONER_CALLS, with a tab and how it failed where it did.

os.access is not among them, which never raises, and so are libvirt's calls that only watch how far a copy is.
"""

from __future__ import annotations

import builtins
import errno
import functools
import json
import os
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any

import libvirt
import sqlalchemy as sa

from cloner.engine import executor
from cloner.engine.database import Writer
from cloner.engine.ledger import Ledger
from cloner.hypervisor import making
from cloner.model.storagevolumes import StorageVolumesModel
from cloner.model.vms import VMsModel
from cloner.server import cli
from support.trials import TEXT

_HOW = ("refused", "broken", "lost", "EIO", "ENOSPC", "full", "unforeseen")
"""libvirt refuses; has an internal error; does it, but the connection is lost before it says so. A file's errors; the
journal's; and one that nobody thought of."""

_WORKERS = ("clone-", "task-", "janitor")
_TRANSPARENT = ("__main__", "posixpath", "genericpath", "pathlib", "shutil", "contextlib")
_CLASSES = (libvirt.virConnect, libvirt.virDomain, libvirt.virStoragePool, libvirt.virStorageVol)
_SYSTEM = {
    "os": "open close read write lseek truncate ftruncate fsync copy_file_range preadv pwrite fstat stat lstat statvfs "
    "readlink listdir scandir unlink remove rename replace link symlink mkdir rmdir chmod chown fchmod fchown utime",
    "fcntl": "ioctl flock",
    "select": "select",
    "subprocess": "Popen",
}
_FILE_METHODS = {"read", "readinto", "write", "seek", "truncate", "flush", "close"}
_DONE_ANYWAY = {"os.close", "file.close"}
"""What is closed even if that fails, as close(2) has it."""

_POLLS = {"select.select", "os.read"}
"""Made as often as it takes: only the first one counts."""

_JANITOR_INTERVAL_S = 0.1
"""What cannot be undone is tried again sooner than usual."""

_close_connection = libvirt.virConnect.close
_open = builtins.open


class _Faults:
    """What is to fail, and what was called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepting = threading.local()
        self._counts: Counter[str] = Counter()
        self._wanted: dict[tuple[str, int], str] = {}

    def accepting(self, clone: Callable[..., Any]) -> Callable[..., Any]:
        """Around the method that accepts a clone, with which the count begins anew."""

        @functools.wraps(clone)
        def wrapped(model: Any, *args: Any, **keywords: Any) -> Any:
            model._services.connections._idle.clear()  # so that each long call opens its connection
            with _open(os.environ["CLONER_FAULTS"], encoding="utf-8") as file:
                faults = json.load(file)
            with self._lock:
                self._counts.clear()
                self._wanted = {(fault["call"], fault["nth"]): fault["how"] for fault in faults}
                _open(os.environ["CLONER_CALLS"], "w", encoding="utf-8").close()
            self._accepting.on = True
            try:
                return clone(model, *args, **keywords)
            finally:
                self._accepting.on = False

        return wrapped

    def _is_accepting(self) -> bool:
        return getattr(self._accepting, "on", False)

    def counts_here(self) -> bool:
        """Whether this thread works for a clone."""
        return self._is_accepting() or threading.current_thread().name.startswith(_WORKERS)

    def count(self, name: str) -> str | None:
        """How this call has to fail, if it has."""
        if not self.counts_here():
            return None
        label = _label(name, sys._getframe(2), accepting=self._is_accepting())
        if label is None:
            return None
        with self._lock:
            self._counts[label] += 1
            nth = self._counts[label]
            if name in _POLLS and nth > 1:
                return None
            how = self._wanted.pop((label, nth), None)
            with _open(os.environ["CLONER_CALLS"], "a", encoding="utf-8") as file:
                file.write(f"{label}\t{how or ''}\n")
        return how


def _label(name: str, frame: FrameType | None, *, accepting: bool) -> str | None:
    """When, what and where; None for what is not called by our code itself."""
    while frame is not None and frame.f_globals["__name__"].startswith(_TRANSPARENT):
        frame = frame.f_back
    if frame is None or not frame.f_globals["__name__"].startswith("cloner."):
        return None
    where = f"{frame.f_globals['__name__'].rpartition('.')[2]}.{frame.f_code.co_name}"
    when = "accept" if accepting else "undo" if _is_undoing(frame) else "make"
    if when == "make" and threading.current_thread().name == "janitor":
        return None  # it looks for tasks of dead servers
    return f"{when}: {name} in {where}"


def _is_undoing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code is Ledger.fail.__code__:
            return True
        frame = frame.f_back
    return False


_faults = _Faults()


def _error(name: str, how: str) -> Exception:
    text = f"{TEXT}: {name}"
    if how in ("refused", "broken", "lost"):
        codes = {"refused": libvirt.VIR_ERR_OPERATION_FAILED, "broken": libvirt.VIR_ERR_INTERNAL_ERROR}
        error = libvirt.libvirtError(text)
        code = codes.get(how, libvirt.VIR_ERR_SYSTEM_ERROR)
        error.err = (code, libvirt.VIR_FROM_NONE, text, libvirt.VIR_ERR_ERROR, None, None, None, -1, -1)
        return error
    if how == "full":
        return sa.exc.OperationalError("", {}, sqlite3.OperationalError(text))
    if how == "unforeseen":
        return ZeroDivisionError(text)
    return OSError(getattr(errno, how), text)


def _fallible(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        how = _faults.count(name)
        if how is None:
            return original(*args, **keywords)
        if how == "lost" or name in _DONE_ANYWAY:
            original(*args, **keywords)
        if how == "lost" and args and isinstance(args[0], _CLASSES):
            handle = args[0]
            _close_connection(handle if isinstance(handle, libvirt.virConnect) else handle._conn)
        raise _error(name, how)

    return wrapped


class _File:
    """A file that our code opened, and whose operations can fail."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._file, name)
        return _fallible(f"file.{name}", member) if name in _FILE_METHODS else member

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.close()


def _fallible_open(*args: Any, **keywords: Any) -> Any:
    how = _faults.count("open")
    if how is not None:
        raise _error("open", how)
    file = _open(*args, **keywords)
    return _File(file) if _faults.counts_here() else file


def main() -> int:
    # What libvirt copies is not looked at meanwhile, so that the calls are always the same.
    making._POLL_S = making._FIRST_POLL_S = 3600.0
    for kind in _CLASSES:
        for name, member in vars(kind).copy().items():
            if callable(member) and not name.startswith("_"):
                setattr(kind, name, _fallible(f"{kind.__name__}.{name}", member))
    libvirt.open = _fallible("libvirt.open", libvirt.open)
    for module, names in _SYSTEM.items():
        for name in names.split():
            owner = sys.modules[module]
            setattr(owner, name, _fallible(f"{module}.{name}", getattr(owner, name)))
    builtins.open = _fallible_open
    for owner, method, name in ((Writer, "transaction", "begin"), (sa.Engine, "connect", "connect")):
        setattr(owner, method, _fallible(f"journal.{name}", getattr(owner, method)))
    executor._JANITOR_INTERVAL_S = _JANITOR_INTERVAL_S
    for model in (VMsModel, StorageVolumesModel):
        model.clone = _faults.accepting(model.clone)  # type: ignore[method-assign]  # what this module is for
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
