"""What of cloner.conf is followed while Wok runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloner.bridge.switch import Switch
from cloner.settings import Switches

ON = "[wok]\nenable = True\n[cloner]\nkimchi_bridge = True\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cloner.conf"
    path.write_text(ON)
    return path


def test_what_is_switched_in_the_file_holds_at_once(file: Path) -> None:
    switch = Switch(file)
    assert switch.now == Switches(enable=True, kimchi_bridge=True)
    file.write_text(ON.replace("enable = True", "enable = False"))
    assert switch.now == Switches(enable=False, kimchi_bridge=True)


@pytest.mark.parametrize("text", ["", "[wok]\nenable = perhaps\n", "no configuration"])
def test_while_the_file_says_nothing_it_is_as_it_was(file: Path, text: str) -> None:
    """src/wok/utils.py, update_plugin_config_file: it is emptied first, and somebody may look then."""
    switch = Switch(file)
    file.write_text(text)
    assert switch.now == Switches(enable=True, kimchi_bridge=True)
    file.write_text(ON.replace("bridge = True", "bridge = False"))
    assert switch.now == Switches(enable=True, kimchi_bridge=False)


def test_while_there_is_no_file_it_is_as_it_was(file: Path) -> None:
    switch = Switch(file)
    file.unlink()
    assert switch.now == Switches(enable=True, kimchi_bridge=True)
