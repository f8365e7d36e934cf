"""docs/cloner.1 is what scripts/manpage.py makes of the command line, and what man(1) can show."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

from cloner.client.failures import EXIT_STATUS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cloner.1"
COMMANDS = ("serve", "audit", "recover", "backup", "token create", "clone", "ls", "tasks", "cancel", "start", "rm")


def shown() -> str:
    """The page as a terminal shows it, without bold and italics."""
    argv = ["mandoc", "-Tascii", "-Owidth=100", str(PAGE)]
    text = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    return re.sub(".\b", "", text)


def test_it_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "manpage.py"))["page"]()
    assert made == PAGE.read_text("utf-8"), "`make man` writes it anew"


def test_it_is_a_page_without_faults() -> None:
    lint = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", str(PAGE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (lint.returncode, lint.stdout) == (0, "")


def test_it_has_every_command_with_every_option() -> None:
    text = shown()
    for command in COMMANDS:
        argv = [sys.executable, "-m", "cloner", *command.split(), "--help"]
        said = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=True, timeout=60).stdout
        assert f"cloner {command}\n" in text
        for option in set(re.findall(r"--[a-z-]+", said)) - {"--help"}:
            assert option in text, (command, option)


def test_it_has_every_exit_status() -> None:
    section = shown().partition("EXIT STATUS\n")[2].partition("\nENVIRONMENT")[0]
    assert [int(number) for number in re.findall(r"^ {4,8}(\d+) ", section, re.MULTILINE)] == list(EXIT_STATUS)


def test_what_looks_like_roff_is_not_taken_for_it() -> None:
    text = shown()
    assert r"cloner ls | awk -F'\t' '$2 == \"shutoff\" {print $1}'".replace('\\"', '"') in text


def test_the_readme_has_the_same_exit_statuses() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("| exit status |")[2].partition("\n\n")[0]
    assert {
        int(number): words for number, words in re.findall(r"^\| (\d+) \| (.+) \|$", table, re.MULTILINE)
    } == EXIT_STATUS
