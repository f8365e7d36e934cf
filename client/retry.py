"""How long a request is repeated that had no answer, or was told to come back later."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Patience:
    """Waits between the attempts at one request: as long as the server asks for, or else longer each time.

    `seconds` is how long all attempts together may take. What is waited is up to a fifth more than what was asked for,
    so that clients that were sent away together do not come back together.
    """

    def __init__(
        self,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._sleep, self._chance = clock, sleep, chance
        self._end = clock() + seconds
        self._own_pause = _FIRST_PAUSE_S

    @property
    def left(self) -> float:
        """Seconds until there is none left, 0 or more."""
        return max(0.0, self._end - self._clock())

    def wait(self, asked: float | None = None) -> bool:
        """Waits for the next attempt; at once False if it would come too late. `asked` is Retry-After, in seconds."""
        pause = (self._own_pause if asked is None else asked) * (1 + self._chance() / 5)
        if pause >= self.left:
            return False
        self._own_pause = min(2 * self._own_pause, _LONGEST_PAUSE_S)
        self._sleep(pause)
        return True


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in seconds from now: RFC 9110 (10.2.3) has a number or a date there. None if it is neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
