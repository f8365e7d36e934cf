"""Who needs an image: guests that run on it, clones that read it, linked clones that stand on it, and who holds it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from .. import errors
from ..callers import Caller
from ..engine import domainxml
from ..engine.records import Link
from ..engine.transaction import Transaction
from ..engine.xmltree import parse
from ..hypervisor.host import SHUT_OFF, DomainInfo, Host, VolumeInfo
from ..hypervisor.inventory import Inventory
from .guests import Guest, disk_mark, read_guest
from .services import Services


def running_users(inventory: Inventory[Guest], host: Host, volume: VolumeInfo, *, but: str = "") -> list[str]:
    """Names of the guests that are not shut off and may write to a volume. What is not known is asked for.

    `but` is the UUID of a guest that does not count.
    """
    known = {guest.uuid for place in volume.places for guest in inventory.having(disk_mark(place)) or ()}
    if not inventory.is_complete:
        everyone = (read_guest(domain) for domain in host.list_domains())
        known = {guest.uuid for guest in everyone if guest.marks & {disk_mark(place) for place in volume.places}}
    names = []
    for uuid in sorted(known - {but}):
        with suppress(errors.DomainNotFound):
            name, state = host.domain_state(uuid)
            names += [] if state == SHUT_OFF else [name]
    return names


def written_volumes(host: Host, domain: DomainInfo) -> Iterator[VolumeInfo]:
    """The volumes that a domain's writable disks lie in."""
    for disk in domainxml.disks(parse(domain.xml)):
        if not disk.is_written:
            continue
        volume = None
        if disk.pool and disk.volume:
            with suppress(errors.PoolNotFound, errors.PoolInactive, errors.VolumeNotFound):
                volume = host.volume(disk.pool, disk.volume)
        elif disk.path or disk.network:
            volume = host.volume_at(disk.path or (disk.network.name if disk.network else ""))
        if volume is not None:
            yield volume


def written_paths(host: Host, domain: DomainInfo) -> list[str]:
    """Paths of the images that a domain writes to, in a pool or not."""
    loose = [disk.path for disk in domainxml.disks(parse(domain.xml)) if disk.is_written and disk.path]
    return list(dict.fromkeys([volume.path for volume in written_volumes(host, domain)] + loose))


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
    _forget_gone(services, paths)
    with services.journal.transaction() as transaction:
        refuse_held(services, transaction, name, paths, act)
        tasks, links = transaction.dependents(paths)
        if tasks:
            which = f"task {', '.join(map(str, tasks))}" if caller.is_admin else "a task"
            cause = f"{which} is cloning it; wait, or cancel that"
            raise errors.SourceInUse(name=name, act=act, cause=cause)
        if links:
            children = ", ".join(sorted(f"{link.pool}/{link.name}" for link in links))
            which = f": {children}" if caller.is_admin else ""
            cause = f"linked clones need its disks{which}; delete them first"
            raise errors.SourceInUse(name=name, act=act, cause=cause)
        transaction.hold(paths, services.lease.id, act)
    try:
        yield
    finally:
        services.journal.release(paths, services.lease.id)


def refuse_held(
    services: Services, transaction: Transaction, name: str, paths: Collection[str], act: str = "cloned"
) -> None:
    """Raises SourceInUse while a server that lives holds one of the images."""
    for hold in transaction.holds(paths):
        if services.lease.is_alive(hold.server):
            raise errors.SourceInUse(name=name, act=act, cause=f"it is being {hold.act}; try again in a moment")
        transaction.drop_holds(hold.server)


def _forget_gone(services: Services, paths: Collection[str]) -> None:
    """Forgets linked clones that are not there any more, by whoever's hand."""
    services.journal.unlink([link for link in services.journal.links(paths) if not _is_there(services, link)])


def _is_there(services: Services, link: Link) -> bool:
    try:
        return services.host.has_volume(services.host.pool(link.pool), link.name)
    except (errors.PoolNotFound, errors.LibvirtFailed):
        return True  # it may come back with its pool
