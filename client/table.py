"""A table as wide as the terminal, drawn by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .render import STYLES, Column, Row, text_of

_COUNTS = ("count", "running", "finished", "failed", "killed")
_RIGHT = (
    *_COUNTS,
    "cpu_info.vcpus",
    "memory.current",
    "capacity",
    "available",
    "allocation",
    "nr_volumes",
    "progress",
    "bytes",
)
_FIXED = ("id", "status", "state", "type", "format", "started", "disk", "action", "method", *_RIGHT)
_GAP = 2
_LEAST = {"name": 26, "message": 24}
"""Characters that some columns have before others go: of a name as a clone gets it, of a message its code and more."""
_LEAST_OF_OTHERS = 8


def console_of(stream: TextIO) -> Console:
    """Names from outside are never markup, and nothing is coloured for looking like a number. NO_COLOR is honoured."""
    return Console(file=stream, markup=False, emoji=False, highlight=False)


def write(columns: Sequence[Column], rows: Sequence[Row], stream: TextIO) -> None:
    """Columns with nothing in them are left out; without rows there is no table."""
    if not rows:
        return
    filled = [(column, cells) for column in columns if any(cells := [_cell(column, row) for row in rows])]
    console = console_of(stream)
    natural = [max(len(column.heading), *(cell.cell_len for cell in cells)) for column, cells in filled]
    least = [
        width if column.key in _FIXED else min(width, _LEAST.get(column.key, _LEAST_OF_OTHERS))
        for width, (column, _) in zip(natural, filled, strict=True)
    ]
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for (column, _), width in zip(filled, fit(natural, least, console.width), strict=False):
        table.add_column(column.heading, width=width, justify="right" if column.key in _RIGHT else "left")
    for row in zip(*(cells for _, cells in filled[: len(table.columns)]), strict=True):
        table.add_row(*row)
    console.print(table)


def fit(natural: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths that fit into the room: the last columns are cut down to their least first, and then the last one goes."""
    widths = list(natural)
    excess = sum(widths) + _GAP * (len(widths) - 1) - room
    for place in reversed(range(len(widths))):
        cut = max(0, min(excess, widths[place] - least[place]))
        widths[place] -= cut
        excess -= cut
    if excess <= 0:
        return widths
    return fit(natural[:-1], least[:-1], room) if len(widths) > 1 else [max(1, room)]


def _cell(column: Column, row: Row) -> Text:
    value = column.value(row)
    text = column.show(value) if column.show else text_of(value)
    style = STYLES.get(text, "") if column.key == "status" else ""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
