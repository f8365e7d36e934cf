"""How plugins are loaded, and switched on and off: src/wok/utils.py."""

from __future__ import annotations

import configparser
import importlib
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cherrypy
from cherrypy.lib.reprconf import Parser

from support.wok.auth import SESSION_MINUTES
from support.wok.config import Config, PluginConfig, PluginPaths


def load_plugin_conf(name: str) -> Config:
    """src/wok/utils.py, load_plugin_conf: Python's own parser with its interpolation; values are text.

    There are Woks 3.0 that take CherryPy's. To it values are Python, and a file with one that is not is none.
    """
    file = PluginPaths(name).conf_file
    if os.environ.get("WOK_PARSER") == "CherryPy":
        try:
            found: Config = Parser().dict_from_file(file)
        except ValueError as error:
            cherrypy.log.error_log.error("Failed to load plugin conf from %s: %s", file, error)
            return {}
        return found
    parser = configparser.ConfigParser()
    parser.read(file)
    return {section: dict(parser[section]) for section in parser.sections()}


def is_enabled(conf: Config) -> bool:
    """src/wok/utils.py, get_plugins: the file has a non-empty `enable` in its section [wok]."""
    return bool(conf.get("wok", {}).get("enable"))


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


def set_plugin_state(name: str, *, is_on: bool) -> None:
    """src/wok/utils.py, set_plugin_state, update_plugin_config_file and update_cherrypy_mounted_tree.

    What is mounted is looked for below /plugin/ and never found: switched on, a plugin is loaded, whether it was loaded
    or not; switched off, it stays.
    """
    file = Path(PluginPaths(name).conf_file)
    file.write_text(re.sub(r"(?m)^\s*enable\s*=.*$", f"enable = {is_on}", file.read_text("utf-8"), count=1), "utf-8")
    if is_on:
        load_plugin(name, load_plugin_conf(name))


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
