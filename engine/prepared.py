"""Statements that every clone takes many of: SQLAlchemy writes the SQL, once, and the driver runs it.

From a statement to the driver SQLAlchemy itself takes ten times as long as SQLite takes to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Text:
    """A statement as the driver of a database takes it."""

    sql: str
    names: Sequence[str]
    """Of its values; in their order, where that counts."""

    is_ordered: bool
    """Whether the driver takes values in order rather than by name."""

    fixed: Mapping[str, Any]
    """Values that are part of the statement."""

    def parameters(self, values: Mapping[str, Any]) -> Any:
        """Values as the driver takes them. Raises KeyError for one that is missing."""
        given = {**self.fixed, **values}
        return [given[name] for name in self.names] if self.is_ordered else {name: given[name] for name in self.names}


def _by_name(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


class Prepared:
    """A statement for every database that the journal may lie in. It runs within a transaction that has begun.

    Each call raises the errors that SQLAlchemy would raise.
    """

    def __init__(self, statement: sa.ClauseElement) -> None:
        self._statement = statement
        self._texts: dict[str, _Text] = {}

    def run(self, connection: sa.Connection, **values: Any) -> int:
        """How many rows it has changed."""
        return self._execute(connection, values, lambda cursor: int(cursor.rowcount))

    def rows(self, connection: sa.Connection, **values: Any) -> list[tuple[Any, ...]]:
        """The rows that it gives."""
        return self._execute(connection, values, lambda cursor: list(cursor.fetchall()))

    def mappings(self, connection: sa.Connection, **values: Any) -> list[dict[str, Any]]:
        """The rows that it gives, by the names of their columns. It may begin the transaction."""
        if not connection.in_transaction():
            connection.begin()
        return self._execute(connection, values, _by_name)

    def value(self, connection: sa.Connection, **values: Any) -> Any:
        """What stands in the first column of the only row that it gives."""
        ((found, *_),) = self.rows(connection, **values)
        return found

    def _execute(self, connection: sa.Connection, values: Mapping[str, Any], answer: Callable[[Any], Answer]) -> Answer:
        text = self._texts.get(connection.dialect.name) or self._compile(connection.dialect)
        parameters = text.parameters(values)
        base: Any = connection.dialect.dbapi
        driver: Any = connection.connection.dbapi_connection
        try:
            with closing(driver.cursor()) as cursor:
                cursor.execute(text.sql, parameters)
                return answer(cursor)
        except base.Error as error:
            dialect = connection.dialect
            raise sa.exc.DBAPIError.instance(text.sql, parameters, error, base.Error, dialect=dialect) from error

    def _compile(self, dialect: sa.Dialect) -> _Text:
        compiled = self._statement.compile(dialect=dialect)
        if not isinstance(compiled, sa.sql.compiler.SQLCompiler):
            raise TypeError(f"{compiled} is no statement that takes values")
        names = compiled.positiontup or list(compiled.binds)
        fixed = {name: bind.value for name, bind in compiled.binds.items() if bind.value is not None}
        text = _Text(str(compiled), names, compiled.positional, fixed)
        self._texts[dialect.name] = text
        return text
