"""The log on stderr: a line for each thing that happened, as JSON for programs or as text for people.

Nothing that came from outside can end a line or forge one: JSON escapes it, and so does the text. Whatever else would
write to stderr, such as a thread that dies or a warning of Python's, becomes a line too.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from .. import context

log = logging.getLogger(__name__)

AUTO, JSON, TEXT = "auto", "json", "text"

_MOST_OF_A_LINE = 48 * 1024
"""Where systemd's journal cuts a line in two (LineMax= in journald.conf(5))."""

_MOST_OF_A_TEXT = 8000
_MOST_OF_AN_ODD_TEXT = 1500
"""Characters, of which each may take twelve in JSON."""


def configure(style: str) -> None:
    """Sends the log of everything to stderr: `json`, `text`, or by `auto` text on a terminal and JSON elsewhere."""
    handler = logging.StreamHandler(sys.stderr)
    is_text = style == TEXT or (style == AUTO and sys.stderr.isatty())
    handler.setFormatter(TextLine() if is_text else JSONLine())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.INFO)
    # Nobody reads which thread, process and line of code a record comes from, which take longer than all else of it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # as Python's manual has it: HOWTO, Optimization
    logging.raiseExceptions = False  # a line that cannot be written is no reason to write another
    logging.captureWarnings(True)
    sys.excepthook = _tell_of_a_crash
    threading.excepthook = lambda died: _tell_of_a_thread(died.thread, died.exc_value)
    sys.unraisablehook = lambda found: log.error("an error that nobody can catch", exc_info=found.exc_value)


class JSONLine(logging.Formatter):
    """A JSON object in one line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        line = _as_json(entry(record))
        return line if len(line) < _MOST_OF_A_LINE else _as_json(entry(record, _MOST_OF_AN_ODD_TEXT))


class TextLine(logging.Formatter):
    """`time LEVEL logger: message [what else is known]`; the lines of a stack follow, set in."""

    def format(self, record: logging.LogRecord) -> str:
        found = entry(record)
        head = [found.pop(key) for key in ("time", "level", "logger", "message")]
        stack = found.pop("exception", "")
        rest = " ".join(f"{key}={escaped(str(value))}" for key, value in found.items())
        line = f"{head[0]} {head[1].upper()} {escaped(head[2])}: {escaped(head[3])}" + (f" [{rest}]" if rest else "")
        return "\n    ".join([line, *map(escaped, stack.splitlines())])


def entry(record: logging.LogRecord, most: int = _MOST_OF_A_TEXT) -> dict[str, Any]:
    """A record as the log's fields: what each line has, then what is known of the work at hand, then the line's own.

    Of a message `most` characters are left at its beginning, of a stack at its end.
    """
    when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    found: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "logger": record.name}
    found["message"] = record.getMessage().strip()[:most]
    found |= {key: value for key, value in vars(context.current()).items() if value not in ("", None)}
    found |= getattr(record, "fields", {})
    if record.exc_info and record.exc_info[0]:
        found["exception"] = logging.Formatter().formatException(record.exc_info)[-most:]
    return found


def _as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, default=str, separators=(",", ":")).replace("\x7f", "\\u007f")


def escaped(text: str) -> str:
    """`text` with whatever would end a line, hide in it or command a terminal written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _tell_of_a_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("the program ends by an error", exc_info=(kind, error, trace))


def _tell_of_a_thread(thread: threading.Thread | None, error: BaseException | None) -> None:
    log.error("thread %s ended by an error", thread.name if thread else "", exc_info=error)
