"""The audit log: one line for each thing that somebody did, or was refused: who, from where, what, on what, outcome.

The logger is called `cloner.audit` wherever the plugin runs. Who and from where is known from the context.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import context, errors

log = logging.getLogger("cloner.audit")

DONE, ACCEPTED = "done", "accepted"

_MOST_OF_A_TARGET = 500


def record(action: str, target: str, outcome: str, **more: Any) -> None:
    """Writes a line. `outcome` is `done`, `accepted` or an error's code; `more` is added, or corrects `user`."""
    present = context.current()
    who = {"user": present.user, "address": present.address}
    target = target[:_MOST_OF_A_TARGET]
    fields = {**who, "action": action, "target": target, "outcome": outcome, **more}
    log.info("%s %s: %s", action, target, outcome, extra={"fields": fields})


@contextmanager
def action(name: str, target: str) -> Iterator[dict[str, Any]]:
    """Writes a line about what the block does, at its end, however it ends. What the block adds to it is added."""
    line: dict[str, Any] = {"action": name, "target": target, "outcome": DONE}
    try:
        yield line
    except errors.ClonerError as error:
        line["outcome"] = error.code
        raise
    except BaseException:
        line["outcome"] = errors.ClonerError.code
        raise
    finally:
        record(**line)
