"""The activity log: src/wok/reqlogger.py, in memory."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import cherrypy

from support.wok.message import message

_lines: list[str] = []


def log_request(  # noqa: PLR0917 - as Wok's is called
    code: str,
    params: Mapping[str, Any],
    exception: Any,
    method: str,
    status: int,
    app: str | None = None,
    user: str | None = None,
    ip: str | None = None,
    class_name: str | None = None,
    action_name: str | None = None,
) -> str:
    """src/wok/reqlogger.py, log_request and RequestRecord: a line of JSON; the texts are looked up by who reads it."""
    request = cherrypy.serving.request
    info = {
        "app": request.app.script_name if app is None else app,
        "req": method,
        "status": status,
        "user": cherrypy.session.get("username", "N/A") or "N/A" if user is None else user,
        "ip": request.remote.ip if ip is None else ip,
    }
    error = {"code": exception.code, "params": exception.params} if exception else None
    record = {"id": str(uuid.uuid4()), "message": {"code": code, "params": params}, "error": error, "info": info}
    _lines.append(json.dumps(record))
    return str(record["id"])


def records() -> list[dict[str, Any]]:
    """src/wok/reqlogger.py, get_records and get_translated_message."""
    found = []
    for record in map(json.loads, _lines):
        app = record["info"]["app"]
        text = message(**record["message"], app=app, with_code=False)
        if record["error"]:
            text += f" ({message(**record['error'], app=app)})"
        found.append({**record["info"], "app": cherrypy.tree.apps[app].root.domain, "message": text})
    return found
