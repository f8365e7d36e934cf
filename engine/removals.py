"""What is being removed, as the journal has it: lest a server that dies leave it. Guests, and batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa

from . import statements as sql


class Removals:
    """A part of the journal.

    Args:
        connection: the journal's database (`Journal.connection`).
    """

    def __init__(self, connection: Callable[..., AbstractContextManager[sa.Connection]]) -> None:
        self._connection = connection

    def begin_withdrawal(self, batch: int, server: str) -> None:
        """Writes down that a server undoes a batch."""
        with self._connection(writes=True) as connection:
            connection.execute(sa.delete(sql.withdrawals).where(sql.withdrawals.c.batch == batch))
            connection.execute(sa.insert(sql.withdrawals).values(batch=batch, server=server))

    def adopt_withdrawal(self, batch: int, of: str, by: str) -> bool:
        """Makes the undoing of a batch another server's. False if it has ended, or somebody else was faster."""
        here = (sql.withdrawals.c.batch == batch, sql.withdrawals.c.server == of)
        with self._connection(writes=True) as connection:
            return connection.execute(sa.update(sql.withdrawals).where(*here).values(server=by)).rowcount == 1

    def end_withdrawal(self, batch: int) -> None:
        with self._connection(writes=True) as connection:
            connection.execute(sa.delete(sql.withdrawals).where(sql.withdrawals.c.batch == batch))

    def withdrawals(self) -> dict[int, str]:
        """The server that undoes it, by batch: also what servers began that died."""
        with self._connection(writes=False) as connection:
            return {row.batch: row.server for row in connection.execute(sa.select(sql.withdrawals))}

    def begin_deletion(self, uuid: str, what: Mapping[str, Any]) -> None:
        """Writes down what is going to be removed with a domain."""
        with self._connection(writes=True) as connection:
            connection.execute(sa.delete(sql.deletions).where(sql.deletions.c.uuid == uuid))
            connection.execute(sa.insert(sql.deletions).values(uuid=uuid, what=json.dumps(what)))

    def adopt_deletion(self, uuid: str, of: str, by: str) -> bool:
        """Makes a deletion of one server another's. False if it has ended, or somebody else was faster."""
        here = sql.deletions.c.uuid == uuid
        with self._connection(writes=True) as connection:
            found = connection.execute(sa.select(sql.deletions.c.what).where(here)).scalar()
            what = {} if found is None else json.loads(found)
            if what.get("server") != of:
                return False
            adopted = json.dumps(what | {"server": by})
            connection.execute(sa.update(sql.deletions).where(here).values(what=adopted))
        return True

    def end_deletion(self, uuid: str) -> None:
        with self._connection(writes=True) as connection:
            connection.execute(sa.delete(sql.deletions).where(sql.deletions.c.uuid == uuid))

    def deletions(self) -> dict[str, dict[str, Any]]:
        """What is being removed, by its domain's UUID: also what servers began that died."""
        with self._connection(writes=False) as connection:
            return {row.uuid: json.loads(row.what) for row in connection.execute(sa.select(sql.deletions))}
