"""What a command loads: a shell waits for it, so help and the client's commands leave the server's libraries alone."""

from __future__ import annotations

import re
import subprocess
import sys

SERVER = {"cheroot", "cherrypy", "jsonschema", "libvirt", "lxml", "re2", "sqlalchemy"}
DRAWING = {"rich", "shtab"}
CLIENT = {"http.client", "ssl"} | DRAWING


def loaded(*args: str) -> set[str]:
    """The modules that a command loads, by Python's own count (`-X importtime`)."""
    argv = [sys.executable, "-X", "importtime", "-m", "cloner", *args]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    return set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))


def test_help_loads_neither_what_serves_nor_what_asks() -> None:
    modules = loaded("--help")
    assert "argparse" in modules
    assert not modules & (SERVER | CLIENT)


def test_the_clients_commands_load_nothing_that_serves() -> None:
    modules = loaded("ls", "--url", "http://127.0.0.1:1")
    assert "http.client" in modules
    assert not modules & (SERVER | DRAWING)
    assert not {name for name in modules if re.match(r"cloner\.(control|engine|hypervisor|model)\b", name)}
