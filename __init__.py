"""cloner: clones of libvirt guests and volumes, each whole and each with a name of its own.

The folder that holds this file is the package: `cloner` when installed, `wok.plugins.cloner` inside Wok. Importing it
costs nothing: the application, and CherryPy and libvirt with it, is loaded when `Cloner` is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plugin import Cloner

__all__ = ["Cloner", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Cloner":
        from .plugin import Cloner  # noqa: PLC0415 - lazy, so that importing the package stays free of side effects

        return Cloner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
