"""A stand-in for Wok 3.0 and for Kimchi 3.0 in it, which no registry has, as far as a plugin of Wok's meets them.

`Wok(folder)` is a process of its own, in which the package is `wok.plugins.cloner` and there is no `cloner`. Each rule
names the file of github.com/kimchi-project/wok, or kimchi, that it mirrors; nothing here is their code. This module is
what the tests hold of it, `__main__` what runs; each of the others is known there by the name of the module of Wok's
that it stands for: `wok.asynctask`, `wok.exception` and so on.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from http.cookies import SimpleCookie
from pathlib import Path

from support.server import REQUEST_TIMEOUT, Response, Server
from support.wok.auth import KNOWN, PASSWORD, SESSION_MINUTES, USER

__all__ = ["KNOWN", "MOUNT_POINT", "PASSWORD", "ROOT", "SESSION_MINUTES", "USER", "Wok", "install"]

ROOT = Path(__file__).parents[3]
MOUNT_POINT = "/plugins/cloner"
KIMCHI = "/plugins/kimchi"
JSON = "application/json"
NOT_OF_THE_PLUGIN = (".*", "*.egg-info", "build", "dist", "docs", "scripts", "tests")

OTHERS = {
    "kimchi/__init__.py": "from support.wok.kimchi import Kimchi\n",
    "kimchi/config.py": "from support.wok.kimchi import get_kimchi_version\n",
    "kimchi/control.py": "from support.wok.kimchi import sub_nodes\n",
    "kimchi/kimchi.conf": "[wok]\nenable = True\n",
    "ginger/__init__.py": "from support.wok.ginger import Ginger\n",
    "ginger/control.py": "sub_nodes = {}\n",
    "ginger/ginger.conf": "[wok]\nenable = True\n",
}
"""The files of the plugins beside ours."""

# --- The process, as the tests hold it -------------------------------------------------------------------------------


class Wok(Server):
    """One Wok with plugins in it: `with Wok(tmp_path, connect=uri) as wok: wok.request("GET", "vms")`.

    `settings` go into the plugin's cloner.conf, and the state directory is `folder / "state"` unless they name another.
    `plugins` are loaded in this order; `version` is Kimchi's. Requests are those of a user who has logged in as a page
    does, by a session.
    """

    is_documented = False  # Wok's log-in is its own

    def __init__(
        self, folder: Path, *, plugins: Sequence[str] = ("cloner",), version: str = "3.0.0", **settings: object
    ) -> None:
        state_dir = Path(str(settings.get("state_dir", folder / "state")))
        super().__init__(None, state_dir)
        install(folder, {**settings, "state_dir": state_dir})
        self.conf = folder / "wok" / "plugins" / "cloner" / "cloner.conf"
        self._argv = [sys.executable, "-P", "-m", "support.wok", str(folder), *plugins]
        self._env = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "KIMCHI_VERSION": version}
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
    for name, text in OTHERS.items():
        (plugins / name).parent.mkdir(exist_ok=True)
        (plugins / name).write_text(text)


def configured(conf: str, settings: Mapping[str, object]) -> str:
    """cloner.conf with settings taken out of their comments, texts in quotes. StopIteration for one that it lacks."""
    lines = conf.splitlines(keepends=True)
    for name, value in settings.items():
        place = next(number for number, line in enumerate(lines) if line.startswith((f"# {name} =", f"{name} =")))
        lines[place] = f"{name} = {str(value)!r}\n" if isinstance(value, str | Path) else f"{name} = {value}\n"
    return "".join(lines)
