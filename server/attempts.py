"""Guessing passwords takes longer with every guess."""

from __future__ import annotations

import threading
import time

from .. import errors

_FREE_ATTEMPTS = 3
_FIRST_DELAY_S = 30
_LONGEST_DELAY_S = 3600
_MOST_REMEMBERED = 10_000
_LONGEST_REMEMBERED = 64


class Attempts:
    """Counts wrong log-ins per user and address: after three, each must wait, 30 s at first and then twice as long."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._lock = threading.Lock()

    def check(self, user: str, address: str) -> None:
        """Raises TooManyAttempts while waiting is due."""
        self._check(_shortened(user, address))

    def _check(self, key: tuple[str, str]) -> None:
        count, since = self._failures.get(key, (0, 0.0))
        left = since + self._delay(count) - time.monotonic()
        if left > 0:
            raise errors.TooManyAttempts(int(left) + 1)

    def failed(self, user: str, address: str) -> None:
        """Raises TooManyAttempts, and so does `succeeded`, when waiting has become due since the log-in was checked.

        Else who guesses many at once would learn of them all.
        """
        key = _shortened(user, address)
        with self._lock:
            self._check(key)
            count, _ = self._failures.pop(key, (0, 0.0))
            self._failures[key] = (count + 1, time.monotonic())
            while len(self._failures) > _MOST_REMEMBERED:
                del self._failures[next(iter(self._failures))]

    def succeeded(self, user: str, address: str) -> None:
        key = _shortened(user, address)
        with self._lock:
            self._check(key)
            self._failures.pop(key, None)

    @staticmethod
    def _delay(count: int) -> float:
        over = count - _FREE_ATTEMPTS
        return 0.0 if over < 0 else min(_FIRST_DELAY_S * 2.0 ** min(over, 10), _LONGEST_DELAY_S)


def _shortened(user: str, address: str) -> tuple[str, str]:
    """What a log-in is remembered by; a user name from outside can be of any length, and in any case."""
    return user.casefold()[:_LONGEST_REMEMBERED], address
