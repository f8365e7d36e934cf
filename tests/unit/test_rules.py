"""What tests/plugins/rules.py promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parents[1]
SKIPS = """
import pytest, unittest

@pytest.mark.skip(reason="no")
def test_marked(): ...

@pytest.mark.xfail(reason="no")
def test_expected_to_fail(): assert False

def test_in_the_middle(): pytest.skip("no")

@pytest.fixture
def unwilling(): pytest.skip("no")

def test_by_a_fixture(unwilling): ...

class TestCase(unittest.TestCase):
    def test_of_unittest(self): self.skipTest("no")
"""
SKIPPED_MODULE = "import pytest; pytest.importorskip('there_is_no_such_module')"


def outcome(tmp_path: Path, source: str, **env: str) -> str:
    """The closing line of pytest on one file."""
    (tmp_path / "test_it.py").write_text(source)
    argv = [sys.executable, "-m", "pytest", "-p", "plugins.rules", "-p", "no:cacheprovider", str(tmp_path)]
    env = {key: value for key, value in os.environ.items() if key != "CI"} | {"PYTHONPATH": str(PLUGINS)} | env
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "at_home", "in_ci"),
    [(SKIPS, "4 skipped, 1 xfailed", "3 failed, 2 errors"), (SKIPPED_MODULE, "1 skipped", "1 error")],
)
def test_in_ci_nothing_is_skipped(tmp_path: Path, source: str, at_home: str, in_ci: str) -> None:
    assert f" {at_home} in " in outcome(tmp_path, source)
    assert f" {in_ci} in " in outcome(tmp_path, source, CI="true")
