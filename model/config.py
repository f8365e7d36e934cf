"""What this plugin is, for consumers that must know."""

from __future__ import annotations

from typing import Any

from .. import __version__

EXTENSIONS = (
    "clone-name",
    "clone-pool",
    "clone-method",
    "clone-flatten",
    "clone-start",
    "clone-title",
    "clone-description",
    "clone-bandwidth",
    "clone-count",
    "clone-dry-run",
    "idempotency-key",
    "clone-drop-hostdevs",
    "vm-disks",
    "vm-start",
    "delete-storage",
    "task-progress",
    "task-disks",
    "task-cancel",
    "task-wait",
    "batches",
    "events",
    "events-guests",
    "pages",
    "filters-re2",
    "problem-json",
)
"""What we add to Kimchi's API, by names that a consumer can look for; docs/API.md says what each stands for."""


class ConfigModel:
    def lookup(self) -> dict[str, Any]:
        return {"version": __version__, "extensions": list(EXTENSIONS)}
