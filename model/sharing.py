"""What domains of a host have in common and should not: by their marks, and by what these lead to."""

from __future__ import annotations

import os
from collections.abc import Hashable
from contextlib import suppress

from .. import errors
from ..hypervisor.host import Host
from ..hypervisor.places import Places
from .guests import disk_mark, nvram_mark, path_mark, read_guest
from .needs import led_to

_PLACED = tuple(mark("") for mark in (disk_mark, nvram_mark, path_mark))
"""How marks begin that name a place."""


def shared(host: Host, places: Places) -> dict[str, list[str]]:
    """Each mark that several domains have, with their names. Of marks that are one, that with the first path counts."""
    marks: dict[Hashable, set[str]] = {}
    owners: dict[Hashable, dict[str, str]] = {}
    kept: dict[str, Hashable] = {}
    for domain in host.list_domains():
        for mark in read_guest(domain, places).marks:
            if mark not in kept:
                kept[mark] = _meant(host, mark)
            marks.setdefault(kept[mark], set()).add(mark)
            owners.setdefault(kept[mark], {})[domain.uuid] = domain.name
    found = {_first(marks[key]): sorted(names.values()) for key, names in owners.items() if len(names) > 1}
    return dict(sorted(found.items()))


def _first(marks: set[str]) -> str:
    return min(marks, key=lambda mark: (not _split(mark)[1].startswith("/"), mark))


def _split(mark: str) -> tuple[str, str]:
    """A mark's kind and place; '' for one that names none."""
    kind = next((begin for begin in _PLACED if mark.startswith(begin)), "")
    return kind, mark.removeprefix(kind) if kind else ""


def _meant(host: Host, mark: str) -> Hashable:
    """The same for all marks of a kind that name one file, or one volume."""
    kind, place = _split(mark)
    if kind == disk_mark("") and place and not place.startswith("/"):
        place = _of_volume(host, place)
    if not (host.is_local and place.startswith("/")):
        return kind, place or mark
    return kind, led_to(place) or os.path.realpath(place)


def _of_volume(host: Host, place: str) -> str:
    """Where the volume lies that a place names as `pool/volume`; the place where there is none."""
    pool, _, name = place.partition("/")
    with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
        return host.volume(pool, name).places[0]
    return place
