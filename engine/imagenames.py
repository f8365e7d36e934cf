"""The files that a qcow2 image names: what it stands on and where its data lies, in whatever form it says that.

It is for who asks what an image needs. Nothing is to be read because an image names it: see chain.py for that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from .qcow2 import Header

_JSON, _FILE = "json:", "file:"
_FILENAME = "filename"


def files_named(path: str, header: Header) -> Iterator[tuple[str, str | None]]:
    """Paths of the files that the image at a path names, with the format that it says they have.

    QEMU takes a relative name from the image's folder, but one within `json:` from its own (its manual, "Block device
    options"); so both are given, as they are: a folder may be a link, so that `..` is left for the system to follow.
    """
    for name, form in ((header.backing, header.backing_format), (header.data_file, "raw")):
        if name is None or "\0" in name:
            continue
        names = _in_json(name) if name.startswith(_JSON) else [name]
        for each in names:
            plain = each.removeprefix(_FILE)
            yield from ((place, None if each != name else form) for place in _places(path, plain))


def _places(path: str, name: str) -> Iterator[str]:
    yield os.path.join(os.path.dirname(path), name)
    if not os.path.isabs(name):
        yield f"/{name}"


def _in_json(name: str) -> Iterator[str]:
    try:
        options = json.loads(name.removeprefix(_JSON))
    except (ValueError, RecursionError):
        return
    yield from _filenames(options)


def _filenames(options: Any) -> Iterator[str]:
    """Every file's name, wherever it stands: options may be nested, or flat with dots."""
    pending = [options]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            for key, value in item.items():
                if isinstance(value, str) and key.rpartition(".")[2] == _FILENAME and "\0" not in value:
                    yield value
                else:
                    pending.append(value)
