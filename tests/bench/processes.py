"""What processes take, as proc(5) tells it; 0 of one that has ended."""

from __future__ import annotations

import os
from pathlib import Path

from support.storage import KiB, MiB


def cpu_seconds(pid: int) -> float:
    """Seconds of processors that a process has used so far, with the children that it has waited for."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """MiB of memory that a process has now."""
    return _status(pid, "VmRSS")


def peak_resident(pid: int) -> float:
    """MiB of memory that it had at most, since reset_peak()."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int, name: str) -> list[int]:
    """Processes of a name that a process has started. One that is only just forked has its parent's name still."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    found = (int(child) for each in lists for child in _read(each).split())
    return [child for child in found if _read(Path(f"/proc/{child}/comm")).strip() == name]


def _status(pid: int, field: str) -> float:
    lines = _read(Path(f"/proc/{pid}/status")).splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0) * KiB / MiB


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
