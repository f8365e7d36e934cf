"""Accepts the clones that one request asks for: all of them or none, in one transaction of the journal.

Names, bytes, tasks, the batch and the answer to an idempotency key are written together. A dry run goes the same way to
the end, and takes it all back: so what it tells is what happens.

What libvirt has to be asked for is asked for before: while the transaction is open, nobody else writes to the journal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from .. import context, errors
from ..callers import Caller
from ..clock import StampSource
from ..context import Context
from ..engine.plan import DomainPlan, Draft, VolumePlan
from ..engine.reach import COPY, LIBVIRT, LINKED, REFLINK
from ..engine.records import SOURCE, Task
from ..engine.transaction import Transaction
from ..hypervisor.host import Host
from ..hypervisor.infos import PoolInfo
from .foresight import Ahead
from .holding import places_of, refuse_held
from .keys import Key, Keys
from .services import Services

Plan = DomainPlan | VolumePlan


@dataclass(frozen=True)
class Request:
    """A request to clone, as the model sees it.

    `params` are the body's fields, `mount` is the URI path that the plugin is served at, which `target_uri` starts
    with, and `key` the request's idempotency key.
    """

    params: Mapping[str, Any]
    mount: str
    caller: Caller
    key: Key | None = None
    after: Callable[[Callable[[], None]], None] = lambda begin: begin()
    """Is given what has the workers begin: they need not do that before it is answered, and would keep that waiting."""

    @property
    def count(self) -> int:
        return int(self.params.get("count", 1))

    @property
    def is_batch(self) -> bool:
        return "count" in self.params

    @property
    def is_dry(self) -> bool:
        return bool(self.params.get("dry_run", False))


@dataclass(frozen=True)
class Accepted:
    """What became of a request: its tasks, in the order of their names, and the batch that they are in, if any."""

    tasks: Sequence[Task]
    batch: int | None = None
    foreseen: Mapping[str, Any] | None = None
    """Of a dry run: what would be done."""


class Free(NamedTuple):
    """A name that nobody on the host has, with what else a clone of that name would have; and the clone's UUID."""

    name: str
    uuid: str = ""


def settled(
    found: Free | None, is_reserved: Callable[[str], bool], skipped: Callable[[], None], look: Callable[[], str]
) -> str:
    """The name that was found, unless somebody has reserved it meanwhile; then, and where none was, another one."""
    if found is not None:
        if not is_reserved(found.name):
            return found.name
        skipped()
    return look()


class Order(Protocol):
    """What is to be cloned, looked up, and how one clone of it is accepted."""

    @property
    def kind(self) -> str:
        """`domain` or `volume`."""

    @property
    def name(self) -> str:
        """Of the source."""

    def draft(self, room: Callable[[PoolInfo], int]) -> Draft:
        """Decides what a clone will do. Raises what the plan raises."""

    def find_name(self, draft: Draft, stamps: StampSource) -> Free | None:
        """A name with a stamp that is free as far as the host goes; None where a name was asked for."""

    def reserve(self, transaction: Transaction, draft: Draft, task: int, found: Free | None) -> tuple[Plan, str]:
        """Makes a name ours, for a task: that which was found if nobody else has reserved it.

        Returns the plan and the path of what is made, below the mount.
        """


class _Found:
    """What is known of an order's clones before the journal is locked: what they will do, and names.

    It is decided anew only where there is no room for what was decided before; in one transaction there never is more
    room than before. Names were looked at in the pools of the first decision.
    """

    def __init__(self, order: Order, stamps: Ahead) -> None:
        self.order = order
        self.stamps = stamps
        self.draft = self._first = order.draft(lambda _pool: sys.maxsize)
        self.names: Sequence[Free | None] = ()
        self.reads: Sequence[str] = ()
        """Where what is read lies, as it may be held."""

    def decide(self, room: Callable[[PoolInfo], int]) -> Draft:
        """As `Order.draft`."""
        if not self.draft.fits(room):
            self.draft = self.order.draft(room)
        return self.draft

    def claim(self, transaction: Transaction) -> None:
        """Makes the names' stamps ours; else the names are forgotten, since others may be called so."""
        if not transaction.claim_stamps(self.stamps.first, self.stamps.last):
            self.names = ()

    def name(self, number: int) -> Free | None:
        """That which was found for a clone, as it is decided now."""
        return self.names[number] if number < len(self.names) and self.draft is self._first else None


class Room:
    """Bytes that pools have free and nobody was promised, less what a batch takes of them.

    Of a promise counts what is not written yet. Pools that lie on one file system have one room, of which a quota may
    leave one of them less.
    """

    def __init__(self, transaction: Transaction, host: Host) -> None:
        self._transaction = transaction
        self._host = host
        self._pools: dict[str, PoolInfo] = {}
        self._left: dict[str, int] = {}
        self._taken: dict[int | str, int] = {}
        self._needed: dict[str, int] = {}

    def __call__(self, pool: PoolInfo) -> int:
        self._pools[pool.name] = pool
        if pool.name not in self._left:
            # What is written is looked at first: it only grows, so that a moment's difference errs on the safe side.
            written = self._written(pool)
            promised = self._transaction.promised(pool.name, pool.device) - written
            self._left[pool.name] = self._host.available(pool) - promised
        return self._left[pool.name] - self._taken.get(pool.store, 0)

    def _written(self, pool: PoolInfo) -> int:
        """Bytes that are written of what was promised."""
        written, pools = 0, {pool.name: pool}
        for name, volume, size in self._transaction.promises_under_way(pool.name, pool.device):
            with suppress(errors.PoolNotFound):
                pools[name] = pools.get(name) or self._host.target(name)
                written += min(size, self._host.occupied(pools[name], volume))
        return written

    def take(self, plan: Plan) -> None:
        for copy in plan.copies:
            store = self._pools[copy.pool].store
            self._taken[store] = self._taken.get(store, 0) + copy.size
            self._needed[copy.pool] = self._needed.get(copy.pool, 0) + copy.size

    def describe(self) -> dict[str, dict[str, int]]:
        """Bytes by pool: what is needed of each, and what was free where it lies."""
        return {name: {"needed": size, "available": self._left[name]} for name, size in self._needed.items()}


class _OnlyToSee(Exception):
    """Ends the transaction of a dry run."""


@dataclass
class _Made:
    tasks: list[Task] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    batch: int | None = None


def accept(services: Services, request: Request, look_up: Callable[[], Order]) -> Accepted:
    """Accepts what a request asks for; workers make it.

    `look_up` surveys the source. Raises what that and the plan raise, and what `Keys.claim` raises; then nothing is
    written, and the key is free again.
    """
    if request.key is None or request.is_dry:
        return _accept(services, request, look_up())
    keys = Keys(services.journal, services.lease)
    answered = keys.claim(request.key)
    if answered is not None:
        return Accepted(answered.tasks, answered.batch)
    try:
        return _accept(services, request, look_up())
    except BaseException:
        keys.release(request.key)
        raise
    finally:
        keys.settle(request.key)


def _accept(services: Services, request: Request, order: Order) -> Accepted:
    made = _Made()
    foreseen: dict[str, Any] = {}
    try:
        with services.foresight.stamps() as stamps:
            found = _find_names(services, request, order, stamps)
            with services.journal.transaction() as transaction:
                room = Room(transaction, services.host)
                _reserve_all(services, request, found, transaction, room, made)
                if request.is_dry:
                    plans = [plan.foresee() for plan in made.plans]
                    foreseen = {"dry_run": True, "plans": plans, "pools": room.describe()}
                    foreseen["methods"] = _methods(made.plans[0])
                    raise _OnlyToSee
            services.foresight.learn(transaction.last_stamp)
    except _OnlyToSee:
        return Accepted((), foreseen=foreseen)
    request.after(partial(_begin, services, made, context.current()))
    return Accepted(made.tasks, made.batch)


def _find_names(services: Services, request: Request, order: Order, stamps: Ahead) -> _Found:
    """Looks for names as long as the journal is not locked; not where it will say that it is too much at once."""
    found = _Found(order, stamps)
    found.reads = places_of(services, found.draft.reads)
    if request.count == 1 or not _is_too_much(services, request, found.draft):
        found.names = [order.find_name(found.draft, stamps) for _ in range(request.count)]
    return found


def _is_too_much(services: Services, request: Request, draft: Draft) -> bool:
    """Whether there is no room for so many clones, or the caller may not have them, whatever is in the making."""
    if services.limits.is_exceeded_by(request.caller, request.count):
        return True
    return not draft.fits(lambda pool: services.host.available(pool) // request.count)


def _methods(plan: Plan) -> dict[str, str | None]:
    """Why each method could not serve where the disks go, or None where it could."""
    return {
        method: next((f"{copy.item}: {copy.refusals[method]}" for copy in plan.copies if method in copy.refusals), None)
        for method in (REFLINK, COPY, LIBVIRT, LINKED)
    }


def _begin(services: Services, made: _Made, here: Context) -> None:
    with context.use(here):
        for task, plan in zip(made.tasks, made.plans, strict=True):
            services.executor.submit(task.id, plan)


def _reserve_all(
    services: Services, request: Request, found: _Found, transaction: Transaction, room: Room, made: _Made
) -> None:
    order = found.order
    found.claim(transaction)
    made.batch = transaction.new_batch_id() if request.is_batch else None
    server, owner = services.lease.id, request.caller.name
    for number in range(request.count):
        draft = found.decide(room)
        if number == 0:
            refuse_held(services, transaction, order.name, found.reads)
        services.limits.check(transaction, request.caller, draft.copies)
        task_id = transaction.new_task_id()
        plan, path = order.reserve(transaction, draft, task_id, found.name(number))
        for copy in plan.copies:
            transaction.promise(task_id, copy.pool, copy.name, copy.size, draft.pool(copy.pool).device)
        for read in draft.reads:
            transaction.reserve(SOURCE, read, str(task_id), task=task_id)
        uri = f"{request.mount}/{path}/clone"
        task = transaction.add_task(
            task_id,
            order.kind,
            uri,
            server,
            plan.describe(),
            owner=owner,
            batch=made.batch,
            keyed=request.key is not None,
            request=context.current().request_id,
        )
        room.take(plan)
        made.tasks.append(task)
        made.plans.append(plan)
    if request.key is not None and not request.is_dry:
        transaction.answer_key(request.key.owner, request.key.text, [task.id for task in made.tasks], made.batch)


def check_count(params: Mapping[str, Any]) -> None:
    """Raises InvalidParameter where one name is to serve for several clones."""
    if "count" in params and "name" in params:
        raise errors.InvalidParameter(field="name", cause="it goes with one clone, so leave count out")
