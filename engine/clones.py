"""What the journal knows of clones that were finished: guests that we made, and volumes that stand on others."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

import sqlalchemy as sa

from . import statements as sql
from .records import Clone, Link
from .transaction import links_on


class Clones:
    """A part of the journal.

    Args:
        connection: the journal's database (`Journal.connection`).
    """

    def __init__(self, connection: Callable[..., AbstractContextManager[sa.Connection]]) -> None:
        self._connection = connection

    def find(self, uuid: str) -> Clone | None:
        """What is known of a domain that we made."""
        with self._connection(writes=False) as connection:
            row = connection.execute(sa.select(sql.clones).where(sql.clones.c.uuid == uuid)).mappings().first()
        return Clone(**{**row, "storage": json.loads(row["storage"])}) if row else None

    def links(self, paths: Collection[str]) -> list[Link]:
        """Volumes that are overlays on the images at these paths."""
        with self._connection(writes=False) as connection:
            return links_on(connection, paths)

    def links_named(self, names: Collection[str]) -> list[Link]:
        """Overlays of these names, in any pool."""
        with self._connection(writes=False) as connection:
            found = connection.execute(sa.select(sql.links).where(sql.links.c.name.in_(names))).mappings()
            return [Link(**row) for row in found]

    def servers(self) -> dict[str, str]:
        """The server that made it ('' where that is not known), by the UUID of each domain that we made.

        Also of those that MACs are kept for; of none that is being made.
        """
        kept = sa.select(sql.reservations.c.domain).where(
            sql.reservations.c.domain.is_not(None), sql.reservations.c.task.is_(None)
        )
        with self._connection(writes=False) as connection:
            others = dict.fromkeys(connection.execute(kept).scalars(), "")
            made = connection.execute(sa.select(sql.clones.c.uuid, sql.clones.c.server)).all()
        return others | {row.uuid: row.server for row in made}

    def unlink(self, links: Collection[Link]) -> None:
        """Forgets overlays that are gone, and none that was made by the name of one since."""
        if not links:
            return
        with self._connection(writes=True) as connection:
            for link in links:
                here = (sql.links.c.parent == link.parent, sql.links.c.pool == link.pool, sql.links.c.name == link.name)
                connection.execute(sa.delete(sql.links).where(*here, sql.links.c.task == link.task))

    def forget(self, uuid: str) -> None:
        """Forgets a clone that is there no more, and frees its MACs."""
        with self._connection(writes=True) as connection:
            connection.execute(sa.delete(sql.clones).where(sql.clones.c.uuid == uuid))
            connection.execute(
                sa.delete(sql.reservations).where(sql.reservations.c.domain == uuid, sql.reservations.c.task.is_(None))
            )
