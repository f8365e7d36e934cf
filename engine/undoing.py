"""Takes a task's steps back. Nothing is removed that is not known to be ours.

A domain is known by its UUID, a file by its inode, a volume by having been made exclusively and not before the step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence

from .. import errors
from ..hypervisor.host import Host
from ..hypervisor.infos import VolumeInfo
from . import domainxml, files, ownership
from .copying import take_back
from .records import BEGUN, DOMAIN, DONE, FILL, NVRAM, START, TPM, UNDONE, VOLUME, Mark, Step
from .xmltree import parse

log = logging.getLogger(__name__)

LATER = (errors.LibvirtUnavailable, errors.Busy, errors.JournalUnavailable, errors.PoolInactive, files.Unseen)
"""What may pass, so that undoing is tried again."""

ALONE = (errors.Busy, errors.PoolInactive, files.Unseen)
"""Of these what one task may have to wait for while others need not."""

_COARSE_CLOCK_US = 50_000
"""A file system takes its times from the kernel's coarse clock, which lags: a file this much older may be ours."""


class Undoing:
    """Undoes what tasks did on one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def undo(self, steps: Sequence[Step], tell: Callable[[Collection[Mark]], None], *, was_seen: bool) -> list[str]:
        """Takes a task's steps back; returns what could not be, in words. Raises what can be tried again."""
        leftovers = []
        for step in reversed(steps):
            if step.state == UNDONE:
                continue
            try:
                if was_seen:
                    self._check_unused(step)
                _UNDO[step.kind](self, step)
            except errors.ClonerError as error:
                if isinstance(error, LATER):
                    raise
                log.error("task %d: step %d cannot be undone: %s", step.task, step.number, error)
                leftovers.append(f"{step.args.get('name')} ({errors.cause_of(error)})")
            else:
                tell([Mark(step.number, UNDONE)])
        return leftovers

    def _undo_volume(self, step: Step) -> None:
        if step.state == DONE or step.result or self._is_ours(step):
            take_back(self._host, step.args["pool"], step.args["name"], step.result)

    def _undo_fill(self, step: Step) -> None:
        """The volume goes as a whole."""

    def _is_ours(self, step: Step) -> bool:
        """Whether the volume of a step that was interrupted is the one that the step was about to make.

        Libvirt may still have to make it, for whoever asked it for that and did not live to hear the answer.
        A name that has a stamp of the journal in it is nobody else's, whatever the clock says of its volume: that of
        another host, or of a file server, may be behind. By a name that a person chose somebody may have made another
        one since the server died: it is ours as long as it is empty, no domain names it, and it was not last changed
        before the step began. Raises StepFailed for what is another's, lest it be passed over in silence.
        """
        self._host.catch_up()
        volume = self._look_at(step.args["pool"], step.args["name"])
        if volume is None:
            self._remove_unseen(step)
            return False
        is_new = volume.changed is not None and volume.changed >= step.begun - _COARSE_CLOCK_US
        if step.args.get("stamped") or (is_new and self._is_unused(volume, step)):
            return True
        raise errors.StepFailed(cause=f"{volume.path} cannot be told from another's, and is left alone")

    def _look_at(self, pool: str, name: str) -> VolumeInfo | None:
        """A volume, or None. Raises Busy while libvirt may be making it and its `qemu-img` has not begun its file.

        Raises StepFailed where its folder is not there: the pool would be stopped, if libvirt looked into that.
        """
        for _ in range(2):
            try:
                return self._host.volume(pool, name)
            except errors.VolumeNotFound:
                self._check_folder(pool)
                if not self._host.looked_again(pool, name):
                    break
        return None

    def _check_folder(self, name: str) -> None:
        pool = self._host.pool(name)
        if self._host.is_local and pool.holds_files and not (files.is_barred(pool.path) or os.path.isdir(pool.path)):
            raise errors.StepFailed(cause=f"the folder of its pool, {pool.path}, is not there")

    def _remove_unseen(self, step: Step) -> None:
        """Removes the file that a libvirtd which was killed left its qemu-img to make.

        The next libvirtd has looked into its pools before that. Raises StepFailed for what may be another's.
        """
        pool = self._host.pool(step.args["pool"])
        if not (self._host.is_local and pool.holds_files):
            return
        path = os.path.join(pool.path, step.args["name"])
        if files.is_barred(path):  # and that may be so for good: libvirt's word counts, as of another host
            return
        is_stamped = bool(step.args.get("stamped"))
        made = files.made_since(path, 0 if is_stamped else step.begun - _COARSE_CLOCK_US)
        if made and not is_stamped:
            raise errors.StepFailed(cause=f"{path} cannot be told from another's, and is left alone")
        files.remove(path, made)

    def _check_unused(self, step: Step) -> None:
        """Raises StepFailed for a file that is a guest's by now. The clone itself is undone before."""
        if step.kind == VOLUME:
            path = (step.result or {}).get("path", "")
            places = [path, f"{step.args['pool']}/{step.args['name']}"]
        elif step.kind == NVRAM:
            path = step.args["target"]
            places = [path]
        else:
            return
        if self._is_named(places):
            raise errors.StepFailed(cause=f"{path or places[-1]} is another guest's by now, and is left alone")

    def _is_unused(self, volume: VolumeInfo, step: Step) -> bool:
        return volume.allocation <= step.args.get("empty_bytes", 0) and not self._is_named(volume.places)

    def _is_named(self, places: Collection[str]) -> bool:
        """Whether a disk, the NVRAM, a log or a socket of any domain lies in one of these places."""
        for domain in self._host.list_domains():
            for root in map(parse, filter(None, (domain.xml, domain.live_xml))):
                named = {disk.place for disk in domainxml.disks(root)} | {domainxml.nvram(root)}
                named |= {node.get(attribute) for node, attribute in ownership.paths(root)}
                if not (named - {"", None}).isdisjoint(places):
                    return True
        return False

    def _undo_nvram(self, step: Step) -> None:
        path = step.args["target"]
        if step.result is not None:
            files.remove(path, dict(step.result))
            return
        made = files.made_since(path, 0)
        if not made:
            return
        # What the step had copied when it was interrupted is the beginning of its source.
        is_new = bool(files.made_since(path, step.begun - _COARSE_CLOCK_US))
        is_ours = is_new and files.begins(step.args["source"], path) and not self._is_named([path])
        if not (step.args.get("stamped") or is_ours):
            raise errors.StepFailed(cause=f"{path} cannot be told from another's, and is left alone")
        files.remove(path, made)

    def _undo_tpm(self, step: Step) -> None:
        """The folder is named by the clone's UUID, which is new: nobody else has made it, finished or not."""
        files.remove_folder(step.args["target"])

    def _undo_start(self, step: Step) -> None:
        """It is stopped when it is undefined."""

    def _undo_domain(self, step: Step) -> None:
        """Somebody may have started it, before it is undefined or meanwhile; then it would go on without a disk.

        What QEMU and libvirt made because of that, where nothing was before, goes as well. One whose definition was
        interrupted libvirt may still have to define, and would without a disk.
        """
        uuid = step.args["uuid"]
        try:
            if step.state == BEGUN:
                self._host.catch_up()
            self._host.stop(uuid)
            self._host.undefine(uuid, keep_nvram=True)
            self._host.stop(uuid)
        except errors.LibvirtFailed as error:  # what it is made of stays with it, and all of it is tried again
            raise errors.Busy(what=f"the clone: {error.data['cause']}") from error
        for path in step.args.get("files", ()) if self._host.is_local else ():
            made = files.made_since(path, step.begun - _COARSE_CLOCK_US)
            if made and not self._is_named([path]):  # another guest may have the clone's name by now
                files.remove(path, made)


_UNDO: Mapping[str, Callable[[Undoing, Step], None]] = {
    VOLUME: Undoing._undo_volume,
    FILL: Undoing._undo_fill,
    NVRAM: Undoing._undo_nvram,
    TPM: Undoing._undo_tpm,
    DOMAIN: Undoing._undo_domain,
    START: Undoing._undo_start,
}
