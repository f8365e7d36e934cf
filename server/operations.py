"""What the routes beside the plugin answer and refuse, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping

from .. import errors
from ..control.operations import HTML, OPEN_METRICS, TEXT, Operation, Reply

_NOBODY = (errors.WrongCredentials, errors.NotLoggedIn)

OPERATIONS: Mapping[str, Operation] = {
    "POST login": Operation(
        {200: Reply(("person",))},
        (*_NOBODY, errors.TooManyAttempts, errors.LoginUnavailable, errors.JournalUnavailable),
        "Log in",
    ),
    "POST logout": Operation({200: Reply(("logged_out",))}, summary="Log out"),
    "GET livez": Operation({200: Reply(("alive",))}, (errors.ShuttingDown,), "See whether the server serves"),
    "GET readyz": Operation(
        {200: Reply(("ready",))},
        (errors.ShuttingDown, errors.NotReady),
        "See whether the server can clone",
        refused_as="not_ready",
    ),
    "GET metrics": Operation(
        {200: Reply(("metrics",), media=(TEXT, OPEN_METRICS))},
        (errors.ResourceNotFound,),
        "Get what was counted, for Prometheus",
    ),
    "GET docs": Operation({200: Reply(("page",), media=(HTML,))}, summary="Read this document as a page"),
}
"""By method and path of the route."""
