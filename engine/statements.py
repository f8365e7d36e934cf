"""The journal's tables as SQLAlchemy knows them, and the statements that each clone takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

_metadata = sa.MetaData()
counters = sa.Table("counters", _metadata, sa.Column("name", sa.String), sa.Column("last", sa.BigInteger))
tasks = sa.Table(
    "tasks",
    _metadata,
    *(sa.Column(name, sa.BigInteger) for name in ("id", "created", "ended")),
    *(sa.Column(name, sa.String) for name in ("kind", "status", "message", "target_uri", "server", "plan", "done")),
    *(sa.Column(name, sa.Integer) for name in ("cancelled", "keyed")),
    *(sa.Column(name, sa.BigInteger) for name in ("batch", "changed")),
    sa.Column("warning", sa.String),
    sa.Column("owner", sa.String),
)
reservations = sa.Table(
    "reservations",
    _metadata,
    *(sa.Column(name, sa.String) for name in ("kind", "scope", "name", "domain")),
    sa.Column("task", sa.BigInteger),
)
promises = sa.Table(
    "promises",
    _metadata,
    *(sa.Column(name, sa.String) for name in ("pool", "item")),
    *(sa.Column(name, sa.BigInteger) for name in ("task", "bytes")),
)
steps = sa.Table(
    "steps",
    _metadata,
    *(sa.Column(name, sa.String) for name in ("kind", "state", "args", "result")),
    *(sa.Column(name, sa.BigInteger) for name in ("task", "number", "begun")),
)
clones = sa.Table(
    "clones",
    _metadata,
    *(sa.Column(name, sa.String) for name in ("uuid", "name", "storage", "owner")),
    sa.Column("created", sa.BigInteger),
)


facts = sa.Table("facts", _metadata, *(sa.Column(name, sa.String) for name in ("name", "value")))
links = sa.Table("links", _metadata, *(sa.Column(name, sa.String) for name in ("parent", "pool", "name")))

forgotten = sa.Table(
    "forgotten",
    _metadata,
    *(sa.Column(name, sa.BigInteger) for name in ("task", "changed", "at")),
    sa.Column("owner", sa.String),
)
request_keys = sa.Table(
    "request_keys",
    _metadata,
    *(sa.Column(name, sa.String) for name in ("owner", "name", "request", "server", "tasks")),
    *(sa.Column(name, sa.BigInteger) for name in ("created", "batch")),
)
holds = sa.Table("holds", _metadata, *(sa.Column(name, sa.String) for name in ("path", "server", "act")))


# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_next = sa.case(
    (counters.c.last >= sa.bindparam("least", type_=sa.BigInteger), counters.c.last + 1),
    else_=sa.bindparam("least", type_=sa.BigInteger),
)
COUNT = (
    sa.update(counters).where(counters.c.name == sa.bindparam("counter")).values(last=_next).returning(counters.c.last)
)
RESERVE: Mapping[str, Any] = {
    "sqlite": sqlite.insert(reservations).on_conflict_do_nothing().returning(reservations.c.name),
    "postgresql": postgresql.insert(reservations).on_conflict_do_nothing().returning(reservations.c.name),
}
IS_RESERVED = sa.select(reservations.c.name).where(
    reservations.c.kind == sa.bindparam("of_kind"),
    reservations.c.scope == sa.bindparam("in_scope"),
    reservations.c.name == sa.bindparam("called"),
)
PROMISED = sa.select(sa.func.coalesce(sa.func.sum(promises.c.bytes), 0)).where(
    promises.c.pool == sa.bindparam("in_pool")
)
UNDER_WAY = sa.select(promises.c.item, promises.c.bytes).where(
    promises.c.pool == sa.bindparam("in_pool"), sa.exists().where(steps.c.task == promises.c.task)
)
RUNNING_OF = sa.select(sa.func.count()).where(tasks.c.owner == sa.bindparam("of_owner"), tasks.c.status == "running")
PROMISED_TO = sa.select(sa.func.coalesce(sa.func.sum(promises.c.bytes), 0)).where(
    promises.c.task == tasks.c.id, tasks.c.owner == sa.bindparam("of_owner"), tasks.c.status == "running"
)
PROMISE = sa.insert(promises)
ADD_TASK = sa.insert(tasks)
ADD_STEP = sa.insert(steps)
ADD_CLONE = sa.insert(clones)
ADD_LINK: Mapping[str, Any] = {
    "sqlite": sqlite.insert(links).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(links).on_conflict_do_nothing(),
}
_CHECKED: Mapping[str, Any] = {"name": "checked", "value": sa.bindparam("value")}
CHECK: Mapping[str, Any] = {
    "sqlite": sqlite.insert(facts).values(_CHECKED).on_conflict_do_update(index_elements=["name"], set_=_CHECKED),
    "postgresql": postgresql.insert(facts)
    .values(_CHECKED)
    .on_conflict_do_update(index_elements=["name"], set_=_CHECKED),
}
_TASK: sa.BindParameter[int] = sa.bindparam("of_task")
OWNER = sa.select(tasks.c.owner).where(tasks.c.id == _TASK)
GO_ON = (
    sa.update(tasks)
    .where(tasks.c.id == _TASK, tasks.c.status == "running", tasks.c.cancelled == 0)
    .values(message=sa.bindparam("says"), changed=sa.bindparam("change"))
)
MARK = (
    sa.update(steps)
    .where(steps.c.task == _TASK, steps.c.number == sa.bindparam("numbered"))
    .values(state=sa.bindparam("became"), result=sa.bindparam("gave"))
)
STEPS = sa.select(steps).where(steps.c.task == _TASK).order_by(steps.c.number)
KEEP_PROMISE = sa.delete(promises).where(promises.c.task == _TASK, promises.c.item == sa.bindparam("of_item"))
KEEP_MACS = (
    sa.update(reservations).where(reservations.c.task == _TASK, reservations.c.domain.is_not(None)).values(task=None)
)
DROP_PROMISES = sa.delete(promises).where(promises.c.task == _TASK)
DROP_STEPS = sa.delete(steps).where(steps.c.task == _TASK)
DROP_RESERVATIONS = sa.delete(reservations).where(reservations.c.task == _TASK)
