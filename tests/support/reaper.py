"""Run a command and be the parent of all that it leaves: `python reaper.py COMMAND…` prints its pid.

Guests are orphans of libvirtd. Orphans go to process 1, which in many containers reaps them late or never:
libvirt takes such a zombie for a guest that will not die. Ends when the last of them has.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(argv: list[str]) -> None:
    """Start the command, then reap until nothing is left to reap."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    process = subprocess.Popen(argv, stdout=sys.stderr)
    print(process.pid, flush=True)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
