"""Whether a server lives: each holds a lock on a file of its own, which the kernel drops when it dies, however it dies.

No clock is involved, so a server that was suspended for an hour is not taken for dead, and one that was killed is known
to be dead at once. SQLite's WAL mode ties a journal to one host, and a lock on a file reaches just as far.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
import uuid
from contextlib import suppress
from hashlib import blake2b
from multiprocessing.util import register_after_fork
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_SIGN_BYTES = 3
"""The journal has 40 characters for an id, of which a UUID takes 32."""

_ANEW_S = 30.0
"""After how many seconds all who live have made their files anew, too."""

_HERE = ("", "localhost", "127.0.0.1", "::1")


class Lease:
    """This server's sign of life, in a folder that the servers of one journal share.

    Args:
        folder: that folder.
        uri: the libvirt that the server works on, of which its id has a sign.
    """

    def __init__(self, folder: Path, uri: str = "") -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._sign = _sign(uri)
        self.id = f"{uuid.uuid4().hex}-{self._sign}" if uri else uuid.uuid4().hex
        self._descriptors = [self._made()]
        self._anew = -math.inf
        # The lock is also that of what is forked and goes on without us: in Wok, Kimchi's serial consoles.
        register_after_fork(self, Lease._leave_to_parent)

    def _made(self) -> int:
        """Our file, anew. Raises OSError."""
        unseen = self._folder / f".{self.id}"  # until it is locked: an unlocked file is that of a dead server
        descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with suppress(OSError):  # a server that is not root is to be able to ask root's
                folder = self._folder.stat()
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unseen.rename(self._folder / self.id)
        except OSError:  # the next attempt would wait for this one's lock, for ever
            os.close(descriptor)
            raise
        return descriptor

    def keep(self) -> None:
        """Makes our file anew where somebody has removed it: who starts from then on would take us for dead.

        The former stays locked, since it may come back.
        """
        if not self._is_there():
            with suppress(OSError):  # the folder was moved, say
                self._anew = time.monotonic()  # before we can be seen there
                self._descriptors.append(self._made())

    def is_alive(self, server: str) -> bool:
        """Whether the server with this id runs. One that never was, or ended in order, does not.

        Where our own file is not to be seen either, the folder was moved, emptied or replaced by a copy, and nobody is
        known to be dead. Nor is whose file cannot be opened.
        """
        if server == self.id:
            return True
        try:
            descriptor = self._opened(server)
            if descriptor is None and self._is_seen():
                descriptor = self._opened(server)  # the folder may have come back since
                if descriptor is None:
                    return False
        except OSError:  # it may not be asked, or no file is left to open
            return True
        if descriptor is None:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: who else asks is not the server
        except BlockingIOError:
            return True
        else:
            return not self._is_seen()  # it may be a copy
        finally:
            os.close(descriptor)

    def _opened(self, server: str) -> int | None:
        try:
            return os.open(self._folder / server, os.O_RDWR)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _is_seen(self) -> bool:
        """Whether our own file is where others look for it, and theirs have had the time to be."""
        return time.monotonic() >= self._anew + _ANEW_S and self._is_there()

    def _is_there(self) -> bool:
        if not self._descriptors:
            return True  # it was taken away in order
        with suppress(OSError):
            seen = os.stat(self._folder / self.id)
            return any(os.path.samestat(seen, os.fstat(descriptor)) for descriptor in self._descriptors)
        return False

    def is_of_here(self, server: str) -> bool:
        """Whether the server with this id works, or worked, on the same libvirt, as far as that is known."""
        sign = server.partition("-")[2]
        return sign in ("", self._sign)

    def forget_the_dead(self) -> None:
        """Removes the files of servers that died; what they left is to be recovered before."""
        for path in self._folder.iterdir() if self._is_seen() else ():
            if path.is_file() and not path.name.startswith(".") and not self.is_alive(path.name):
                path.unlink(missing_ok=True)

    def _leave_to_parent(self) -> None:
        """In a child that multiprocessing has forked."""
        for descriptor in self._descriptors:
            os.close(descriptor)

    def release(self) -> None:
        with suppress(OSError):  # it is gone, or its disk takes nothing any more; the lock ends in any case
            (self._folder / self.id).unlink()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


def _sign(uri: str) -> str:
    """A number for a libvirt, the same for the URIs that lead to one by another transport."""
    parts = urlsplit(uri)
    host = parts.hostname or ""
    socket = parse_qs(parts.query).get("socket", [""])[0]
    place = (parts.scheme.partition("+")[0], "" if host in _HERE else host, parts.path, socket)
    return blake2b(repr(place).encode(), digest_size=_SIGN_BYTES).hexdigest()
