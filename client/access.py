"""Which server is asked, with which token and for how long: of the options, or else of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

from .failures import Misused

DEFAULT_URL = "http://127.0.0.1:8010"
DEFAULT_TIMEOUT = 60.0
_LONGEST_TOKEN = 4096


@dataclass(frozen=True)
class Access:
    """`url` is the server's, with or without the mount point; `timeout` is in seconds."""

    url: SplitResult
    token: str = ""
    cacert: Path | None = None
    timeout: float = DEFAULT_TIMEOUT

    @property
    def address(self) -> str:
        """What messages call the server."""
        return f"{self.url.scheme}://{self.url.netloc}{self.url.path}"


def read_access(
    environment: Mapping[str, str],
    *,
    url: str | None = None,
    token_file: Path | None = None,
    cacert: Path | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Access:
    """The options come first; CLONER_URL and CLONER_TOKEN of the environment count where they are left out.

    Raises Misused.
    """
    token = _read_token(token_file) if token_file else environment.get("CLONER_TOKEN", "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Misused("the token has characters that none has")  # they would end the header that it is sent in
    return Access(_checked(url or environment.get("CLONER_URL") or DEFAULT_URL), token, cacert, timeout)


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(_LONGEST_TOKEN).decode("ascii", "replace").strip()
    except OSError as error:
        raise Misused(f"the token cannot be read: {path}: {error.strerror}") from error
    if not token:
        raise Misused(f"there is no token in {path}")
    return token


def _checked(text: str) -> SplitResult:
    if "@" in text:
        raise Misused("a URL is no place for a password. Put the token into CLONER_TOKEN, or name its --token-file")
    try:
        url = urlsplit(text)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not text.isprintable() or url.query or url.fragment:
        raise Misused(f"{text!r} is no address of a server such as {DEFAULT_URL}")
    return url._replace(path=quote(url.path.rstrip("/"), safe="/%"))
