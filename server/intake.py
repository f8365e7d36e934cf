"""What has come of a request, until it is all there: only then does it get a thread. Pure.

The bytes are only told apart here, not understood; but whatever could be taken for the end of a request in more ways
than one (RFC 9112, 11.2) is refused, since somebody before us may have taken it in the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_HEAD_BYTES = 32 * 1024
MAX_FIELDS = 100
_MAX_CHUNK_LINE = 1024
_MOST_DIGITS = 18

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_EXPECT = re.compile(rb"(?im)^expect[ \t]*:[ \t]*100-continue[ \t]*\r\n")
_NO_TEXT = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[^\0-\x08\n-\x1f\x7f]*)?")  # int() takes signs, spaces and 0x too
_ONCE = (b"host", b"content-length", b"transfer-encoding")

Verdict = tuple[str, str]
"""A status line and a text with which a request is refused, whatever else is in it."""

TOO_LARGE = ("413 Request Entity Too Large", "The entity sent with the request exceeds the maximum allowed bytes.")
_LINE_TOO_LONG = ("414 Request-URI Too Long", "The request line exceeds the maximum.")
_NO_CHUNK = ("400 Bad Request", "Malformed size of a chunk.")
_TOO_LONG = ("431 Request Header Fields Too Large", "The headers sent with the request exceed the maximum.")


class Intake:
    """The bytes of one connection, one request after the other.

    Args:
        max_body: bytes of the largest body, as it is sent.
    """

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._bytes = bytearray()
        self._forget_request()

    def _forget_request(self) -> None:
        self._looked_at = 0
        self._head_end = 0
        self._end: Callable[[], int | None] = lambda: None
        self._wants_go_ahead = False
        self.verdict: Verdict | None = None
        """How the request that has come is to be refused, if it is."""

    @property
    def has_begun(self) -> bool:
        """Whether anything has come of the next request."""
        return bool(self._bytes)

    @property
    def has_head(self) -> bool:
        return self._head_end > 0

    def add(self, block: bytes) -> None:
        self._bytes += block

    def is_ready(self) -> bool:
        """Whether the request is all there, or enough of it to refuse it."""
        if not self.has_head and not self.verdict:
            self._look_for_head()
        return self._end() is not None or self.verdict is not None

    def go_ahead_is_due(self) -> bool:
        """Whether the client waits to be told to send its body; true once."""
        is_due, self._wants_go_ahead = self._wants_go_ahead, False
        return is_due

    def take(self) -> tuple[bytes, bool]:
        """The request, and whether that is all of it; what came after it stays for the next. To be asked when ready,

        or when nothing more will come.
        """
        end = None if self.verdict or not self.has_head else self._end()
        taken = bytes(self._bytes[:end])
        del self._bytes[:end]
        self._forget_request()
        return taken, end is not None

    def _look_for_head(self) -> None:
        start = (
            2 if self._bytes.startswith(b"\r\n") else 0
        )  # one empty line before a request is let pass (RFC 9112, 2.2)
        found = _HEAD_END.search(self._bytes, max(start, self._looked_at - 3))
        self._looked_at = len(self._bytes)
        if found is not None and found.end() <= MAX_HEAD_BYTES:
            self._head_end = found.end()
            self._read_head(bytes(self._bytes[start : found.end()]))
        elif self._looked_at > MAX_HEAD_BYTES:
            self._head_end = self._looked_at
            self.verdict = _LINE_TOO_LONG if self._bytes.find(b"\n", start, MAX_HEAD_BYTES) < 0 else _TOO_LONG

    def _read_head(self, head: bytes) -> None:
        line, *fields = (each.rstrip(b"\r") for each in head.rstrip(b"\r\n").split(b"\n"))
        names = [field.partition(b":")[0] for field in fields]
        values = {name.lower(): field.partition(b":")[2].strip() for name, field in zip(names, fields, strict=True)}
        length, coding = values.get(b"content-length", b"0"), values.get(b"transfer-encoding")
        self.verdict = _trouble(head, names) or _trouble_with_body(length, coding, self._max_body)
        if self.verdict is None:
            self._end = self._end_of_body(int(length)) if coding is None else self._end_of_chunks()
            self._wants_go_ahead = b"expect" in values and line.endswith(b"HTTP/1.1") and self._end() is None
        self._leave_out_expect(head)

    def _leave_out_expect(self, head: bytes) -> None:
        """The client has been told already, or needs not be."""
        found = _EXPECT.search(head)
        if found is not None:
            place = self._head_end - len(head) + found.start()
            del self._bytes[place : place + len(found[0])]
            self._head_end -= len(found[0])

    def _end_of_body(self, size: int) -> Callable[[], int | None]:
        return lambda: self._head_end + size if len(self._bytes) >= self._head_end + size else None

    def _end_of_chunks(self) -> Callable[[], int | None]:
        chunks = _Chunks(self._max_body)

        def end() -> int | None:
            found = chunks.end(self._bytes, self._head_end)
            self.verdict = chunks.verdict
            return found

        return end


class _Chunks:
    """Finds the end of a body that comes in chunks, looking at each chunk once (RFC 9112, 7.1)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._next = 0
        self.verdict: Verdict | None = None
        """How a body is to be refused that is none, or too large."""

    def end(self, found: bytearray, start: int) -> int | None:
        """Where the body ends; None while that is not there."""
        while (line_end := found.find(b"\r\n", start + self._next, start + self._next + _MAX_CHUNK_LINE)) >= 0:
            line = _CHUNK.fullmatch(found, start + self._next, line_end)
            if line is None:
                self.verdict = _NO_CHUNK
                return None
            size = int(line[1], 16)
            if size == 0:
                return self._end_of_trailers(found, line_end)
            if self._next + size > self._max_bytes:
                self.verdict = TOO_LARGE
                return None
            if len(found) < line_end + 2 + size + 2:
                return None
            self._next = line_end + 2 + size + 2 - start
        self.verdict = TOO_LARGE if len(found) - start - self._next >= _MAX_CHUNK_LINE else None
        return None

    def _end_of_trailers(self, found: bytearray, last_chunk: int) -> int | None:
        end = found.find(b"\r\n\r\n", last_chunk)
        if end < 0:
            self.verdict = TOO_LARGE if len(found) - last_chunk > _MAX_CHUNK_LINE else None
            return None
        return end + 4


def _trouble(head: bytes, names: list[bytes]) -> Verdict | None:
    """What is wrong with a head, or with the names of its fields, if anything is."""
    if len(names) > MAX_FIELDS:
        return _TOO_LONG
    lower = [name.lower() for name in names]
    repeated = [name for name in _ONCE if lower.count(name) > 1]
    words = None
    if _NO_TEXT.search(head):
        words = "A control character in the head."
    elif any(name != name.strip() or not name for name in names):
        words = "White space before a header or its colon, or no header there."
    elif repeated:
        words = f"More than one {repeated[0].decode()}."
    elif {b"content-length", b"transfer-encoding"} <= set(lower):
        words = "Both a Content-Length and a Transfer-Encoding."
    return ("400 Bad Request", words) if words else None


def _trouble_with_body(length: bytes, coding: bytes | None, max_body: int) -> Verdict | None:
    if coding is not None and coding.lower() != b"chunked":
        return "501 Not Implemented", "Of all Transfer-Encodings chunked alone is understood."
    if not length.isdigit():  # int() takes signs and underscores too
        return "400 Bad Request", "Malformed Content-Length Header."
    return TOO_LARGE if len(length) > _MOST_DIGITS or int(length) > max_body else None
