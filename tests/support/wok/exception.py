"""What its models raise: src/wok/exception.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from support.wok.message import message


class WokException(Exception):
    """src/wok/exception.py, WokException: the text is looked up when it is raised."""

    status = 500

    def __init__(self, code: str = "", args: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.params = dict(args or {})
        super().__init__(message(code, self.params))

    def getHttpStatusCode(self) -> int:
        """The status of the answer."""
        return self.status


class NotFoundError(WokException):
    status = 404


class UnauthorizedError(WokException):
    status = 403


class InvalidParameter(WokException):
    status = 400


class InvalidOperation(WokException):
    status = 400
