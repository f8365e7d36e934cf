"""A stand-in for Wok 3.0, which no registry has: its loader, its log-in, and the root beside which plugins are mounted.

`Wok(folder)` is a process of its own, in which the package is `wok.plugins.cloner` and there is no `cloner`. Each rule
names the file of github.com/kimchi-project/wok that it mirrors; nothing here is Wok's code.
"""

from __future__ import annotations

import base64
import configparser
import gettext
import importlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from http.cookies import SimpleCookie
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cherrypy

from support.server import REQUEST_TIMEOUT, Response, Server

ROOT = Path(__file__).parents[2]
MOUNT_POINT = "/plugins/cloner"
USER, PASSWORD = "root", "the-tests-own-password"
KNOWN: Mapping[str, Mapping[str, Any]] = {
    USER: {"groups": ["root"], "role": "admin"},
    "ann": {"groups": ["staff", "web team"], "role": "user"},
    "bob": {"groups": None, "role": "user"},  # of a log-in by LDAP no groups are known
    "eve": {"groups": ["root"], "role": None},
}
"""Who can log in, all with one password: the groups and the role that Wok finds for them."""

SESSION_MINUTES = 10
JSON = "application/json"
NOT_OF_THE_PLUGIN = (".*", "__pycache__", "*.egg-info", "build", "dist", "docs", "scripts", "tests")

Config = dict[str, dict[str, Any]]


# --- The process, as the tests hold it -------------------------------------------------------------------------------


class Wok(Server):
    """One Wok with the plugin in it: `with Wok(tmp_path, connect=uri) as wok: wok.request("GET", "vms")`.

    `settings` go into the plugin's cloner.conf, and the state directory is `folder / "state"` unless they name another.
    Requests are those of a user who has logged in as a page does, by a session.
    """

    is_documented = False  # Wok's log-in is its own

    def __init__(self, folder: Path, **settings: object) -> None:
        super().__init__(None, folder / "state")
        install(folder, {"state_dir": self.state_dir, **settings})
        self._argv = [sys.executable, "-P", "-m", "support.wok", str(folder)]
        self._env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
        self._session = ""

    @property
    def base(self) -> str:
        """The address of the plugin's root."""
        return "http://{}:{}".format(*self.address) + MOUNT_POINT

    def url(self, path: str) -> str:
        """The address of a path: below the plugin's root, or the server's when it starts with a slash."""
        return f"{self.base}/{path}" if not path.startswith("/") else self.base.removesuffix(MOUNT_POINT) + path

    def start(self) -> None:
        """As Server's, and log in."""
        super().start()
        self._session = self.log_in()

    def log_in(self, user: str = USER) -> str:
        """A new session's cookie."""
        answer = self.request("POST", "/login", {"username": user, "password": PASSWORD}, anonymous=True)
        return "wok=" + SimpleCookie(answer.headers["Set-Cookie"])["wok"].value

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        anonymous: bool = False,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Response:
        """As Server's; it accepts JSON and has the session's cookie, unless `anonymous`."""
        session = {} if anonymous else {"Cookie": self._session}
        fields = {"Accept": JSON, **session, **(headers or {})}
        return super().request(method, path, body, fields, anonymous=True, timeout=timeout)


def install(folder: Path, settings: Mapping[str, object]) -> None:
    """Make `folder` hold the package `wok`, with the plugin where Wok looks for it.

    src/wok/config.py.in, Paths and PluginPaths: the folder plugins/<name>, and in it <name>.conf. The plugin is copied,
    as the README says: settings.py takes the cloner.conf beside it, and beside a link to it that is the repository's.
    """
    plugins = folder / "wok" / "plugins"
    shutil.copytree(ROOT, plugins / "cloner", ignore=shutil.ignore_patterns(*NOT_OF_THE_PLUGIN))
    for package in (plugins.parent, plugins):
        (package / "__init__.py").touch()
    conf = plugins / "cloner" / "cloner.conf"
    conf.write_text(configured(conf.read_text("utf-8"), settings), "utf-8")


def configured(conf: str, settings: Mapping[str, object]) -> str:
    """cloner.conf with settings taken out of their comments. StopIteration when it has no such line."""
    lines = conf.splitlines(keepends=True)
    for name, value in settings.items():
        place = next(number for number, line in enumerate(lines) if line.startswith(f"# {name} ="))
        lines[place] = f"{name} = {value}\n"
    return "".join(lines)


# --- Configuration ---------------------------------------------------------------------------------------------------


def root_config() -> dict[str, Any]:
    """src/wok/config.py.in, WokConfig and PluginConfig: what holds for the root of each mount."""
    return {
        "tools.trailing_slash.on": False,
        "request.methods_with_bodies": ("POST", "PUT"),
        "tools.nocache.on": True,
        "tools.proxy.on": True,
        "tools.sessions.on": True,
        "tools.sessions.name": "wok",
        "tools.sessions.secure": True,
        "tools.sessions.httponly": True,
        "tools.sessions.locking": "explicit",
        "tools.sessions.storage_type": "ram",
    }


class PluginConfig(Config):
    """src/wok/config.py.in, PluginConfig and UIConfig: a plugin's tab, and folders of its page that need no log-in."""

    def __init__(self, name: str) -> None:
        ui = plugins_folder() / name / "ui"
        static = {"tools.staticdir.on": True, "tools.wokauth.on": False, "tools.nocache.on": False}
        for part in ("css", "js", "images"):
            self[f"/{part}"] = {**static, "tools.staticdir.dir": str(ui / part)}
        self["/"] = root_config()
        self["/ui/config/tab-ext.xml"] = {
            "tools.staticfile.on": True,
            "tools.staticfile.filename": str(ui / "config" / "tab-ext.xml"),
            "tools.nocache.on": True,
        }


def plugins_folder() -> Path:
    """src/wok/config.py.in, Paths.plugins_dir."""
    return Path(importlib.import_module("wok.plugins").__path__[0])


# --- Loading plugins -------------------------------------------------------------------------------------------------


def load_plugin_conf(name: str) -> Config:
    """src/wok/utils.py, load_plugin_conf: Python's own parser with its interpolation; values are text."""
    parser = configparser.ConfigParser()
    parser.read(plugins_folder() / name / f"{name}.conf")
    return {section: dict(parser[section]) for section in parser.sections()}


def enabled_plugins() -> Iterator[tuple[str, Config]]:
    """src/wok/utils.py, get_plugins: each folder whose file has a non-empty `enable` in its section [wok]."""
    for folder in filter(Path.is_dir, plugins_folder().iterdir()):
        conf = load_plugin_conf(folder.name)
        if conf.get("wok", {}).get("enable"):
            yield folder.name, conf


def load_plugin(name: str, conf: Config) -> None:
    """src/wok/utils.py, load_plugin: the plugin's class is made with Wok's options and mounted.

    Sections of the plugin's own `get_custom_conf` take the place of Wok's of the same name, and those that switch the
    log-in on take the place of both. A plugin that cannot be loaded is a line in the log.
    """
    del conf["wok"]
    conf.update(PluginConfig(name))
    try:
        plugin = import_class(f"wok.plugins.{name}.{name[0].upper() + name[1:]}")(options())
    except Exception as error:  # noqa: BLE001 - it is Wok's rule
        cherrypy.log.error_log.error("Failed to import plugin %s, error: %s", name, error)
        return
    if hasattr(plugin, "get_custom_conf"):
        conf.update(plugin.get_custom_conf())
    sub_nodes = import_class(f"wok.plugins.{name}.control.sub_nodes")
    conf.update({f"/{ident}": {"tools.wokauth.on": True} for ident, node in sub_nodes.items() if node.url_auth})
    cherrypy.tree.mount(plugin, f"/plugins/{name}", conf)


def import_class(path: str) -> Any:
    """src/wok/utils.py, import_class."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def options() -> SimpleNamespace:
    """src/wok/utils.py, get_plugin_config_options: some of Wok's own settings, and none of the plugin's."""
    return SimpleNamespace(
        cherrypy_port=8010,
        proxy_port=8001,
        websockets_port=64667,
        session_timeout=SESSION_MINUTES,
        test=None,
        environment="production",
        server_root="",
        max_body_size="4*1024*1024",
    )


# --- Log-in ----------------------------------------------------------------------------------------------------------


def wokauth() -> None:
    """src/wok/auth.py, wokauth: the tool that lets a request pass, or raises a redirection to the log-in or 401."""
    request = cherrypy.serving.request
    is_new = cherrypy.session.missing
    if has_session() or has_password():
        return
    if "Accept" in request.headers and not accepts(JSON):
        raise cherrypy.HTTPRedirect("/login.html", 303)
    if is_new and "lastPage" in request.cookie:
        raise cherrypy.HTTPError(401, "sessionTimeout")
    if not is_script():
        cherrypy.serving.response.headers["WWW-Authenticate"] = "Basic realm=wok"
    raise cherrypy.HTTPError(401, message("WOKAUTH0002E"))


def has_session() -> bool:
    """src/wok/auth.py, check_auth_session: the page's own polling (Wok-Robot) does not prolong a session."""
    session = cherrypy.session
    if session.get("username") is None:
        return False
    if cherrypy.serving.request.headers.get("Wok-Robot") != "wok-robot":
        session["robot-refresh"] = time.time()
    elif time.time() - session["robot-refresh"] > SESSION_MINUTES * 60:
        session["username"] = None
        raise cherrypy.HTTPError(401, "sessionTimeout")
    return True


def has_password() -> bool:
    """src/wok/auth.py, check_auth_httpba: Basic, but not for a page's script, nor without JSON in `Accept`."""
    header = cherrypy.serving.request.headers.get("Authorization")
    if is_script() or not accepts(JSON) or not header:
        return False
    user, password = base64.b64decode(header.replace("Basic ", "")).decode().split(":", 1)
    log_in(user, password)
    return True


def log_in(user: str, password: str) -> dict[str, Any]:
    """src/wok/auth.py, login: who it is, and a session under a new id."""
    if user not in KNOWN or password != PASSWORD:
        raise cherrypy.HTTPError(401, message("WOKAUTH0001E"))
    session = cherrypy.session
    session.regenerate()
    known = {"username": user, **KNOWN[user]}
    session.update({**known, "robot-refresh": time.time()})
    return known


def is_script() -> bool:
    """src/wok/auth.py, from_browser."""
    return bool(cherrypy.serving.request.headers.get("X-Requested-With") == "XMLHttpRequest")


def accepts(media: str) -> bool:
    """src/wok/template.py, can_accept: named, before the first parameter; `*/*` names nothing."""
    accepted = cherrypy.serving.request.headers.get("Accept", "text/html")
    return media in [part.strip() for part in accepted.partition(";")[0].split(",")]


def message(code: str) -> str:
    """src/wok/message.py, WokMessage: the asked application's text or else Wok's, translated and filled in with `%`."""
    root = cherrypy.serving.request.app.root
    if code not in root.messages:
        root = cherrypy.tree.apps[""].root
    translation = gettext.translation(root.domain, root.paths.mo_dir, ["en_US"], fallback=True)
    return f"{code}: {translation.gettext(root.messages[code]) % {}}"


def no_cache() -> None:
    """src/wok/server.py, set_no_cache."""
    cherrypy.serving.response.header_list.append((b"Cache-Control", b"no-store, no-cache, must-revalidate"))


# --- The root and the server -----------------------------------------------------------------------------------------


def error_page(status: str, message: str, **_rest: str) -> bytes:
    """src/wok/root.py, error_production_handler, for those who accept JSON."""
    cherrypy.serving.response.headers["Content-Type"] = f"{JSON};charset=utf-8"
    return json.dumps({"code": status, "reason": message}).encode()


class WokRoot:
    """src/wok/root.py, WokRoot: what lies beside the plugins."""

    domain = "wok"
    paths = SimpleNamespace(mo_dir="/nowhere")
    extends = None
    messages: Mapping[str, str] = {"WOKAUTH0001E": "Authentication failed", "WOKAUTH0002E": "Not authorized"}
    _cp_config: Mapping[str, Any] = {"error_page.default": error_page}

    def __init__(self, finder: NoOtherPackage) -> None:
        self._finder = finder

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def login(self) -> bytes:
        """src/wok/root.py, login."""
        given = json.load(cherrypy.serving.request.body)
        return json.dumps(log_in(given["username"], given["password"])).encode()

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
        """src/wok/model/plugins.py, enable, and src/wok/utils.py, update_cherrypy_mounted_tree.

        It looks for the mounted plugin below /plugin/, finds none, and so loads it, whether it was loaded or not.
        """
        load_plugin(name, load_plugin_conf(name))
        return b"{}"

    @cherrypy.expose  # type: ignore[untyped-decorator]  # CherryPy has no types
    def modules(self) -> bytes:
        """Not Wok's: the modules that this process has loaded, and those that it was refused."""
        return json.dumps({"loaded": sorted(sys.modules), "refused": self._finder.refused}).encode()


class NoOtherPackage(MetaPathFinder):
    """Refuses `cloner`, which the tests have installed, and a host with Wok has not."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def find_spec(self, fullname: str, *_rest: object) -> ModuleSpec | None:
        if fullname.partition(".")[0] == "cloner":
            self.refused.append(fullname)
            raise ModuleNotFoundError(f"there is no {fullname} here", name=fullname)
        return None


def main(folder: str) -> None:
    """src/wok/server.py, Server.__init__ and start, in their order; the port is one that is free."""
    finder = NoOtherPackage()
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, folder)
    config = ModuleType("wok.config")
    vars(config)["PluginConfig"] = PluginConfig
    sys.modules["wok.config"] = config

    cherrypy.tools.nocache = cherrypy.Tool("on_end_resource", no_cache)
    cherrypy.tools.wokauth = cherrypy.Tool("before_handler", wokauth)
    cherrypy.server.socket_host, cherrypy.server.socket_port = "127.0.0.1", 0
    cherrypy.server.socket_queue_size = 128  # Wok leaves it at 5, with which the kernel lets a crowd wait for seconds
    cherrypy.server.max_request_body_size = 4 * 1024**3
    cherrypy.log.error_log.addHandler(logging.StreamHandler())  # Wok's is of a file
    cherrypy.config.update({"environment": "production"})
    cherrypy.tree.mount(WokRoot(finder), "", {"/": {**root_config(), "tools.wokauth.on": False}})
    for name, conf in enabled_plugins():
        load_plugin(name, conf)
    cherrypy.lib.sessions.init()
    cherrypy.engine.signal_handler.subscribe()
    cherrypy.engine.start()
    print("Wok's stand-in is ready: http://{}:{}".format(*cherrypy.server.bound_addr[:2]), flush=True)
    cherrypy.engine.block()


if __name__ == "__main__":
    main(sys.argv[1])
