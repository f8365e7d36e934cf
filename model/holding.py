"""Images that are kept for one thing that is done to them, so that nobody clones, starts or deletes them meanwhile.

And the linked clones that stand on them, as far as these are still there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from .. import errors
from ..callers import Caller
from ..engine import files
from ..engine.records import Link
from ..engine.transaction import Transaction
from ..hypervisor.infos import VolumeInfo
from ..utils import few
from .guests import disk_mark
from .needs import Needs, led_to, may_stand_on
from .reserving import is_file_being_made
from .services import Services

Place = tuple[str, str]

_held_here: set[Place] = set()
"""What requests of this process hold: its server, and the image's path."""


@contextmanager
def held(services: Services, name: str, paths: Collection[str], act: str, caller: Caller) -> Iterator[None]:
    """Keeps images for one thing that is done to them: meanwhile nobody clones, deletes or starts what they are of.

    Args:
        services: of this server.
        name: of the guest that they belong to.
        paths: of the images.
        act: what is done: `deleted`, `started`.
        caller: who does it; an admin is told which clones are in the way.

    Raises SourceInUse when a clone reads one of them, a linked clone stands on one, or somebody else holds one.
    """
    known = services.journal.image_paths()
    paths = _with_other_paths(services, paths, known)
    _forget_gone(services, name, paths, act, caller)
    seen = places_of(services, paths)
    ours: set[Place] = set()
    try:
        with services.journal.transaction() as transaction:
            new = services.journal.image_paths() - known  # to which nobody adds any more
            paths = _with_other_paths(services, paths, new)
            places = list(dict.fromkeys([*paths, *seen]))
            refuse_held(services, transaction, name, places, act)
            _refuse_used(services, transaction, name, paths, act, caller)
            transaction.hold(places, services.lease.id, act)
            ours.update((services.lease.id, place) for place in places)
            _held_here.update(ours)  # before anybody can see it in the journal
        yield
    finally:
        if ours:
            _let_go(services, ours)


def _let_go(services: Services, ours: set[Place]) -> None:
    """Frees what a request held, here and in the journal at once: who finds the one without the other takes it over."""
    try:
        with suppress(errors.JournalUnavailable), services.journal.transaction() as transaction:
            transaction.release([path for _, path in ours], services.lease.id)
            _forget_held(ours)
    finally:
        _forget_held(ours)  # nobody heeds what is left of it in the journal, see refuse_held


def _forget_held(ours: set[Place]) -> None:
    _held_here.difference_update(ours)
    ours.clear()


def _refuse_used(
    services: Services, transaction: Transaction, name: str, paths: Collection[str], act: str, caller: Caller
) -> None:
    """Raises SourceInUse while anybody else makes, reads or needs one of the images."""
    if any(is_file_being_made(services, transaction, path) for path in paths):
        cause = "a disk of it is still being made; wait for its task, or cancel that"
        raise errors.SourceInUse(name=name, act=act, cause=cause)
    tasks, links = transaction.dependents(paths)
    if tasks:
        which = f"task {few([str(task) for task in tasks])}" if caller.is_admin else "a task"
        cause = f"{which} is cloning it; wait, or cancel that"
        raise errors.SourceInUse(name=name, act=act, cause=cause)
    if links:
        raise _needed(name, act, {f"{link.pool}/{link.name}" for link in links}, caller)


def _with_other_paths(services: Services, paths: Collection[str], known: Collection[str]) -> list[str]:
    """Paths of images, and all others among those that are known which lead to the same images."""
    same = {led_to(path) for path in paths} - {None} if known and services.connections.is_local else set()
    others = (path for path in known if led_to(path) in same) if same else ()
    return list(dict.fromkeys([*paths, *others]))


def places_of(services: Services, paths: Collection[str]) -> list[str]:
    """Paths of images, and the files that they lead to, by which who comes by another path knows that one is held.

    Not to be asked for while the journal is locked: a file server that is away answers when it is back.
    """
    found = [led_to(path) for path in paths] if services.connections.is_local else []
    return [*paths, *dict.fromkeys("inode {}:{}".format(*identity) for identity in found if identity is not None)]


def refuse_held(
    services: Services, transaction: Transaction, name: str, places: Collection[str], act: str = "cloned"
) -> None:
    """Raises SourceInUse while a server that lives holds one of the images, as `places_of` has them."""
    for hold in transaction.holds(places):
        here = services.lease.id
        is_here = hold.server == here
        if hold.path in _held_by(here) if is_here else services.lease.is_alive(hold.server):
            raise errors.SourceInUse(name=name, act=act, cause=f"it is being {hold.act}; try again in a moment")
        transaction.drop_holds(hold.server, but=_held_by(hold.server))


def release_left(services: Services) -> None:
    """Frees what servers held that died, and what no request of this one holds any more: the journal was away then."""
    lease = services.lease
    with services.journal.transaction() as transaction:
        for server in transaction.holders():
            if server == lease.id or not lease.is_alive(server):
                transaction.drop_holds(server, but=_held_by(server))


def _held_by(server: str) -> list[str]:
    """Paths of the images that requests of this process hold for a server."""
    return [path for holder, path in _held_here.copy() if holder == server]


def _needed(name: str, act: str, children: Collection[str], caller: Caller) -> errors.SourceInUse:
    which = f": {few(sorted(children))}" if caller.is_admin else ""
    return errors.SourceInUse(name=name, act=act, cause=f"linked clones need its disks{which}; delete them first")


def _forget_gone(services: Services, name: str, paths: Collection[str], act: str, caller: Caller) -> None:
    """Forgets linked clones that are not there any more, by whoever's hand.

    Raises SourceInUse where something stands on such an image all the same: they may have been moved, or renamed.
    """
    gone = [link for link in services.journal.clones.links(paths) if not _is_there(services, link)]
    parents = {link.parent for link in gone}
    needs = Needs(services) if gone else None
    if needs is not None and (above := {each for parent in parents for each in needs.above(parent)}):
        raise _needed(name, act, above, caller)
    services.journal.clones.unlink(gone)


def forget_deleted(services: Services, volumes: Collection[VolumeInfo]) -> None:
    """Forgets that volumes which were deleted stood on others: else each is looked for when such a one is held next."""
    paths = {(volume.pool, volume.name): volume.path for volume in volumes}
    links = services.journal.clones.links_named([volume.name for volume in volumes]) if paths else []
    gone = [link for link in links if paths.get((link.pool, link.name)) == link.path]
    if services.connections.is_local:
        gone = [link for link in gone if not files.may_be_in_sight(link.path)]
    services.journal.clones.unlink([link for link in gone if services.lease.is_of_here(link.server)])


def _is_there(services: Services, link: Link) -> bool:
    if not services.lease.is_of_here(link.server):
        return True  # where nobody sees it from here
    is_local = services.connections.is_local
    try:
        pool = services.host.pool(link.pool)
        paths = list(dict.fromkeys(filter(None, [os.path.join(pool.path, link.name), link.path])))
        seen = [path for path in paths if files.may_be_in_sight(path)] if is_local else []
        if pool.is_active and seen:  # it may be another one's by now, or stand on nothing any more
            return any(may_stand_on(path, link.parent) for path in seen)
        if not pool.is_active or services.host.has_volume(pool, link.name):
            return True  # or may come back with its pool
        if link.path and services.host.volume_at(link.path) is not None:
            return True
    except (errors.PoolNotFound, errors.PoolInactive, errors.LibvirtFailed):
        return True
    # A host that starts without a disk has an empty folder for a pool; whose guest is there still needs its own.
    return any(map(services.taken_marks(), map(disk_mark, [*paths, f"{link.pool}/{link.name}"])))
