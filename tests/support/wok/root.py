"""What lies beside the plugins: src/wok/root.py."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import cherrypy
import libvirt

from support.wok import auth, control, reqlogger, utils
from support.wok.asynctask import TaskModel, TasksModel, tasks_queue
from support.wok.basemodel import BaseModel

MESSAGES = {
    "WOKAPI0009E": "You are not authorized to access this resource",
    "WOKASYNC0001E": "Task id '%(id)s' does not exist",
    "WOKASYNC0002E": "There is no callback to kill this task",
    "WOKAUTH0001E": "Authentication failed",
    "WOKAUTH0002E": "Not authorized",
    "WOKOBJST0001E": "Unable to find %(item)s in datastore",
    "WOKRES0001L": "Request made on resource",
}


WITH_PAGE = (400, 401, 403, 404, 405, 406, 415, 500)
"""src/wok/root.py, Root: the statuses that it has an answer in JSON for. The others have CherryPy's page in HTML."""


def error_page(status: str, message: str, **_rest: str) -> bytes:
    """src/wok/root.py, error_production_handler, for those who accept JSON."""
    cherrypy.serving.response.headers["Content-Type"] = control.JSON
    return json.dumps({"code": status, "reason": message}).encode()


class Root:
    """src/wok/root.py, Root and WokRoot: what each root that is made like Wok's has."""

    paths = SimpleNamespace(mo_dir="/nowhere")
    extends: Mapping[str, Any] | None = None
    _cp_config: Mapping[str, Any] = {f"error_page.{status}": error_page for status in WITH_PAGE}

    def __init__(self, model: Any, domain: str, messages: Mapping[str, str]) -> None:
        self.model, self.domain, self.messages = model, domain, messages
        self.tasks = control.tasks(model)


class WokRoot(Root):
    """src/wok/root.py, WokRoot."""

    def __init__(self, refused: list[str]) -> None:
        super().__init__(BaseModel([TasksModel(), TaskModel()]), "wok", MESSAGES)
        self._refused = refused
        self._gate = threading.Event()

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def login(self) -> bytes:
        """src/wok/root.py, login."""
        given = json.load(cherrypy.serving.request.body)
        return json.dumps(auth.log_in(given["username"], given["password"])).encode()

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def logout(self) -> bytes:
        """src/wok/auth.py, logout."""
        cherrypy.session["username"] = None
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def default(self, page: str) -> bytes:
        """src/wok/root.py, default and _get_scripts: each page of Wok asks each application what it adds to it."""
        extending = [app.root.extends for app in cherrypy.tree.apps.values() if app.root.extends is not None]
        return json.dumps([scripts["/"][page] for scripts in extending if page in scripts.get("/", {})]).encode()

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def enable(self, name: str) -> bytes:
        """src/wok/model/plugins.py, enable."""
        utils.set_plugin_state(name, is_on=True)
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def disable(self, name: str) -> bytes:
        """src/wok/model/plugins.py, disable."""
        utils.set_plugin_state(name, is_on=False)
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def logs(self) -> bytes:
        """src/wok/control/logs.py: the activity log."""
        return control.render(reqlogger.records())

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def hold(self, is_on: str) -> bytes:
        """Not Wok's: with `yes` cloner's workers stop before the next clone, and go on with `no`."""
        executor = cherrypy.tree.apps["/plugins/cloner"].root.services.executor
        if is_on == "yes":
            self._gate.clear()
        else:
            self._gate.set()
        if "_run" not in vars(executor):
            run = executor._run
            executor._run = lambda *args: run(*args) if self._gate.wait() else None
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def lose(self, pool: str, volume: str) -> bytes:
        """Not Wok's: somebody deletes a volume. libvirt's test driver shows it to nobody else."""
        cherrypy.tree.apps["/plugins/cloner"].root.services.host.delete_volume(pool, volume)
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def hang(self) -> bytes:
        """Not Wok's: from now on libvirt does not come to an end with what it copies."""
        libvirt.virStoragePool.createXMLFrom = lambda *_args: threading.Event().wait()
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def process(self) -> bytes:
        """Not Wok's: what this process has in it."""
        kimchi = cherrypy.tree.apps.get("/plugins/kimchi")
        members = ("id", "target_uri", "status", "message", "timestamp", "log_id")
        return control.render(
            {
                "loaded": sorted(sys.modules),
                "refused": self._refused,
                "kimchis_own": kimchi.root.own_functions() if kimchi else [],
                "queue": [
                    {name: getattr(task, name) for name in members} | {"type": type(task).__name__}
                    for task in list(tasks_queue.values())
                ],
            }
        )
