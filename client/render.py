"""What a server answered, as text: tables for people, lines with tabs for programs, its own JSON for who asks."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TextIO

from ..errors import printable

Row = Mapping[str, Any]

STYLES = {"running": "cyan", "finished": "green", "failed": "red", "killed": "yellow", "gone": "yellow"}
"""Colours of a task's status. The word is always there too."""


@dataclass(frozen=True)
class Column:
    """`key` is the JSON's, with dots for what is inside; `show` makes of its value what a table has for people.

    A column without `heading` is for programs alone.
    """

    key: str
    heading: str = ""
    show: Callable[[Any], str] | None = None

    def value(self, row: Row) -> Any:
        """Of a row; None where it has none."""
        found: Any = row
        for part in self.key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found


def size(number: Any) -> str:
    """Bytes as a person reads them."""
    if not isinstance(number, int | float):
        return ""
    value, units = float(number), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    for larger in units:
        if value < 1024:  # noqa: PLR2004 - the units' own step
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"  # noqa: PLR2004 - three digits


def moment(text: Any) -> str:
    """A time of the server's (RFC 3339) on the clock of whoever reads it."""
    try:
        return datetime.fromisoformat(str(text)).astimezone().strftime("%m-%d %H:%M:%S")
    except ValueError:
        return ""


COLUMNS: Mapping[str, Sequence[Column]] = {
    "guests": (
        Column("name", "NAME"),
        Column("state", "STATE"),
        Column("cpu_info.vcpus", "CPUS"),
        Column("memory.current", "MEMORY", lambda mebibytes: size((mebibytes or 0) << 20)),
        Column("title", "TITLE"),
    ),
    "pools": (
        Column("name", "NAME"),
        Column("state", "STATE"),
        Column("type", "TYPE"),
        Column("capacity", "CAPACITY", size),
        Column("available", "AVAILABLE", size),
        Column("nr_volumes", "VOLUMES"),
        Column("path", "PATH"),
    ),
    "volumes": (
        Column("name", "NAME"),
        Column("format", "FORMAT"),
        Column("capacity", "CAPACITY", size),
        Column("allocation", "ALLOCATION", size),
        Column("used_by", "USED BY"),
        Column("path"),
    ),
    "tasks": (
        Column("id", "TASK"),
        Column("status", "STATUS"),
        Column("progress", "DONE", lambda percent: f"{percent or 0:.0f} %"),
        Column("name", "CLONE"),
        Column("message", "MESSAGE", lambda words: "" if words == "OK" else text_of(words)),
        Column("batch", "BATCH"),
        Column("source", "SOURCE"),
        Column("started", "STARTED", moment),
        Column("ended"),
    ),
    "batches": (
        Column("id", "BATCH"),
        Column("count", "CLONES"),
        *(Column(status, status.upper()) for status in ("running", "finished", "failed", "killed")),
        Column("progress", "DONE", lambda percent: f"{percent or 0:.0f} %"),
        Column("source", "SOURCE"),
        Column("started", "STARTED", moment),
        Column("ended"),
    ),
    "plans": (
        Column("name", "CLONE"),
        Column("disk", "DISK"),
        Column("action", "ACTION"),
        Column("method", "METHOD"),
        Column("bytes", "SIZE", size),
        Column("target.pool", "POOL"),
        Column("target.name", "TARGET"),
        Column("reason", "WHY"),
    ),
}
"""In the order in which programs find them in a line. docs/cloner.1 lists them."""


def text_of(value: Any) -> str:
    """A value in one line, with nothing in it that a terminal would take for a command."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(map(text_of, value))
    return printable(value)


def line(kind: str, row: Row) -> str:
    """For programs: values as they are, separated by tabs, without headings."""
    return "\t".join(text_of(column.value(row)) for column in COLUMNS[kind])


def document(text: str) -> str:
    """The server's JSON as it came, but for what terminals take for commands or hide, which JSON can escape."""
    return re.sub(r"[^\t\n -~]", _escaped, text.strip())


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody reads it on a terminal that can do more than print."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def show(kind: str, rows: Sequence[Row], stream: TextIO) -> None:
    """Writes a table for people where the stream is a terminal, and lines for programs elsewhere."""
    if is_terminal(stream):
        from .table import write  # noqa: PLC0415 - programs need not wait for what draws

        write([column for column in COLUMNS[kind] if column.heading], rows, stream)
        return
    for row in rows:
        print(line(kind, row), file=stream)
