"""Our requests in Wok's activity log (src/wok/reqlogger.py), which its page shows: who did what, and how it went."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import SimpleNamespace

import cherrypy

from .. import errors
from . import wok

log = logging.getLogger(__name__)

_CODES = {
    "clone": ("CLNREQ0001L", "Clone %(target)s"),
    "delete": ("CLNREQ0002L", "Delete %(target)s"),
    "start": ("CLNREQ0003L", "Start %(target)s"),
    "cancel": ("CLNREQ0004L", "Cancel or clear %(target)s"),
}
"""By the action's name in our audit log."""

_OTHER = ("CLNREQ0005L", "Change %(target)s")


def messages(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts by code, of our errors too, as Wok looks them up and fills them in (src/wok/message.py)."""
    return dict([*_CODES.values(), _OTHER]) | {code: _for_percent(text) for code, text in texts.items()}


def _for_percent(text: str) -> str:
    """A text for `str.format` as one for `%`."""
    text = re.sub(r"(?<!\{)\{(\w+)\}", r"%(\1)s", text.replace("%", "%%"))
    return text.replace("{{", "{").replace("}}", "}")


def tell(action: str, target: str, status: int, error: errors.ClonerError | None) -> None:
    """Writes a request down. Wok adds who and from where."""
    code, _ = _CODES.get(action, _OTHER)
    params = {"target": wok.plain(target)}
    refused = None
    if error is not None:
        said = {name: wok.plain(value) for name, value in error.data.items()}
        refused = SimpleNamespace(code=error.code, params=said)
    try:
        reqlogger = wok.module("reqlogger")
    except ImportError:
        return  # of Woks before 2.2
    try:
        reqlogger.log_request(code, params, refused, cherrypy.serving.request.method, status)
    except Exception:  # what was done is done, whatever becomes of Wok's log of it
        log.warning("Wok's activity log takes no more", exc_info=True)
