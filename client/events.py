"""Server-sent events as the HTML standard has them (9.2.6, interpreting an event stream)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

LONGEST_LINE = 4 << 20
"""Bytes. A task with very many disks is long; a stream without an end to a line is none of ours."""


@dataclass(frozen=True)
class Event:
    """`name` is its type, `id` the last one that the stream gave."""

    name: str
    data: str
    id: str


def parse(read_line: Callable[[int], bytes]) -> Iterator[Event]:
    """The events of a stream that `read_line(limit)` reads; ends with it. Comments, such as heartbeats, are left out.

    Lines may end with LF or CRLF; the third way that the standard allows, a lone CR, nobody uses.
    Raises ValueError for a line that is too long, and whatever `read_line` raises.
    """
    name, last_id = "", ""
    data: list[str] = []
    while line := read_line(LONGEST_LINE):
        if not line.endswith(b"\n"):
            if len(line) >= LONGEST_LINE:
                raise ValueError("a line of the stream has no end")
            return  # in the middle of an event, which the standard has us forget
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        key, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if not text:
            if data:
                yield Event(name or "message", "\n".join(data), last_id)
            name, data = "", []
        elif key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id" and "\0" not in value:
            last_id = value
