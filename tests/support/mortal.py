"""A server that dies, or waits, at one of the points of support/crashing.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from support.running import wait_until
from support.server import Server

TESTS = Path(__file__).resolve().parents[1]


class MortalServer(Server):
    """It dies at the point `deadly`, 0 for none; one that `pauses` waits there instead, until `pause` is removed.

    Its clock is `ahead_s` ahead of that of the files.
    """

    def __init__(
        self,
        uri: str | None,
        state_dir: Path,
        deadly: int,
        *,
        args: Sequence[str] = (),
        pauses: bool = False,
        ahead_s: int = 0,
        prefix: Sequence[str] = (),
    ) -> None:
        self.points = state_dir.parent / f"points-{deadly}"
        self.pause = state_dir.parent / "pause"
        env = {"PYTHONPATH": str(TESTS), "CLONER_POINTS": str(self.points)}
        env |= {"CLONER_AHEAD": str(ahead_s)}
        env |= {"CLONER_PAUSE": str(self.pause)} if pauses else {}
        super().__init__(uri, state_dir, args=args, env=env, prefix=prefix)
        place = self._argv.index("cloner")
        self._argv[place : place + 1] = ["support.crashing", str(deadly)]

    def died(self) -> bool:
        return not self.running

    def clone_and_die(self, path: str, body: dict[str, Any]) -> None:
        """Asks for a clone, which ends this server."""
        with suppress(OSError, HTTPException):  # it may be dead before it has answered
            self.request("POST", f"{path}/clone", body)
        wait_until(self.died, 30, "it dies", lambda: self.log)

    def points_of(self, path: str, body: dict[str, Any]) -> list[str]:
        """The points that a clone comes to."""
        before = len(self.points.read_text("utf-8").splitlines()) if self.points.exists() else 0
        task = self.wait_task(self.request("POST", f"{path}/clone", body).json["id"])
        assert task["status"] == "finished", task
        return self.points.read_text("utf-8").splitlines()[before:]


def journal_is_clean(state_dir: Path) -> bool:
    with closing(sqlite3.connect(state_dir / "journal.sqlite")) as journal:
        held = "SELECT count(*) FROM reservations WHERE task IS NOT NULL"
        tables = [held, "SELECT count(*) FROM promises", "SELECT count(*) FROM steps"]
        return all(journal.execute(table).fetchone()[0] == 0 for table in tables)
