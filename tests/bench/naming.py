"""A process that takes names from a journal, as a server does that accepts clones: naming.py URL.

For each line of input, [threads, count], it answers with when it began and ended and with all names.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor

from cloner.engine.journal import Journal
from cloner.engine.transaction import Transaction
from cloner.utils import get_next_clone_name


class _Reserved(Container[str]):
    """The names of domains that somebody has."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def __contains__(self, name: object) -> bool:
        return self._transaction.is_reserved("domain", "", str(name))


def take(journal: Journal) -> str:
    """A name that is reserved."""
    with journal.transaction() as transaction:
        name = get_next_clone_name(_Reserved(transaction), "web", ts=True, clock=transaction)
        task = transaction.new_task_id()
        transaction.reserve("domain", "", name, task=task)
        transaction.add_task(task, "domain", f"/vms/{name}/clone", "server", {})
    return name


def take_many(journal: Journal, threads: int, count: int) -> tuple[float, float, list[str]]:
    barrier = threading.Barrier(threads + 1)

    def run(share: int) -> list[str]:
        barrier.wait()
        return [take(journal) for _ in range(share)]

    with ThreadPoolExecutor(threads) as pool:
        shares = [len(range(number, count, threads)) for number in range(threads)]
        taking = [pool.submit(run, share) for share in shares]
        begun = time.time()
        barrier.wait()
        names = [name for future in taking for name in future.result()]
        return begun, time.time(), names


def main(url: str) -> None:
    journal = Journal(url)
    take(journal)  # so that what is loaded at the first is there
    print(json.dumps([0, 0, []]), flush=True)
    for line in sys.stdin:
        print(json.dumps(take_many(journal, *json.loads(line))), flush=True)
    journal.close()


if __name__ == "__main__":
    main(sys.argv[1])
