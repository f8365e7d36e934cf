"""The tests' own way to start a Python at once: what is forked is as what is started, whichever way one looks at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support import nursery

LOOK = (
    "import json, os, sys; "
    "print(json.dumps({'fork': os.getppid() != PARENT, 'cwd': os.getcwd(), 'environment': dict(os.environ), "
    "'leads': os.getsid(0) == os.getpid(), 'files': [os.readlink(f'/proc/self/fd/{n}') for n in range(3)], "
    "'more': [n for n in range(3, 99) if os.path.exists(f'/proc/self/fd/{n}')]}))"
).replace("PARENT", str(os.getpid()))


def look(env: dict[str, str], folder: Path) -> dict[str, Any]:
    """What a process sees of itself."""
    output = os.memfd_create("said")
    argv = [sys.executable, "-P", "-m", "timeit", "-n1", "-r1", "-s", LOOK, "pass"]
    process = nursery.spawn(argv, env, output, output, cwd=str(folder), start_new_session=True)
    assert process.wait(30) == 0
    said = os.pread(output, 1 << 16, 0).decode()
    os.close(output)
    found: dict[str, Any] = json.loads(said.splitlines()[0])
    return found


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("serve", "--port", "x"), ("nonsense",)])
def test_it_says_and_ends_with_the_same(args: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "cloner", *args]
    forked = nursery.run(argv)
    started = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    assert (forked.returncode, forked.stdout, forked.stderr) == (started.returncode, started.stdout, started.stderr)


def test_it_has_an_environment_a_folder_and_a_session_of_its_own(tmp_path: Path) -> None:
    env = {**os.environ, "CLONER_X": "é"}
    seen = look(env, tmp_path)
    assert seen == {
        "fork": True,
        "cwd": str(tmp_path),
        "environment": env,
        "leads": True,
        "files": ["/dev/null", "/memfd:said (deleted)", "/memfd:said (deleted)"],
        "more": [],
    }


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "LC_ALL", "PYTHONPATH", "PYTHONWARNINGS"])
def test_what_python_looks_at_when_it_starts_makes_it_no_fork(tmp_path: Path, variable: str) -> None:
    assert not look({**os.environ, variable: ""}, tmp_path)["fork"]


def test_it_can_be_killed_and_that_is_told() -> None:
    process = nursery.spawn([sys.executable, "-m", "timeit", "while True: pass"], os.environ, 1, 2)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait(30) == process.poll() == -signal.SIGKILL
    process.terminate()  # it is too late, and no error
