"""PAM of the tests' own, by pam_wrapper (https://cwrap.org/pam_wrapper.html): real PAM, and nothing of the host's.

`Pam(folder)` has a password file and a service `login`; a process with its `env` uses that one. The accounts are those
that every Debian has, each with a group of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_LIBRARIES = Path("/usr/lib", os.uname().machine + "-linux-gnu")
WRAPPER = _LIBRARIES / "libpam_wrapper.so"  # Debian's package libpam-wrapper
MATRIX = _LIBRARIES / "pam_wrapper" / "pam_matrix.so"

ADMIN, USER, OUTSIDER, EXPIRED = "daemon", "nobody", "games", "bin"
CONFIGURATION = "[server]\nauth = pam\nadmin_groups = daemon\nuser_groups = staff, nogroup, bin\n"


class Pam:
    """A service whose passwords are `<user>'s password`, and in which the account of EXPIRED may not be used."""

    def __init__(self, folder: Path) -> None:
        services, libraries = folder / "services", folder / "lib"
        for path in (services, libraries):
            path.mkdir()
        self._passwords = folder / "passwords"
        allowed = {ADMIN: "login", USER: "login", OUTSIDER: "login", EXPIRED: "another-service"}
        self._passwords.write_text("".join(f"{user}:{self.password(user)}:{allowed[user]}\n" for user in allowed))
        lines = [f"{kind} required {MATRIX} passdb={self._passwords}\n" for kind in ("auth", "account")]
        (services / "login").write_text("".join(lines))
        # python-pam asks the loader for libpam by its name, which a preloaded library does not stand in for.
        (libraries / "libpam.so.0").symlink_to(WRAPPER)
        self.env: Mapping[str, str] = {
            "LD_LIBRARY_PATH": str(libraries),
            "PAM_WRAPPER": "1",
            "PAM_WRAPPER_SERVICE_DIR": str(services),
        }

    def password(self, user: str) -> str:
        return f"{user}'s password"

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """While it lasts every check of a password waits, as one that asks a server in the network may."""
        kept, pipe = self._passwords.with_suffix(".kept"), self._passwords.with_suffix(".pipe")
        self._passwords.rename(kept)
        os.mkfifo(pipe)
        self._passwords.symlink_to(pipe)
        try:
            yield
        finally:
            self._passwords.unlink()
            kept.rename(self._passwords)
            os.close(os.open(pipe, os.O_RDWR))  # whoever waits for something to read finds the end
