"""The process: src/wok/server.py. `python -m support.wok FOLDER PLUGIN...` loads the plugins in this order."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

import cherrypy
from cherrypy._cpwsgi_server import CPWSGIServer

from support.wok import asynctask, auth, config, exception, reqlogger, utils
from support.wok.root import WokRoot


class NoOtherPackage(MetaPathFinder):
    """Refuses `cloner`, which the tests have installed, and a host with Wok has not."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def find_spec(self, fullname: str, *_rest: object) -> ModuleSpec | None:
        if fullname.partition(".")[0] == "cloner":
            self.refused.append(fullname)
            raise ModuleNotFoundError(f"there is no {fullname} here", name=fullname)
        return None


def no_cache() -> None:
    """src/wok/server.py, set_no_cache; an answer to a mistake has no list yet."""
    fields = cherrypy.serving.response.header_list
    if isinstance(fields, list):
        fields.append((b"Cache-Control", b"no-store, no-cache, must-revalidate"))


def main(folder: str, plugins: Sequence[str]) -> None:
    """src/wok/server.py, Server.__init__ and start, in their order; the port is one that is free.

    Wok loads what it finds in its folder, in whatever order the file system has it.
    """
    finder = NoOtherPackage()
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, folder)
    for module in (asynctask, auth, config, exception, reqlogger, utils):
        sys.modules[f"wok.{module.__name__.rpartition('.')[2]}"] = module

    cherrypy.tools.nocache = cherrypy.Tool("on_end_resource", no_cache)
    cherrypy.tools.wokauth = cherrypy.Tool("before_handler", auth.wokauth)
    cherrypy.server.socket_host, cherrypy.server.socket_port = "127.0.0.1", 0
    CPWSGIServer.expiration_interval = 0.05  # seconds; Wok's is half a second, in which each of them would stop
    cherrypy.server.socket_queue_size = 128  # Wok leaves it at 5, with which the kernel lets a crowd wait for seconds
    cherrypy.server.max_request_body_size = 4 * 1024**3
    cherrypy.log.error_log.addHandler(logging.StreamHandler())  # Wok's is of a file
    cherrypy.config.update({"environment": "production"})
    of_wok = {**config.root_config(), "tools.wokauth.on": False}
    cherrypy.tree.mount(WokRoot(finder.refused), "", {"/": of_wok, "/tasks": {"tools.wokauth.on": True}})
    for name in plugins:
        conf = utils.load_plugin_conf(name)
        if utils.is_enabled(conf):
            utils.load_plugin(name, conf)
    cherrypy.lib.sessions.init()
    cherrypy.engine.signal_handler.subscribe()
    cherrypy.engine.start()
    print("Wok's stand-in is ready: http://{}:{}".format(*cherrypy.server.bound_addr[:2]), flush=True)
    cherrypy.engine.block()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
