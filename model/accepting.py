"""Accepts the clones that one request asks for: all of them or none, in one transaction of the journal.

Names, bytes, tasks, the batch and the answer to an idempotency key are written together. A dry run goes the same way to
the end, and takes it all back: so what it tells is what happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from .. import context, errors
from ..callers import Caller
from ..context import Context
from ..engine.plan import DomainPlan, Draft, VolumePlan
from ..engine.records import SOURCE, Task
from ..engine.transaction import Transaction
from ..hypervisor.host import Host, PoolInfo
from .keys import Key, Keys
from .services import Services
from .usage import refuse_held

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

    def reserve(self, transaction: Transaction, draft: Draft, task: int) -> tuple[Plan, str]:
        """Makes a name ours, for a task; returns the plan and the path of what is made, below the mount."""


class Room:
    """Bytes that pools have free and nobody was promised, less what a batch takes of them.

    Of a promise counts what is not written yet.
    """

    def __init__(self, transaction: Transaction, host: Host) -> None:
        self._transaction = transaction
        self._host = host
        self._left: dict[str, int] = {}
        self.needed: dict[str, int] = {}

    def __call__(self, pool: PoolInfo) -> int:
        if pool.name not in self._left:
            # What is written is looked at first: it only grows, so that a moment's difference errs on the safe side.
            under_way = self._transaction.promises_under_way(pool.name)
            written = sum(min(size, self._host.occupied(pool, name)) for name, size in under_way)
            promised = self._transaction.promised(pool.name) - written
            self._left[pool.name] = self._host.available(pool) - promised
        return self._left[pool.name] - self.needed.get(pool.name, 0)

    def take(self, plan: Plan) -> None:
        for copy in plan.copies:
            self.needed[copy.pool] = self.needed.get(copy.pool, 0) + copy.size

    def describe(self) -> dict[str, dict[str, int]]:
        return {name: {"needed": size, "available": self._left[name]} for name, size in self.needed.items()}


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


def _accept(services: Services, request: Request, order: Order) -> Accepted:
    made = _Made()
    foreseen: dict[str, Any] = {}
    try:
        with services.journal.transaction() as transaction:
            room = Room(transaction, services.host)
            _reserve_all(services, request, order, transaction, room, made)
            if request.is_dry:
                foreseen = {"dry_run": True, "plans": [plan.foresee() for plan in made.plans], "pools": room.describe()}
                raise _OnlyToSee
    except _OnlyToSee:
        return Accepted((), foreseen=foreseen)
    request.after(partial(_begin, services, made, context.current()))
    return Accepted(made.tasks, made.batch)


def _begin(services: Services, made: _Made, here: Context) -> None:
    with context.use(here):
        for task, plan in zip(made.tasks, made.plans, strict=True):
            services.executor.submit(task.id, plan)


def _reserve_all(
    services: Services, request: Request, order: Order, transaction: Transaction, room: Room, made: _Made
) -> None:
    made.batch = transaction.new_batch_id() if request.is_batch else None
    server, owner = services.lease.id, request.caller.name
    for number in range(request.count):
        draft = order.draft(room)
        if number == 0:
            refuse_held(services, transaction, order.name, draft.reads)
        services.limits.check(transaction, request.caller, draft.copies)
        task_id = transaction.new_task_id()
        plan, path = order.reserve(transaction, draft, task_id)
        for copy in plan.copies:
            transaction.promise(task_id, copy.pool, copy.name, copy.size)
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
