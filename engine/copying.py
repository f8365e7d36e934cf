"""How the bytes get there: one small class a method, each with the same three verbs.

`reserve` makes the volume, exclusively; `fill` puts the content into it; `take_back` removes what was reserved,
whichever way it was made. Whether a method can serve at all, reach.py finds out.

Where an image keeps its format, its file is copied as it is, byte for byte: no image format is read, and what the image
has (snapshots, bitmaps, a backing file, its features) travels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .. import errors
from ..hypervisor.host import Host
from ..hypervisor.infos import VolumeInfo
from ..hypervisor.making import VolumeMaker
from . import files, qcow2, qemuimg
from .duplicating import duplicate, occupied_in_blocks
from .job import Job
from .plan import Copy
from .reach import COPY, LIBVIRT, LINKED, REFLINK
from .volumexml import new_volume

_MIB = 1 << 20

Note = Callable[[Mapping[str, Any]], None]
"""Is told what a volume is known by."""


class Method(Protocol):
    """A way to make one volume from another."""

    name: str
    is_long: bool
    """Whether it may take long, so that not many of its copies may run at once."""

    def reserve(self, copy: Copy, job: Job, note: Note) -> Mapping[str, Any]:
        """Makes the volume, exclusively: what is there already stays. Returns what the volume is known by.

        Where that takes long, `note` is told it as soon as the volume can be seen.

        Raises VolumeInTheWay when something of that name is there, which is then not ours; StepFailed with the cause;
        LibvirtUnavailable when the connection broke, and it is unknown whether the volume was made.
        """

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        """Puts the content into the volume. Raises StepFailed, and the job's reason when it is stopped."""


class _Placed:
    """The methods whose volume libvirt makes empty: its pool knows it at once, and it has the owner it should have."""

    def __init__(self, maker: VolumeMaker) -> None:
        self._maker = maker

    def reserve(self, copy: Copy, job: Job, note: Note) -> Mapping[str, Any]:  # noqa: ARG002 - the protocol's signature
        path = self._maker.create(copy.pool, copy.name, new_volume(copy))
        return _known_by(path, copy.type, self._maker)


class Reflink(_Placed):
    """FICLONE of the whole file: milliseconds at any size, and two independent files (ioctl_ficlone(2))."""

    name = REFLINK
    is_long = False

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        job.check()
        try:
            files.reflink(copy.source.path, made["path"], made["file"])
        except OSError as error:
            raise errors.StepFailed(cause=error) from error
        job.progress(copy.item)(copy.total)


class LinkedCopy(_Placed):
    """A qcow2 overlay on the source's image, which libvirt makes as a whole, but for a size that it rounds up."""

    name = LINKED
    is_long = False

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        capacity = copy.source.capacity
        if made["file"] and not qcow2.is_made_exactly(capacity):
            try:
                with files.opened_own(made["path"], made["file"]) as writer:
                    qcow2.set_capacity(writer, capacity)
            except OSError as error:
                raise errors.StepFailed(cause=error) from error
        job.progress(copy.item)(copy.total)


class FileCopy(_Placed):
    """The file's bytes as they are: sparse stays sparse, and who starts the source meanwhile is not kept from it.

    An overlay that is to be flattened is read as the image that it is, on backing files that were checked before, by a
    `qemu-img convert` of our own.
    """

    name = COPY
    is_long = True

    def __init__(self, maker: VolumeMaker, program: str = qemuimg.PROGRAM) -> None:
        super().__init__(maker)
        self._program = program

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        progress = job.progress(copy.item)
        try:
            if copy.flat_source:
                self._flatten(copy, made, job)
            else:
                _duplicate(copy, made, job)
        except OSError as error:
            raise errors.StepFailed(cause=error) from error
        progress(copy.total)

    def _flatten(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        progress = job.progress(copy.item)
        options = ["-r", str(copy.bandwidth * _MIB)] if copy.bandwidth else []
        with files.opened_own(made["path"], made["file"]) as writer:
            qcow2.set_capacity(writer, copy.source.capacity)
            # As it is opened here: what its name leads to may change.
            options += ["-O", copy.format, copy.flat_source, qemuimg.plain_file(f"/dev/fd/{writer}")]
            qemuimg.convert(options, job, lambda part: progress(int(copy.total * part)), self._program, (writer,))


def _duplicate(copy: Copy, made: Mapping[str, Any], job: Job) -> None:
    limit = copy.bandwidth * _MIB if copy.bandwidth else None
    with files.opened(copy.source.path, os.O_RDONLY) as reader, files.opened_own(made["path"], made["file"]) as writer:
        files.clear(writer, os.fstat(reader).st_size)
        files.allot_singly(writer, lambda block: occupied_in_blocks(reader, block) > copy.size)
        duplicate(reader, writer, job, job.progress(copy.item), bytes_a_second=limit)


class ThroughLibvirt:
    """`virStoragePool.createXMLFrom`: libvirt copies, in every pool that can create. It cannot be stopped."""

    name = LIBVIRT
    is_long = True

    def __init__(self, maker: VolumeMaker) -> None:
        self._maker = maker

    def reserve(self, copy: Copy, job: Job, note: Note) -> Mapping[str, Any]:
        progress, known = job.progress(copy.item), False

        def see(volume: VolumeInfo) -> None:
            nonlocal known
            progress(volume.allocation)
            if not known:
                known = True
                note(_known_by(volume.path, volume.type, self._maker))

        volume = self._maker.create_from(copy.source, copy.pool, copy.name, new_volume(copy), see)
        return _known_by(volume.path, volume.type, self._maker)

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:  # noqa: ARG002 - it is filled already
        job.progress(copy.item)(copy.total)


def _known_by(path: str, kind: str, maker: VolumeMaker) -> dict[str, Any]:
    return {"path": path, "type": kind, "file": files.identity(path) if maker.is_local else {}}


def methods(maker: VolumeMaker) -> dict[str, Method]:
    """Every method by its name."""
    found: Sequence[Method] = (Reflink(maker), FileCopy(maker), LinkedCopy(maker), ThroughLibvirt(maker))
    return {method.name: method for method in found}


def take_back(host: Host, pool: str, name: str, made: Mapping[str, Any] | None) -> None:
    """Removes a volume that a method reserved. Raises Busy or Unseen while it waits, StepFailed if it is another's.

    By now its pool may be gone, or lead to another folder, in which somebody else has a volume of that name.
    """
    if not made:
        host.delete_volume(pool, name)
        return
    path, known = made["path"], made["file"]
    if files.is_anothers(path, known):
        raise errors.StepFailed(cause=f"{path} was replaced by somebody else and is left alone")
    try:
        is_gone = host.delete_volume(pool, name, path)
    except (errors.PoolInactive, errors.PoolNotFound, errors.StepFailed):
        if not known:
            raise
        is_gone = False
    if not is_gone:
        files.remove(path, known)  # its pool has it no more, and it is known to be ours
