"""libvirt's event loop, which events and keepalive need: one a process, in a thread of its own.

Each call over a connection wakes the loop twice, and virEventRunDefaultImpl comes back to Python each time, for the
interpreter's lock: a seventh of what a clone takes. Since libvirt 6.1 its loop is GLib's default one (vireventglib.c),
which runs without Python until an event is there.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from contextlib import suppress

import libvirt

log = logging.getLogger(__name__)

_GLIB = "libglib-2.0.so.0"
_FIRST_ON_GLIB = 6_001_000
"""The first version of libvirt whose loop is GLib's, as libvirt gives its version."""

_lock = threading.Lock()
_runs = False


def run() -> None:
    """Starts the loop, once a process; to be called before the first connection is opened."""
    global _runs  # noqa: PLW0603 - libvirt's loop is the process's own
    with _lock:
        if _runs:
            return
        libvirt.virEventRegisterDefaultImpl()
        # libvirt would print each error to stderr; we raise and log them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        threading.Thread(target=_dispatch, name="libvirt-events", daemon=True).start()
        _runs = True


def _dispatch() -> None:
    try:
        _run_in_glib(libvirt.getVersion())
    except (OSError, AttributeError) as error:
        log.info("libvirt's events come through Python: %s", error)
    while True:
        with suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def _run_in_glib(version: int, library: str = _GLIB) -> None:
    """Runs GLib's default loop for ever. Raises OSError or AttributeError where that is not libvirt's."""
    if version < _FIRST_ON_GLIB:
        raise OSError(f"libvirt {version} has a loop of its own")
    glib = ctypes.CDLL(library)
    glib.g_main_loop_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    glib.g_main_loop_new.restype = ctypes.c_void_p
    glib.g_main_loop_run.argtypes = [ctypes.c_void_p]
    glib.g_main_loop_run.restype = None
    glib.g_main_loop_run(glib.g_main_loop_new(None, 0))
