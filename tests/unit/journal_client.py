"""A server's part in giving out names, as a process of its own: journal_client.py URL CLOCK THREADS COUNT.

It says that it is ready, waits for a line, opens the journal with a clock that stands still, and lets its threads
accept COUNT clones each; every name is printed, with the number of its task and its thread, once it is given out.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

from cloner.engine.journal import Journal
from cloner.engine.transaction import Transaction
from cloner.utils import get_next_clone_name


class Reserved(Container[str]):
    """The names of domains that somebody has."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __contains__(self, name: object) -> bool:
        return self._transaction.is_reserved("domain", "", str(name))


def accept(journal: Journal) -> tuple[int, str]:
    """A task's number and its name. The number is a counter of its own: the order in which transactions took place."""
    with journal.transaction() as transaction:
        name = get_next_clone_name(Reserved(transaction), "web", ts=True, clock=transaction)
        task = transaction.new_task_id()
        assert transaction.reserve("domain", "", name, task=task)
        transaction.add_task(task, "domain", f"/vms/{name}/clone", "server", {})
    return task, name


def main(url: str, clock: int, threads: int, count: int) -> None:
    say(["ready"])
    sys.stdin.readline()
    journal = Journal(url, clock=lambda: clock)
    barrier = threading.Barrier(threads)

    def run(thread: int) -> None:
        barrier.wait()
        for _ in range(count):
            say([thread, *accept(journal)])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads)))
    journal.close()


def say(line: object) -> None:
    """Prints a line whole, though other threads print too, and though this process may be killed next."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
