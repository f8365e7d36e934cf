"""Statements that go to the driver as SQLAlchemy wrote them once: the same effect, the same errors."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cloner.engine import statements
from cloner.engine.prepared import Prepared

THINGS = sa.Table(
    "things", sa.MetaData(), sa.Column("name", sa.String, primary_key=True), sa.Column("size", sa.Integer)
)
ADD = Prepared(sa.insert(THINGS))
SMALL = Prepared(sa.select(THINGS.c.name, THINGS.c.size).where(THINGS.c.size < sa.bindparam("most")))
NAMED = Prepared(sa.select(THINGS.c.size).where(THINGS.c.name == sa.bindparam("called")))
GROW = Prepared(sa.update(THINGS).where(THINGS.c.size == 1).values(size=sa.bindparam("becomes")))


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        THINGS.create(connection)
        yield connection
    engine.dispose()


def test_rows_values_and_counts_are_what_the_statement_gives(connection: sa.Connection) -> None:
    assert [ADD.run(connection, name=name, size=size) for name, size in (("a", 1), ("b", 1), ("c", 9))] == [1, 1, 1]
    assert SMALL.rows(connection, most=5) == [("a", 1), ("b", 1)]
    assert SMALL.rows(connection, most=0) == []
    assert NAMED.value(connection, called="c") == 9
    assert GROW.run(connection, becomes=7) == 2
    assert connection.execute(sa.select(THINGS.c.size)).scalars().all() == [7, 7, 9]


def test_it_is_written_once(connection: sa.Connection) -> None:
    statement = sa.select(THINGS.c.name)
    prepared = Prepared(statement)
    with mock.patch.object(type(statement), "compile", autospec=True, side_effect=type(statement).compile) as written:
        for _ in range(3):
            prepared.rows(connection)
    assert written.call_count == 1


def test_it_is_undone_with_the_transaction() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    with engine.begin() as connection:
        THINGS.create(connection)
    with engine.connect() as connection:
        connection.begin()
        ADD.run(connection, name="a", size=1)
        connection.rollback()
        assert SMALL.rows(connection, most=5) == []
    engine.dispose()


def test_errors_are_those_of_sqlalchemy(connection: sa.Connection) -> None:
    ADD.run(connection, name="a", size=1)
    with pytest.raises(sa.exc.IntegrityError, match="UNIQUE"):
        ADD.run(connection, name="a", size=1)
    THINGS.drop(connection)
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        SMALL.rows(connection, most=5)


def test_a_value_that_is_missing_is_not_null(connection: sa.Connection) -> None:
    with pytest.raises(KeyError, match="size"):
        ADD.run(connection, name="a")


@pytest.mark.parametrize("dialect", [sqlite.dialect, postgresql.dialect], ids=["sqlite", "postgresql"])
def test_every_statement_of_the_journal_can_be_written_for_every_database(dialect: type[sa.Dialect]) -> None:
    prepared = [value for value in vars(statements).values() if isinstance(value, Prepared)]
    texts = [each._compile(dialect()).sql for each in prepared]
    assert all(text.split()[0] in ("DELETE", "INSERT", "SELECT", "UPDATE") for text in texts)
    assert len(texts) > 10
