"""What the figures were taken on, and with what."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import libvirt

from support.running import CommandError, run

_ROOT = Path(__file__).parents[2]
_KIB_PER_GIB = 1 << 20


def facts() -> Mapping[str, str]:
    """In the order in which they are shown."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cloner": f"{version('cloner')} {_commit()}".strip(),
        "processors": f"{os.cpu_count()} × {_first('/proc/cpuinfo', 'model name')}",
        "memory": f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) / _KIB_PER_GIB:.0f} GiB",
        "system": f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}",
        "Python": f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        "libvirt": _dotted(libvirt.getVersion()),
        "qemu-img": _words(r"version (\S+)", "qemu-img", "--version"),
        "virt-clone": _words(r"(\S+)", "virt-clone", "--version"),
        "load": load(),
    }


def load() -> str:
    """How many tasks want a processor: the mean of the last 1, 5 and 15 minutes."""
    return ", ".join(f"{each:.1f}" for each in os.getloadavg())


def _first(path: str, key: str) -> str:
    """The first value of a key in a file of `key: value` lines."""
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "0")


def _dotted(number: int) -> str:
    """libvirt's numbers are 1,000,000 × major + 1,000 × minor + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _commit() -> str:
    try:
        changed = " and changes" if run("git", "-C", _ROOT, "status", "--porcelain", "--untracked-files=no") else ""
        return run("git", "-C", _ROOT, "rev-parse", "--short", "HEAD").strip() + changed
    except (CommandError, FileNotFoundError):  # a copy without its history
        return ""


def _words(pattern: str, *argv: str) -> str:
    found = re.search(pattern, run(*argv))
    return found[1] if found else ""
