"""Opens what has to be looked into. That the server has no room for another open file says nothing of that file."""

from __future__ import annotations

import errno
import os

from .. import errors

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def open_file(path: str, flags: int, mode: int = 0o600) -> int:
    """The descriptor of a file, as of `os.open`. Raises OSError, and Busy where as many files are open as may be."""
    try:
        return os.open(path, flags, mode)
    except OSError as error:
        if error.errno in _OURS:
            raise errors.Busy(what="other requests") from error
        raise
