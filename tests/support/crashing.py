"""`python -m support.crashing N serve …`: a cloner that is killed, as if by `kill -9`, at the N-th point of its clones.

With CLONER_PAUSE set it is not killed: it makes that file, and waits at the point until the file is gone. Its clock is
CLONER_AHEAD seconds ahead of that of the files.

Points lie before and after each write to the journal, just before it is committed, and before and after each act: a
volume made, filled or removed, a file copied, a domain defined or undefined. Only what the workers do counts, and each
point is written to the file CLONER_POINTS, so that a test can tell how many there are.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloner.engine import files
from cloner.engine.journal import Journal
from cloner.hypervisor.host import Host
from cloner.hypervisor.making import VolumeMaker
from cloner.server import cli

_WORKERS = ("clone-", "task-")
_lock = threading.Lock()
_count = 0


def _point(name: str, deadly: int) -> None:
    global _count  # noqa: PLW0603 - one process, one count
    if not threading.current_thread().name.startswith(_WORKERS):
        return
    with _lock:
        _count += 1
        reached = _count == deadly
        with Path(os.environ["CLONER_POINTS"]).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
        if reached and "CLONER_PAUSE" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
    if reached:
        flag = Path(os.environ["CLONER_PAUSE"])
        flag.touch()
        while flag.exists():
            time.sleep(0.01)


def _around(owner: Any, name: str, deadly: int) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        _point(f"before {name}", deadly)
        result = original(*args, **keywords)
        _point(f"after {name}", deadly)
        return result

    setattr(owner, name, wrapped)


def _around_writes(deadly: int) -> None:
    original = Journal._write

    @contextmanager
    def write(self: Journal) -> Iterator[Any]:
        _point("before a write", deadly)
        with original(self) as connection:
            yield connection
            _point("in a write", deadly)
        _point("after a write", deadly)

    Journal._write = write  # type: ignore[method-assign]  # what this module is for


def main() -> int:
    deadly = int(sys.argv[1])
    now, ahead_ns = time.time_ns, int(os.environ.get("CLONER_AHEAD", "0")) * 1_000_000_000
    time.time_ns = lambda: now() + ahead_ns
    _around_writes(deadly)
    for owner, names in {
        VolumeMaker: ("create", "create_from"),
        Host: ("define", "undefine", "delete_volume"),
        files: ("reflink", "copy_small", "copy_folder", "remove", "remove_folder"),
    }.items():
        for name in names:
            _around(owner, name, deadly)
    return cli.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
