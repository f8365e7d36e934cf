"""The token that a server begins with: of its environment, or of a file that is made at the first start."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from .. import errors

_TOKEN_BYTES = 32


def load_token(folder: Path) -> str:
    """The token of CLONER_TOKEN, or the state directory's, made at the first start for its owner's eyes only."""
    given = os.environ.get("CLONER_TOKEN", "").strip()
    if given:
        return given
    path = folder / "token"
    if not path.exists():
        _make_token(path)
    token = path.read_text("utf-8", "replace").strip()
    if not token:
        raise errors.InvalidConfiguration(cause=f"{path} is empty; delete it to get a new token")
    return token


def _make_token(path: Path) -> None:
    """Makes the file appear with its content, so that a server that starts at the same moment reads the same token."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".token-", encoding="ascii") as file:  # of mode 0600
        file.write(secrets.token_urlsafe(_TOKEN_BYTES) + "\n")
        file.flush()
        with suppress(FileExistsError):
            os.link(file.name, path)
