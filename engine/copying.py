"""How the bytes get there: one small class a method, each with the same three verbs.

`reserve` makes the volume, exclusively; `fill` puts the content into it; `take_back` removes what was reserved,
whichever way it was made. Whether a method can serve at all, reach.py finds out.

Where an image keeps its format, its file is copied as it is, byte for byte: no image format is read, and what the image
has (snapshots, bitmaps, a backing file, its features) travels.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .. import errors
from ..hypervisor.host import Host
from ..hypervisor.making import VolumeMaker
from . import files
from .job import Job
from .plan import Copy
from .reach import COPY, LIBVIRT, LINKED, REFLINK
from .volumexml import new_volume

_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_POLL_S = 0.1
_KEPT_OUTPUT = 4096


class Method(Protocol):
    """A way to make one volume from another."""

    name: str
    is_long: bool
    """Whether it may take long, so that not many of its copies may run at once."""

    def reserve(self, copy: Copy, job: Job) -> Mapping[str, Any]:
        """Makes the volume, exclusively: what is there already stays. Returns what the volume is known by.

        Raises VolumeInTheWay when something of that name is there, which is then not ours; StepFailed with the cause;
        LibvirtUnavailable when the connection broke, and it is unknown whether the volume was made.
        """

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        """Puts the content into the volume. Raises StepFailed, and the job's reason when it is stopped."""


class _Placed:
    """The methods whose volume libvirt makes empty: its pool knows it at once, and it has the owner it should have."""

    def __init__(self, maker: VolumeMaker) -> None:
        self._maker = maker

    def reserve(self, copy: Copy, job: Job) -> Mapping[str, Any]:  # noqa: ARG002 - the protocol's signature
        volume = self._maker.create(copy.pool, copy.name, new_volume(copy))
        return {"path": volume.path, "type": volume.type, "file": files.identity(volume.path)}


class Reflink(_Placed):
    """FICLONE of the whole file: milliseconds at any size, and two independent files (ioctl_ficlone(2))."""

    name = REFLINK
    is_long = False

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        job.check()
        try:
            files.reflink(copy.source.path, made["path"])
        except OSError as error:
            raise errors.StepFailed(cause=error) from error
        job.progress(copy.item)(copy.total)


class LinkedCopy(_Placed):
    """A qcow2 overlay on the source's image, which libvirt makes as a whole."""

    name = LINKED
    is_long = False

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:  # noqa: ARG002 - nothing to do
        job.progress(copy.item)(copy.total)


class FileCopy(_Placed):
    """A `qemu-img convert` of our own, for which the image's file is plain bytes: sparse stays sparse."""

    name = COPY
    is_long = True

    def __init__(self, maker: VolumeMaker, program: str = "qemu-img") -> None:
        super().__init__(maker)
        self._program = program

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:
        try:
            length = files.examine(copy.source.path).length
            os.truncate(made["path"], 0)
            os.truncate(made["path"], length)
            _run(self._command(copy.source.path, made["path"]), copy, job)
            os.truncate(made["path"], length)  # qemu-img rounds up to whole sectors
        except OSError as error:
            raise errors.StepFailed(cause=error) from error
        job.progress(copy.item)(copy.total)

    def _command(self, source: str, target: str) -> list[str]:
        # -C copies within the kernel where it can; formats are named, so that no content is taken for an image.
        convert = [self._program, "convert", "-p", "-n", "-C", "-W", "-m", "16", "-f", "raw", "-O", "raw"]
        return [*_dies_with_us(), *convert, _plain_file(source), _plain_file(target)]


class ThroughLibvirt:
    """`virStoragePool.createXMLFrom`: libvirt copies, in every pool that can create. It cannot be stopped."""

    name = LIBVIRT
    is_long = True

    def __init__(self, maker: VolumeMaker) -> None:
        self._maker = maker

    def reserve(self, copy: Copy, job: Job) -> Mapping[str, Any]:
        progress = job.progress(copy.item)
        volume = self._maker.create_from(copy.source, copy.pool, copy.name, new_volume(copy), progress)
        return {"path": volume.path, "type": volume.type, "file": files.identity(volume.path)}

    def fill(self, copy: Copy, made: Mapping[str, Any], job: Job) -> None:  # noqa: ARG002 - it is filled already
        job.progress(copy.item)(copy.total)


def methods(maker: VolumeMaker) -> dict[str, Method]:
    """Every method by its name."""
    found: Sequence[Method] = (Reflink(maker), FileCopy(maker), LinkedCopy(maker), ThroughLibvirt(maker))
    return {method.name: method for method in found}


def take_back(host: Host, pool: str, name: str, made: Mapping[str, Any] | None) -> None:
    """Removes a volume that a method reserved. Raises Busy while it has to wait, StepFailed if it is another's."""
    if made and files.is_anothers(made["path"], made["file"]):
        raise errors.StepFailed(cause=f"{made['path']} was replaced by somebody else and is left alone")
    try:
        host.delete_volume(pool, name)
    except (errors.PoolInactive, errors.PoolNotFound):
        if not made or not made["file"]:
            raise
        files.remove(made["path"], made["file"])  # the pool has gone, and its file is known to be ours


def _plain_file(path: str) -> str:
    """A path as qemu-img takes it for a file, whatever characters it has: `nbd:x` is a URI to it otherwise."""
    return f"file:{path}"


def _dies_with_us() -> list[str]:
    """A prefix that has the kernel end the command when this process dies, which could not end it any more."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _run(command: list[str], copy: Copy, job: Job) -> None:
    """Runs qemu-img, tells its progress, and kills it when the job is stopped. Raises StepFailed with what it said."""
    progress = job.progress(copy.item)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output = _follow(process, job, lambda part: progress(int(copy.total * part)))
        finally:
            process.kill()
    job.check()
    if process.returncode != 0:
        lines = _PERCENT.sub(b"", output).decode("utf-8", "replace").split("\r")
        raise errors.StepFailed(cause=" ".join("".join(lines).split()) or f"qemu-img ended with {process.returncode}")


def _follow(process: subprocess.Popen[bytes], job: Job, progress: Callable[[float], None]) -> bytes:
    """What a process says, at its end or the job's; `progress` gets the part that is done, 0 to 1.

    Output comes in pieces that end anywhere, so the last whole percentage of what has come so far counts.
    """
    if process.stdout is None:
        raise ValueError("the output must be a pipe")
    descriptor = process.stdout.fileno()
    output = b""
    while not job.is_stopped:
        if not select.select([descriptor], [], [], _POLL_S)[0]:
            continue
        piece = os.read(descriptor, _KEPT_OUTPUT)
        if not piece:
            process.wait()
            break
        output = (output + piece)[-_KEPT_OUTPUT:]
        found = _PERCENT.findall(output)
        if found:
            progress(float(found[-1]) / 100)
    return output
