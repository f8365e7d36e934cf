"""Names for clones, and other pure helpers: nothing here reads a file, asks libvirt or knows of HTTP."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from contextlib import suppress

from .clock import Clock, StampSource, process_stamps, wall_clock

MAX_NAME_BYTES = 247
"""The longest name that a domain can have and still be started by libvirt's QEMU driver, in bytes of UTF-8.

Measured on libvirt 9.0: the driver keeps `<name>.xml` and files with longer endings in one folder, and a file's name
ends at 255 bytes (NAME_MAX). A name of this length is therefore one that the file system takes as well.
"""

MAX_FILE_NAME_BYTES = 255
"""The longest name of a file on ext4, XFS and btrfs, in bytes (NAME_MAX)."""

MARK = "-clone-"
_FEW = 5
_ZERO_WIDTH_JOINER = "\u200d"
_CONTINUATIONS = (range(0x1160, 0x1200), range(0x1F3FB, 0x1F400), range(0xE0020, 0xE0080))
"""Vowels and finals of decomposed Hangul, skin tones, tags of a region's flag: all drawn as one with what is before."""
_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))


def few(names: Sequence[str]) -> str:
    """Names in words for a person: the first few, and how many more there are."""
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")


def get_next_clone_name(
    all_names: Iterable[str] | Container[str],
    basename: str,
    name_suffix: str = "",
    ts: bool = False,
    clock: Clock | StampSource = wall_clock,
    max_bytes: int = MAX_NAME_BYTES,
) -> str:
    """The next name of the form `<basename>-clone-<number><name_suffix>` that is not in `all_names`.

    Without `ts` the number is one more than the highest that `all_names` has for this basename and suffix, 1 if there
    is none. With `ts` it is a stamp: microseconds since 1970, distinct and strictly increasing for all threads of this
    process and its forked children, whatever the clock does.

    Args:
        all_names: names that are taken. A set, or with `ts` any object that answers `in`, is used as it is; another
            iterable is read once.
        basename: name of the source. Every character of it is plain text.
        name_suffix: what follows the number, such as `.qcow2`.
        clock: with `ts`, where the time comes from: a clock, whose repetitions are made up for here, or a StampSource
            (the journal), whose stamps are distinct over all its users and are taken as they are.
        max_bytes: length of the longest name, in bytes of UTF-8. A longer one has its base shortened, by whole
            characters; the number and the suffix stay.

    Raises:
        ValueError: `max_bytes` leaves no room for any of the base, or the clock is out of range.
    """
    if ts:
        return _next_by_stamp(_askable(all_names), basename, name_suffix, clock, max_bytes)
    if not isinstance(all_names, Iterable):
        raise TypeError("counting needs names that can be read through; with ts=True any container will do")
    return _next_by_count(all_names, basename, name_suffix, max_bytes)


def _askable(names: Iterable[str] | Container[str]) -> Container[str]:
    """Names that can be asked for one by one: those that can already, as they are."""
    if isinstance(names, Set | Mapping) or not isinstance(names, Iterable):
        return names
    return set(names)


def _next_by_stamp(
    names: Container[str], basename: str, suffix: str, clock: Clock | StampSource, max_bytes: int
) -> str:
    while True:
        stamp = clock.stamp() if isinstance(clock, StampSource) else process_stamps.after(clock())
        name = compose(basename, f"{MARK}{stamp}{suffix}", max_bytes)
        if name not in names:
            return name


def _next_by_count(all_names: Iterable[str], basename: str, suffix: str, max_bytes: int) -> str:
    highest = max((_number_of(name, basename, suffix, max_bytes) for name in all_names), default=0)
    return compose(basename, f"{MARK}{highest + 1}{suffix}", max_bytes)


def _number_of(name: str, basename: str, suffix: str, max_bytes: int) -> int:
    """The n of a name that is exactly what `compose` makes of n; 0 for any other name."""
    if not name.endswith(suffix):
        return 0
    _, mark, digits = name[: len(name) - len(suffix)].rpartition(MARK)
    if not (mark and digits.isascii() and digits.isdigit() and len(digits) < max_bytes):
        return 0
    with suppress(ValueError):  # a number that leaves no room for the base is not one of ours
        if name == compose(basename, f"{MARK}{digits}{suffix}", max_bytes):
            return int(digits)
    return 0


def compose(basename: str, ending: str, max_bytes: int) -> str:
    """`basename` + `ending`, with as much of the base left out at its end as `max_bytes` of UTF-8 ask for.

    Raises ValueError when no character of a base that has some would be left.
    """
    room = max_bytes - byte_length(ending)
    base = basename if byte_length(basename) <= room else _cut(basename, room)
    if room < 0 or (basename and not base):
        raise ValueError(f"a name that ends in {ending!r} leaves no room for its base in {max_bytes} bytes")
    return base + ending


def byte_length(text: str) -> int:
    """Length in bytes of UTF-8; a lone surrogate, as file names that are no UTF-8 have, counts as three."""
    return len(text.encode("utf-8", "surrogatepass"))


def _cut(text: str, max_bytes: int) -> str:
    """The longest start of `text` within `max_bytes` that ends between two characters as a reader sees them."""
    end = used = 0
    for character in text:
        used += byte_length(character)
        if used > max_bytes:
            break
        end += 1
    whole = end
    while 0 < whole < len(text) and _within_character(text[:whole], text[whole]):
        whole -= 1
    return text[: whole or end]


def _within_character(before: str, after: str) -> bool:
    """Whether what follows is drawn as one with what is before: an accent on its letter, a part of an emoji."""
    if after in _FLAG_LETTERS:  # they go in pairs
        return (len(before) - len(before.rstrip(_FLAG_LETTERS))) % 2 == 1
    if unicodedata.category(after).startswith("M") or _ZERO_WIDTH_JOINER in (before[-1], after):
        return True
    return any(ord(after) in part for part in _CONTINUATIONS)
