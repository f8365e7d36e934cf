"""Where a command writes to, once nobody takes it any more."""

from __future__ import annotations

import os
import sys

PIPE_CLOSED = 141  # 128 and the number of SIGPIPE


def leave_output() -> None:
    """Writes what is still to be written nowhere; else Python would complain of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
