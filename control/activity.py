"""Who else is told of what was done, or refused, over HTTP: inside Wok its activity log (bridge/activity.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .. import errors

Listener = Callable[[str, str, int, errors.ClonerError | None], None]
"""Is told the action, the target, the status of the answer, and the error where it is one."""

listeners: list[Listener] = []


@dataclass
class Outcome:
    """Becomes known within the block."""

    status: int = 200


@contextmanager
def action(name: str, target: str) -> Iterator[Outcome]:
    """Tells of what the block does, at its end, however it ends."""
    outcome, error = Outcome(), None
    try:
        yield outcome
    except errors.ClonerError as caught:
        outcome.status, error = caught.status, caught
        raise
    except BaseException:
        outcome.status = errors.ClonerError.status
        raise
    finally:
        for tell in listeners:
            tell(name, target, outcome.status, error)
