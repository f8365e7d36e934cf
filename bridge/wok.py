"""What we use of Wok 3.0: where it keeps the plugin's configuration, its exceptions and its queue of tasks.

Its modules are asked for by name, and only where this is one of its plugins.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from .. import errors
from ..settings import DEFAULT_FILE

_OURS, _, _ = __package__.rpartition(".")

NAME = _OURS.removeprefix("wok.plugins.") if _OURS.startswith("wok.plugins.") else ""
"""The plugin's, which is that of its folder; empty where this is no plugin."""


def module(name: str) -> Any:
    """One of Wok's modules. Raises ImportError."""
    return import_module(f"wok.{name}")


def conf_file() -> Path:
    """The cloner.conf that Wok reads (src/wok/config.py.in, PluginPaths): of an installed one it lies in /etc."""
    paths = getattr(module("config"), "PluginPaths", None) if NAME else None
    file = Path(paths(NAME).conf_file) if paths else DEFAULT_FILE
    return file if file.is_file() else DEFAULT_FILE


def exception(error: errors.ClonerError) -> Exception:
    """An error of ours as Wok's controllers answer and log it (src/wok/exception.py)."""
    base: Any = module("exception").WokException

    class Refused(base):  # type: ignore[misc]  # known only where Wok is
        def __init__(self) -> None:
            Exception.__init__(self, error.reason)  # Wok would look the text up, and has none
            self.code = error.code
            self.params = {name: errors.plain(value) for name, value in error.data.items()}
            self.httpStatusCode = error.status

        def getHttpStatusCode(self) -> int:
            return error.status

    return Refused()
