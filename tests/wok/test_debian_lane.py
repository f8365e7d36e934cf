"""The tests once more, on what a host with Wok has from Debian 12: a run of pytest in an environment of its own.

scripts/setup.sh makes that, `.venv/debian`: CherryPy, jsonschema, libvirt-python and lxml in exactly Debian's versions
and SQLAlchemy 2. Whatever else we use is not there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

from support.wok import ROOT

PYTHON = ROOT / ".venv" / "debian" / "bin" / "python"

VERSIONS = {"CherryPy": "18.8.0", "jsonschema": "4.10.3", "libvirt-python": "9.0.0", "lxml": "4.9.2"}
OPTIONAL = ["prometheus_client", "re2", "rich", "shtab"]

NOT_HERE = {
    "tests/contract/test_access.py": "asks for every route, /metrics too",
    "tests/contract/test_completion.py": "shtab",
    "tests/contract/test_client.py": "rich",
    "tests/contract/test_metrics.py": "prometheus-client",
    "tests/contract/test_openapi.py": "schemathesis",
    "tests/contract/test_pam.py": "python-pam",
    "tests/unit/test_client_render.py": "rich",
    "tests/unit/test_docs.py": "every route, /metrics too",
    "tests/unit/test_openapi.py": "openapi-spec-validator",
    "tests/unit/test_operations.py": "prometheus-client",
    "tests/unit/test_packaging.py": "setuptools",
    "tests/unit/test_re2.py": "google-re2",
    "tests/wok/test_debian_lane.py": "this one",
}
"""Files that are left out, and why; tests named after /metrics are, too."""

_OF_THE_SERVER = "auth backup command_line health load logs nginx slow systemd tls tokens"
_WITHOUT_LIBRARIES = "expressions journal logs names nursery rules"

OURS_ALONE = [
    *(f"tests/contract/test_{name}.py" for name in _OF_THE_SERVER.split()),
    *(f"tests/unit/test_{name}.py" for name in _WITHOUT_LIBRARIES.split()),
]
"""What only `cloner serve` has, which brings its own libraries; or what uses none whose version is another here."""

FEWEST = 4000
"""Tests that there are at least, lest a slip leave out nearly all of them."""

LOOK = f"""
import importlib.metadata, importlib.util, json
versions = {{name: importlib.metadata.version(name) for name in {[*VERSIONS, "SQLAlchemy"]}}}
print(json.dumps([versions, [name for name in {OPTIONAL} if importlib.util.find_spec(name)]]))
"""


def output(*args: str) -> subprocess.CompletedProcess[str]:
    """What the other environment's Python says."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    return subprocess.run([PYTHON, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_environment_is_debians() -> None:
    versions, optional = json.loads(output("-c", LOOK).stdout)
    assert versions.pop("SQLAlchemy").startswith("2.")
    assert versions == VERSIONS
    assert optional == []


def test_our_lower_bounds_let_debians_versions_in() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    bounds = {wanted.name.lower(): wanted.specifier for wanted in map(Requirement, project["dependencies"])}
    assert [name for name, version in VERSIONS.items() if not bounds[name.lower()].contains(version)] == []


@pytest.mark.first
def test_unit_contract_and_wok_tests_pass_there() -> None:
    args = ["-m", "pytest", "-q", "--numprocesses=2", "--dist=worksteal", "-p", "no:cacheprovider"]
    args += ["-W", "ignore:'cgi':DeprecationWarning"]  # CherryPy 18.8 uses it
    args += [f"--ignore={file}" for file in (*NOT_HERE, *OURS_ALONE)]
    args += ["-k", "not metrics"]
    run = output(*args, "tests/unit", "tests/contract", "tests/wok")
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-1000:]
    passed = re.search(r"(\d+) passed", run.stdout.splitlines()[-1])
    assert passed
    assert int(passed[1]) > FEWEST


def test_what_is_left_out_is_there() -> None:
    assert [file for file in (*NOT_HERE, *OURS_ALONE) if not (ROOT / file).is_file()] == []
