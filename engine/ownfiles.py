"""Files that libvirt keeps for one domain alone beside its disks: UEFI variables, and the state of an emulated TPM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ..hypervisor.places import Places
from . import domainxml, files
from .xmltree import Element


@dataclass(frozen=True)
class OwnFiles:
    """Where they lie. None for what the domain has none of, or whose place nobody can tell."""

    nvram: str | None = None
    nvram_is_implied: bool = False
    """Whether libvirt takes the NVRAM's path from the domain's name, so that the XML does not tell it."""

    tpm: str | None = None
    """The folder with the TPM's state."""


def own_files(domain: Element, places: Places) -> OwnFiles:
    """What a domain has of them, by its XML and by where libvirt keeps such files."""
    told = domainxml.nvram(domain)
    implied = told is None and domainxml.chooses_firmware(domain)
    if implied and places.nvram:
        told = os.path.join(places.nvram, f"{domain.findtext('name')}_VARS.fd")
    tpm = places.tpm and domainxml.has_emulated_tpm(domain)
    return OwnFiles(told or None, implied, tpm_folder(domain.findtext("uuid", ""), places) if tpm else None)


def tpm_folder(uuid: str, places: Places) -> str:
    return os.path.join(places.tpm, uuid)


def problems(domain: Element, places: Places, *, is_local: bool) -> Iterator[str]:
    """Why they cannot be copied, in words."""
    own = own_files(domain, places)
    if domainxml.nvram(domain) == "":
        yield "its NVRAM is not a file: name one in its place"
    elif own.nvram is not None or own.nvram_is_implied:
        yield from _problem("NVRAM", own.nvram, "nvram_dir", is_local=is_local)
    if domainxml.has_emulated_tpm(domain):
        yield from _problem("TPM state", own.tpm, "tpm_dir", is_local=is_local)


def _problem(what: str, path: str | None, setting: str, *, is_local: bool) -> Iterator[str]:
    if not is_local:
        yield f"its {what} lies on another host, where it cannot be copied: run cloner there"
    elif path is None:
        yield f"where libvirt keeps its {what} is not known for this connection; set {setting}"
    elif not os.path.isdir(os.path.dirname(os.path.dirname(path))):
        yield f"its {what} {path} is out of reach of the server; set {setting}"
    elif os.path.lexists(path):
        yield from _unreadable(what, path)
    elif files.may_be_there(path):
        yield f"the server cannot see whether its {what} {path} is there: run that as somebody who can"


def _unreadable(what: str, path: str) -> Iterator[str]:
    if os.path.islink(path):
        yield f"its {what} {path} is a symbolic link, which is not followed: name the file that it leads to"
    elif not os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0)):
        yield f"its {what} {path} cannot be read by the server: run that as somebody who can"
    elif not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        yield f"the folder of its {what} {path} cannot be written by the server: run that as somebody who can"
