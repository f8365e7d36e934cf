"""Where things are, and what holds for each mount: src/wok/config.py.in."""

from __future__ import annotations

import configparser
import importlib
import os
from pathlib import Path
from typing import Any

Config = dict[str, dict[str, Any]]

config = configparser.ConfigParser()
"""src/wok/config.py.in, config: what wok.conf says, of which this is what a plugin may ask."""

config.read_dict({"authentication": {"method": os.environ.get("WOK_METHOD", "pam")}})


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


class PluginPaths:
    """src/wok/config.py.in, PluginPaths: of a Wok that runs from its sources, or with WOK_ETC of an installed one."""

    def __init__(self, name: str) -> None:
        self.plugin_dir = self.src_dir = str(plugins_folder() / name)
        self.ui_dir = str(plugins_folder() / name / "ui")
        self.conf_dir = os.environ.get("WOK_ETC", self.plugin_dir)
        self.conf_file = str(Path(self.conf_dir, f"{name}.conf"))


class PluginConfig(Config):
    """src/wok/config.py.in, PluginConfig and UIConfig: a plugin's tab, and folders of its page that need no log-in."""

    def __init__(self, name: str) -> None:
        ui = Path(PluginPaths(name).ui_dir)
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
