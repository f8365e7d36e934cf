"""How a command of the client can end, and with which exit status."""

from __future__ import annotations

from typing import ClassVar

DONE, NOT_CLONED, MISUSED, REFUSED, NO_ROOM, NO_ANSWER = range(6)
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

EXIT_STATUS = {
    DONE: "done",
    NOT_CLONED: "a clone failed, was cancelled or could not be started, or it was too late to cancel",
    MISUSED: "the command, the environment or a certificate must be changed",
    REFUSED: "the server refuses, for the reason that is printed",
    NO_ROOM: "there is no room, or a limit is reached",
    NO_ANSWER: "the server does not answer, or it fails",
    INTERRUPTED: "interrupted",
}
"""For the client's commands."""


class ClientError(Exception):
    """What went wrong, in words for whoever typed the command."""

    exit_status: ClassVar[int] = MISUSED


class Misused(ClientError):
    """The command, the environment or a certificate must be changed before this can work."""


class Refused(ClientError):
    """The server answered no (4xx)."""

    exit_status = REFUSED

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class NoRoom(Refused):
    """There is no room, or a limit is reached (507, 429)."""

    exit_status = NO_ROOM


class NoAnswer(ClientError):
    """The server does not answer, or not sensibly (5xx). `is_unsent`: no byte of the request has left."""

    exit_status = NO_ANSWER

    def __init__(self, reason: str, *, is_unsent: bool = False) -> None:
        super().__init__(reason)
        self.is_unsent = is_unsent
