#!/usr/bin/env python3
"""Writes docs/cloner.1, the manual page, from the parsers of the command line.

argparse's own help differs between versions of Python, and so would a page made of it; this one does not.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cloner import __version__
from cloner.client.access import DEFAULT_URL
from cloner.client.failures import EXIT_STATUS
from cloner.client.options import SERVER_OPTIONS
from cloner.client.render import COLUMNS
from cloner.server.cli import parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cloner.1"
DATE = "2026-11-24"
HOST_OPTIONS = ("connect", "demo", "state_dir", "config")
"""What every command has that works where it runs."""

EXAMPLES = (
    ("Clone a guest, and wait until the clone is there and started:", "cloner clone web --name web-2 --start --wait"),
    ("Five clones, all of them or none; their names go to a file:", "cloner clone web --count 5 > names"),
    ("See what would be done:", "cloner clone web --pool fast --dry-run"),
    ("Clone a volume:", "cloner clone default/disk.qcow2 --wait"),
    ("The names of guests that are shut off:", "cloner ls | awk -F'\\t' '$2 == \"shutoff\" {print $1}'"),
    ("Undo a batch:", "cloner cancel --batch 7 --undo"),
    (
        "Another server, whose certificate an authority of your own has signed:",
        "cloner ls --url https://kvm.example.org --cacert ca.pem --token-file token",
    ),
    ("Completion in bash, for good:", "cloner completion bash > ~/.local/share/bash-completion/completions/cloner"),
)

ENVIRONMENT = (
    ("CLONER_URL", f"Address of the server that the client's commands ask. Default: {DEFAULT_URL}"),
    (
        "CLONER_TOKEN",
        "Token that they send. For cloner serve: the token that it takes instead of the state directory's",
    ),
    ("NO_COLOR", "If it is not empty, nothing is coloured"),
    ("TERM", "If it is dumb, a terminal gets the plain lines that a pipe gets"),
)


INTRODUCTION = """
cloner clones guests and storage volumes of a libvirt/KVM host, each clone whole and with a name of its own. cloner
serve is the server. clone, ls, tasks, cancel, start and rm are its client: they talk to it over HTTP, here or
elsewhere. The others work on the host and on the journal where they run.
"""
OF_THE_CLIENT = "Each command of the client has these."
OF_THE_HOST = "Each command that works on a host and its journal has these, as far as they mean something to it."
OUTPUT = """
On a terminal there are tables and bars. Elsewhere each guest, pool, volume and task is a line, with its values as
below, separated by tabs, without headings; sizes are in bytes, memory in MiB, times as in RFC 3339. With --json there
is one JSON document, which is the server's; of clone --wait it is the answer with the tasks as they ended, of cancel
TASK a list of the tasks, and of tasks --follow a task in each line. What a terminal would take for a command is
replaced in names, and escaped in JSON. Errors are on standard error.
"""
INTERRUPT = """
While clone --wait waits, Ctrl-C cancels what it has asked for and waits for the end of that; a second Ctrl-C leaves.
A request that had no answer, or that was answered with 429 or 503, is repeated for as long as --timeout says; no clone
is made twice by that.
"""
ONLY_THE_CLIENT = "These are of the client's commands. The others end with 0, or with 2 for what must be changed."


def page() -> str:
    """The whole page, in the macros of man(7)."""
    return "\n".join([*_head(), *_commands(), *_tail()]) + "\n"


def _head() -> Iterator[str]:
    yield f'.TH CLONER 1 {DATE} "cloner {__version__}" "User Commands"'
    yield from (".nh", ".ad l")  # options are copied from here, so they are neither hyphenated nor stretched
    yield from (".SH NAME", r"cloner \- clone libvirt guests and storage volumes")
    yield ".SH SYNOPSIS"
    for name, command in _named(parser()):
        yield from (".TP", f".B cloner {_text(name)}", _synopsis(command) or r"\&")
    yield from (".SH DESCRIPTION", *_lines(INTRODUCTION))


def _commands() -> Iterator[str]:
    commands = dict(_named(parser()))
    yield ".SH COMMANDS"
    for name, command in commands.items():
        yield from (f".SS cloner {_text(name)}", *_lines(command.description or ""))
        yield from _arguments(command, lambda dest: dest not in ("help", *SERVER_OPTIONS, *HOST_OPTIONS))
    yield from (".SH OPTIONS OF THE CLIENT", *_lines(OF_THE_CLIENT))
    yield from _arguments(commands["ls"], SERVER_OPTIONS.__contains__)
    yield from (".SH OPTIONS OF THE HOST", *_lines(OF_THE_HOST))
    yield from _arguments(commands["serve"], HOST_OPTIONS.__contains__)


def _tail() -> Iterator[str]:
    yield from (".SH OUTPUT", *_lines(OUTPUT))
    for kind, columns in COLUMNS.items():
        yield from _entry(f".B {kind}", ", ".join(column.key for column in columns))
    yield from _entry(_text("clone --wait", ".B "), "name, status, progress, message")
    yield from (".SH WAITING", *_lines(INTERRUPT))
    yield from (".SH EXIT STATUS", *_lines(ONLY_THE_CLIENT))
    for status, words in EXIT_STATUS.items():
        yield from _entry(f".B {status}", words)
    yield ".SH ENVIRONMENT"
    for name, words in ENVIRONMENT:
        yield from _entry(f".B {name}", words)
    yield ".SH EXAMPLES"
    for words, command in EXAMPLES:
        yield from (".TP", _text(words), ".EX", _text(command), ".EE")
    yield from (".SH SEE ALSO", ".BR virsh (1),", ".BR virt-clone (1)")


def _named(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands, and of those that have verbs these."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                verbs = list(_named(command, f"{prefix}{name} "))
                yield from verbs or [(f"{prefix}{name}", command)]


def _synopsis(command: argparse.ArgumentParser) -> str:
    """Options in brackets, those that exclude each other in one pair; what must be there comes last."""
    words, done = [], set()
    actions = [action for action in command._actions if action.dest not in ("help", *SERVER_OPTIONS, *HOST_OPTIONS)]
    for action in sorted(actions, key=lambda action: not action.option_strings):
        groups = (group._group_actions for group in command._mutually_exclusive_groups)
        group = next((members for members in groups if action in members), [action])
        if action not in done:
            done.update(group)
            words.append(_bracketed(group))
    return " ".join(words)


def _bracketed(group: Sequence[argparse.Action]) -> str:
    text = " | ".join(_called(action) for action in group) + (" ..." if group[0].nargs == "*" else "")
    return text if group[0].required and group[0].nargs not in ("?", "*") else f"[{text}]"


def _called(action: argparse.Action) -> str:
    """An argument with its value, in the page's fonts: what is typed as it is in bold, what is replaced in italics."""
    if action.nargs == 0:
        return rf"\fB{_text(action.option_strings[0])}\fR"
    choices = [rf"\fB{_text(str(choice))}\fR" for choice in action.choices or ()]
    value = "|".join(choices) or rf"\fI{_text(str(action.metavar or action.dest.upper()))}\fR"
    return " ".join((*(rf"\fB{_text(option)}\fR" for option in action.option_strings[:1]), value))


def _arguments(command: argparse.ArgumentParser, is_wanted: Callable[[str], bool]) -> Iterator[str]:
    for action in command._actions:
        if is_wanted(action.dest):
            yield from (".TP", _called(action), *_lines(command._get_formatter()._expand_help(action) + "."))


def _entry(head: str, words: str) -> Iterator[str]:
    yield from (".TP", head, *_lines(words + "."))


def _lines(paragraph: str) -> Iterator[str]:
    """Lines of 80 characters at most, as mandoc wants them in the source."""
    yield from map(_text, textwrap.wrap(paragraph.strip(), 70, break_on_hyphens=False))


def _text(words: str, macro: str = "") -> str:
    """Words that roff sets as they are (groff_char(7) names those that it would take for others)."""
    escaped = words.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("`", r"\(ga")
    escaped = escaped.replace("~", r"\(ti").replace("^", r"\(ha")
    return macro + (r"\&" if escaped.startswith(".") and not macro else "") + escaped


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
