"""Texts by code: src/wok/message.py."""

from __future__ import annotations

import gettext
from collections.abc import Mapping
from typing import Any

import cherrypy


def message(
    code: str, params: Mapping[str, Any] | None = None, app: str | None = None, *, with_code: bool = True
) -> str:
    """src/wok/message.py, WokMessage: the asked application's text or else Wok's, translated and filled in with `%`.

    A code that neither has is its own text, as is each of an application that is gone; one whose text wants more than
    there is is not filled in.
    """
    asked = cherrypy.serving.request.app if app is None else cherrypy.tree.apps.get(app)
    if app and asked is None:
        return f"{code}: {code}" if with_code else code
    root = asked.root if asked else cherrypy.tree.apps[""].root
    if code not in root.messages:
        root = cherrypy.tree.apps[""].root
    translation = gettext.translation(root.domain, root.paths.mo_dir, ["en_US"], fallback=True)
    text = translation.gettext(root.messages.get(code, code))
    try:
        text %= dict(params or {})
    except KeyError:
        cherrypy.log.error_log.error("KeyError: %s", code)
    return f"{code}: {text}" if with_code else text
