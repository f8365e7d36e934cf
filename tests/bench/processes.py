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


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return int(_field(_read(Path(f"/proc/{pid}/status")), "Threads") or 0)


def wake_ups(pid: int) -> int:
    """How often the threads that a process has now have begun to wait so far, and thus are woken."""
    statuses = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(int(_field(_read(path), "voluntary_ctxt_switches") or 0) for path in statuses)


def _status(pid: int, field: str) -> float:
    return int(_field(_read(Path(f"/proc/{pid}/status")), field).removesuffix("kB") or 0) * KiB / MiB


def _field(status: str, name: str) -> str:
    return next((line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(f"{name}:")), "")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
