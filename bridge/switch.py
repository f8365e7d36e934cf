"""What of cloner.conf is followed while the server runs: whether the plugin is to be there, and the bridge."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .. import errors
from ..settings import Switches, switches

log = logging.getLogger(__name__)


class Switch:
    """The switches of a file. Raises InvalidConfiguration for one that cannot be read, but not for what it becomes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp = self._look()
        self._found = switches(file)

    def _look(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._file)
        except OSError:
            return (0, 0, 0)
        return found.st_ino, found.st_mtime_ns, found.st_size

    @property
    def now(self) -> Switches:
        """As the file says it; as it was, while what the file says means nothing."""
        stamp = self._look()
        is_being_written = stamp[-1] == 0  # Wok empties the file before it writes it (src/wok/utils.py)
        if stamp != self._stamp and not is_being_written:
            self._stamp = stamp
            try:
                self._found = switches(self._file)
            except errors.InvalidConfiguration as error:
                log.warning("what was switched stays as it was: %s", error)
        return self._found
