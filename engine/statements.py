"""The journal's tables as SQLAlchemy knows them, and the statements that each clone takes."""

from __future__ import annotations

import sqlalchemy as sa

from .prepared import Prepared

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
    *(sa.Column(name, sa.String) for name in ("owner", "request")),
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
    *(sa.Column(name, sa.BigInteger) for name in ("task", "bytes", "device")),
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
    *(sa.Column(name, sa.String) for name in ("uuid", "name", "storage", "owner", "server")),
    sa.Column("created", sa.BigInteger),
)


facts = sa.Table("facts", _metadata, *(sa.Column(name, sa.String) for name in ("name", "value")))
links = sa.Table(
    "links",
    _metadata,
    *(sa.Column(name, sa.String) for name in ("parent", "pool", "name", "server", "path")),
    sa.Column("task", sa.BigInteger),
)

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
deletions = sa.Table("deletions", _metadata, *(sa.Column(name, sa.String) for name in ("uuid", "what")))
withdrawals = sa.Table("withdrawals", _metadata, sa.Column("batch", sa.BigInteger), sa.Column("server", sa.String))
holds = sa.Table("holds", _metadata, *(sa.Column(name, sa.String) for name in ("path", "server", "act")))


_next = sa.case(
    (counters.c.last >= sa.bindparam("least", type_=sa.BigInteger), counters.c.last + 1),
    else_=sa.bindparam("least", type_=sa.BigInteger),
)
COUNT = Prepared(
    sa.update(counters).where(counters.c.name == sa.bindparam("counter")).values(last=_next).returning(counters.c.last)
)
CLAIM = Prepared(
    sa.update(counters)
    .where(counters.c.name == "stamp", counters.c.last < sa.bindparam("first", type_=sa.BigInteger))
    .values(last=sa.bindparam("upto", type_=sa.BigInteger))
)
# As text, which both databases take: SQLAlchemy's own words for it are another 2 MB of modules for each.
RESERVE = Prepared(
    sa.text(
        "INSERT INTO reservations (kind, scope, name, domain, task) VALUES (:kind, :scope, :name, :domain, :task)"
        " ON CONFLICT DO NOTHING"
    )
)
IS_RESERVED = Prepared(
    sa.select(reservations.c.name).where(
        reservations.c.kind == sa.bindparam("of_kind"),
        reservations.c.scope == sa.bindparam("in_scope"),
        reservations.c.name == sa.bindparam("called"),
    )
)
# A pool by its name, for what has no device; no row has one that equals NULL.
_THERE = sa.or_(
    promises.c.pool == sa.bindparam("in_pool"), promises.c.device == sa.bindparam("on_device", type_=sa.BigInteger)
)
PROMISED = Prepared(sa.select(sa.func.coalesce(sa.func.sum(promises.c.bytes), 0)).where(_THERE))
UNDER_WAY = Prepared(
    sa.select(promises.c.pool, promises.c.item, promises.c.bytes).where(
        _THERE, sa.exists().where(steps.c.task == promises.c.task)
    )
)
HELD_AT = Prepared(sa.select(holds.c.path, holds.c.server, holds.c.act).where(holds.c.path == sa.bindparam("at")))
RUNNING_OF = Prepared(
    sa.select(sa.func.count()).where(tasks.c.owner == sa.bindparam("of_owner"), tasks.c.status == "running")
)
PROMISED_TO = Prepared(
    sa.select(sa.func.coalesce(sa.func.sum(promises.c.bytes), 0)).where(
        promises.c.task == tasks.c.id, tasks.c.owner == sa.bindparam("of_owner"), tasks.c.status == "running"
    )
)
PROMISE = Prepared(sa.insert(promises))
ADD_TASK = Prepared(sa.insert(tasks))
ADD_STEP = Prepared(sa.insert(steps))
ADD_CLONE = Prepared(sa.insert(clones))
ADD_LINK = Prepared(
    sa.text(
        "INSERT INTO links (parent, pool, name, server, path, task)"
        " VALUES (:parent, :pool, :name, :server, :path, :task)"
        " ON CONFLICT DO NOTHING"
    )
)
# It counts: a value that is what it was is not written.
CHECK = sa.text(
    "INSERT INTO facts (name, value) VALUES ('checked', '1')"
    " ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(facts.value AS BIGINT) + 1 AS TEXT)"
)
_TASK: sa.BindParameter[int] = sa.bindparam("of_task")
TASK = Prepared(sa.select(tasks).where(tasks.c.id == _TASK))
REPORT = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == _TASK, tasks.c.status == "running")
    .values(done=sa.bindparam("was_done"), changed=sa.bindparam("change"))
)
MAKER = Prepared(sa.select(tasks.c.owner, tasks.c.server).where(tasks.c.id == _TASK))
GO_ON = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == _TASK, tasks.c.status == "running", tasks.c.cancelled == 0)
    .values(message=sa.bindparam("says"), changed=sa.bindparam("change"))
)
END = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == _TASK, tasks.c.cancelled <= sa.bindparam("most_cancelled"))
    .values(
        status=sa.bindparam("became"),
        message=sa.bindparam("says"),
        warning=sa.bindparam("warns"),
        ended=sa.bindparam("at"),
        changed=sa.bindparam("change"),
        done=sa.func.coalesce(sa.bindparam("was_done", type_=sa.String), tasks.c.done),
    )
)
MARK = Prepared(
    sa.update(steps)
    .where(steps.c.task == _TASK, steps.c.number == sa.bindparam("numbered"))
    .values(state=sa.bindparam("became"), result=sa.bindparam("gave"))
)
STEPS = sa.select(steps).where(steps.c.task == _TASK).order_by(steps.c.number)
KEEP_PROMISE = Prepared(sa.delete(promises).where(promises.c.task == _TASK, promises.c.item == sa.bindparam("of_item")))
KEEP_MACS = Prepared(
    sa.update(reservations)
    .where(reservations.c.task == _TASK, reservations.c.domain.is_not(None))
    .values(task=sa.null())
)
DROP_PROMISES = Prepared(sa.delete(promises).where(promises.c.task == _TASK))
DROP_STEPS = Prepared(sa.delete(steps).where(steps.c.task == _TASK))
DROP_RESERVATIONS = Prepared(sa.delete(reservations).where(reservations.c.task == _TASK))
