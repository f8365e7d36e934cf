"""What this plugin is, for consumers that must know."""

from __future__ import annotations

from typing import Any

from .. import __version__

EXTENSIONS = ("clone-name", "clone-pool", "task-cancel", "problem-json")
"""What we add to Kimchi's API, by names that a consumer can look for."""


class ConfigModel:
    def lookup(self) -> dict[str, Any]:
        return {"version": __version__, "extensions": list(EXTENSIONS)}
