"""`make wok-install`: the plugin in Wok's folder, from where Wok loads it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloner.settings import demo_uri
from support.answers import cloned
from support.wok import ROOT, Wok, configured

SCRIPT = ROOT / "scripts" / "wok-install.sh"
INSTALLED = """
class PluginPaths:
    def __init__(self, name):
        self.conf_file = f"{folder}/etc/wok/plugins.d/{name}.conf"
        self.ui_dir = f"{folder}/share/wok/plugins/{name}/ui"
"""
"""src/wok/config.py.in of a Wok that a distribution packages, below a folder of the test's."""


def install(wok: Path | str, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "WOK_PYTHON": str(python)}
    return subprocess.run([SCRIPT, str(wok)], env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A Wok's package that has no plugins yet."""
    package = tmp_path / "wok"
    (package / "plugins").mkdir(parents=True)
    (package / "__init__.py").touch()
    return package


def test_what_it_installs_is_loaded_and_clones(tmp_path: Path) -> None:
    wok = Wok(tmp_path)
    shutil.rmtree(wok.conf.parent)
    done = install(tmp_path / "wok")
    assert done.returncode == 0, done.stderr
    assert f"the plugin is in {wok.conf.parent}, its configuration in {wok.conf}" in done.stdout
    wok.conf.write_text(configured(wok.conf.read_text(), {"state_dir": wok.state_dir, "connect": demo_uri()}))
    with wok:
        cloned(wok, "vms/web")
        assert wok.request("GET", "ui/config/tab-ext.xml").status == 200


def test_it_says_what_woks_python_lacks(tmp_path: Path, place: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # without what is installed
    bare.chmod(0o755)
    said = install(place, bare).stdout
    assert "by Debian's names: python3-cherrypy3 python3-jsonschema python3-libvirt python3-lxml" in said
    assert "needs SQLAlchemy 2" in said
    said = install(place).stdout
    assert "by Debian's names" not in said
    assert "SQLAlchemy" not in said


def test_installed_again_it_is_new_and_its_configuration_stays(place: Path) -> None:
    install(place)
    plugin = place / "plugins" / "cloner"
    (plugin / "cloner.conf").write_text("[cloner]\nworkers = 3\n")
    (plugin / "left.py").touch()
    (plugin / "plugin.py").write_text("old")
    assert install(place).returncode == 0
    assert (plugin / "cloner.conf").read_text() == "[cloner]\nworkers = 3\n"
    assert (plugin / "plugin.py").read_text() == (ROOT / "plugin.py").read_text()
    assert not (plugin / "left.py").exists()
    assert [path.name for path in plugin.parent.iterdir()] == ["cloner"]


def test_an_update_that_fails_leaves_all_as_it_was(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(place)
    plugin = place / "plugins" / "cloner"
    (plugin / "cloner.conf").write_text("[cloner]\nworkers = 3\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "mv").write_text(f'#!/bin/sh\ncase $1 in *-??????) exit 1 ;; esac\nexec {shutil.which("mv")} "$@"\n')
    (tools / "mv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert install(place).returncode == 1
    assert (plugin / "cloner.conf").read_text() == "[cloner]\nworkers = 3\n"
    assert [path.name for path in plugin.parent.iterdir()] == ["cloner"]


def test_what_somebody_kept_of_an_older_one_stays(place: Path) -> None:
    install(place)
    kept = place / "plugins" / "cloner.old" / "cloner.conf"
    shutil.copytree(place / "plugins" / "cloner", kept.parent)
    assert install(place).returncode == 0
    assert kept.is_file()


def test_a_configuration_that_nobody_else_may_read_stays_so(tmp_path: Path, place: Path) -> None:
    """The journal's URL may have a password in it. It may also be a link to where such files are kept."""
    install(place)
    conf = place / "plugins" / "cloner" / "cloner.conf"
    conf.chmod(0o600)
    assert install(place).returncode == 0
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    kept = tmp_path / "kept.conf"
    conf.rename(kept)
    conf.symlink_to(kept)
    assert install(place).returncode == 0
    assert conf.readlink() == kept
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_of_a_wok_that_is_packaged_the_configuration_lies_elsewhere(tmp_path: Path, place: Path) -> None:
    (place / "config.py").write_text(INSTALLED.replace("{folder}", str(tmp_path)))
    conf = tmp_path / "etc" / "wok" / "plugins.d" / "cloner.conf"
    assert install(place).returncode == 0
    assert conf.read_text() == (ROOT / "cloner.conf").read_text()
    assert (tmp_path / "share/wok/plugins/cloner/ui/config/tab-ext.xml").is_file()
    conf.write_text("[wok]\nenable = True\n")
    assert install(place).returncode == 0
    assert conf.read_text() == "[wok]\nenable = True\n"


def test_it_says_when_wok_cannot_be_asked_where_that_is(place: Path) -> None:
    """Such as by a Python that lacks what Wok needs: a packaged Wok would look for the configuration elsewhere."""
    (place / "config.py").write_text("import what_this_python_lacks\n")
    done = install(place)
    assert done.returncode == 0
    assert f"{sys.executable} cannot ask Wok where" in done.stdout
    assert "No module named 'what_this_python_lacks'" in done.stdout
    (place / "config.py").write_text(INSTALLED.replace("{folder}", str(place)))
    assert "cannot ask" not in install(place).stdout


def test_there_the_plugin_reads_what_wok_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    monkeypatch.setenv("WOK_ETC", str(etc))
    wok = Wok(tmp_path, connect=demo_uri())
    os.replace(wok.conf, etc / "cloner.conf")
    shutil.copy(ROOT / "cloner.conf", wok.conf)  # beside the plugin's modules, with the defaults
    with wok:
        cloned(wok, "vms/web")
        assert (wok.state_dir / "journal.sqlite").exists()


def test_the_repository_that_lies_there_itself_stays_whole(place: Path) -> None:
    plugin = place / "plugins" / "cloner"
    shutil.copytree(ROOT, plugin, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist"))
    script = plugin / "scripts" / SCRIPT.name
    done = subprocess.run([script, place], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "this folder is the plugin" in done.stderr
    assert script.is_file()


@pytest.mark.parametrize(
    ("wok", "said"), [("", "say where Wok's Python package is"), ("/nowhere", "there is no Wok in")]
)
def test_without_a_wok_it_says_what_to_do(wok: str, said: str) -> None:
    done = install(wok)
    assert done.returncode == 1
    assert said in done.stderr
