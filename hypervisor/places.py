"""Where libvirt's QEMU driver keeps what belongs to one domain alone, as far as the domain's XML does not say it.

UEFI variables of a domain whose firmware libvirt chooses lie in `<nvram>/<name>_VARS.fd`, the state of an emulated TPM
in `<tpm>/<uuid>/`: src/qemu/qemu_conf.c, measured on libvirt 9.0.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Places:
    """Two folders of libvirt's; '' for one that nobody can tell."""

    nvram: str = ""
    tpm: str = ""


def places(uri: str, nvram: str = "", tpm: str = "") -> Places:
    """The folders behind a connection URI.

    `nvram` and `tpm` are where the user says they are. A libvirtd behind a socket of its own may run as anybody, and
    one with a root of its own (`qemu:///embed`) anywhere, so there nothing is taken for granted.
    """
    parts = urlsplit(uri)
    known = Places()
    if parts.scheme.startswith("qemu") and not parts.netloc and "socket" not in parse_qs(parts.query):
        if parts.path == "/system":
            known = Places("/var/lib/libvirt/qemu/nvram", "/var/lib/libvirt/swtpm")
        elif parts.path == "/session":
            base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "libvirt/qemu"
            known = Places(str(base / "nvram"), str(base / "swtpm"))
    return Places(nvram or known.nvram, tpm or known.tpm)
