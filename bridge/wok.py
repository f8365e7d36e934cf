"""What we use of Wok 3.0: where it keeps the plugin's configuration, its exceptions and its queue of tasks.

Its modules are asked for by name, and only where this is one of its plugins.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import errors
from ..engine.domainxml import PAM
from ..settings import DEFAULT_FILE

_OURS, _, _ = __package__.rpartition(".")

NAME = _OURS.removeprefix("wok.plugins.") if _OURS.startswith("wok.plugins.") else ""
"""The plugin's, which is that of its folder; empty where this is no plugin."""

_ANSWERED = frozenset({400, 401, 403, 404, 405, 406, 415, 500})
"""What Wok's roots answer in JSON (src/wok/root.py). Of others CherryPy makes a page that tells Kimchi's no reason."""


def module(name: str) -> Any:
    """One of Wok's modules. Raises ImportError."""
    return import_module(f"wok.{name}")


def conf_file() -> Path:
    """The cloner.conf that Wok reads (src/wok/config.py.in, PluginPaths): of an installed one it lies in /etc."""
    paths = getattr(module("config"), "PluginPaths", None) if NAME else None
    file = Path(paths(NAME).conf_file) if paths else DEFAULT_FILE
    return file if file.is_file() else DEFAULT_FILE


def log_in() -> str:
    """The kind of log-in that Wok has (src/wok.conf.in, authentication), by which Kimchi's metadata know its users."""
    return str(module("config").config.get("authentication", "method")) if NAME else PAM


def plain(value: object) -> str:
    """As that of errors, for Wok's activity log: its page puts messages into an attribute (ui/js/wok.bootgrid.js)."""
    return errors.plain(value).replace('"', "”")


def exception(error: errors.ClonerError, name: str = "") -> Exception:
    """An error of ours as Wok's controllers answer and log it (src/wok/exception.py).

    Args:
        name: of what the request is about. Of codes that are Kimchi's too its activity log has Kimchi's own text, which
            wants the name where ours may say something else.
    """
    base: Any = module("exception").WokException
    said = {"name": name} | error.data
    if isinstance(error, errors.PoolNotFound):
        said["name"] = error.data["pool"]

    class Refused(base):  # type: ignore[misc]  # known only where Wok is
        def __init__(self) -> None:
            Exception.__init__(self, error.reason)  # Wok would look the text up, and has none
            self.code = error.code
            self.params = {name: plain(value) for name, value in said.items()}
            self.httpStatusCode = _for_wok(error.status)

        def getHttpStatusCode(self) -> int:
            return self.httpStatusCode

    return Refused()


def _for_wok(status: int) -> int:
    if status in _ANSWERED:
        return status
    is_ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return (HTTPStatus.INTERNAL_SERVER_ERROR if is_ours else HTTPStatus.BAD_REQUEST).value
