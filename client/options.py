"""The client's commands on the command line. Building the parsers loads nothing else, so that `--help` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .access import DEFAULT_TIMEOUT, DEFAULT_URL

METHODS = ("auto", "reflink", "copy", "linked", "libvirt")
SHELLS = ("bash", "zsh", "fish")
KINDS = ("guests", "pools", "volumes")
SERVER_OPTIONS = ("json", "url", "token_file", "cacert", "timeout")
"""What every command has that talks to a server."""

Parser = argparse.ArgumentParser
Commands = argparse._SubParsersAction


def add_to(parser: Parser, commands: Commands[Parser]) -> None:
    """Adds the client's commands to the command line."""
    for add in (_add_clone, _add_ls, _add_tasks, _add_cancel, _add_start, _add_rm):
        _add_server(add(commands))
    _add_completion(parser, commands)


def _add_clone(commands: Commands[Parser]) -> Parser:
    clone = _add(commands, "clone", "clone a guest or a volume", "Clones a guest, or a volume of a storage pool.")
    clone.add_argument("source", metavar="GUEST|POOL/VOLUME", help="what to clone; a name with a slash is a volume's")
    names = clone.add_mutually_exclusive_group()
    names.add_argument("--count", type=_count, metavar="N", help="how many clones to make, all of them or none")
    names.add_argument("--name", help="what the clone is called; left out: a name that nothing else has")
    clone.add_argument("--pool", help="the storage pool that its disks go to")
    clone.add_argument("--method", choices=METHODS, help="how disks are cloned (default auto)")
    clone.add_argument("--bandwidth", type=_count, metavar="MIB", help="MiB/s that method copy may take at most")
    clone.add_argument("--flatten", action="store_true", help="copy the content of backing files into the clone")
    clone.add_argument("--drop-hostdevs", action="store_true", help="leave passed-through devices out of the clone")
    clone.add_argument("--start", action="store_true", help="start the clone when it is made")
    clone.add_argument("--title", help="the clone's title")
    clone.add_argument("--description", help="the clone's description")
    clone.add_argument("--dry-run", action="store_true", help="only say what would be done")
    clone.add_argument(
        "--wait", action="store_true", help="wait until all is done; Ctrl-C cancels, a second one leaves"
    )
    return clone


def _add_ls(commands: Commands[Parser]) -> Parser:
    ls = _add(commands, "ls", "list guests, pools or volumes", "Lists guests, storage pools, or the volumes of a pool.")
    ls.add_argument("kind", nargs="?", choices=KINDS, default=KINDS[0], help="what to list (default guests)")
    ls.add_argument("of_pool", nargs="?", metavar="POOL", help="whose volumes")
    return ls


def _add_tasks(commands: Commands[Parser]) -> Parser:
    tasks = _add(commands, "tasks", "list clones that are being made", "Lists tasks, each of which makes a clone.")
    which = tasks.add_mutually_exclusive_group()
    for status, words in (
        ("running", "those that run (default, unless there is a --batch)"),
        ("failed", "those that failed"),
        ("all", "those that ended, too (default of a --batch)"),
    ):
        which.add_argument(f"--{status}", action="store_const", dest="which", const=status, help=words)
    tasks.add_argument("--batch", metavar="ID", help="those of one batch")
    tasks.add_argument("--follow", action="store_true", help="go on with a line for each change; a batch's end ends it")
    return tasks


def _add_cancel(commands: Commands[Parser]) -> Parser:
    cancel = _add(commands, "cancel", "cancel clones", "Cancels clones that are being made; nothing of them is left.")
    cancel.add_argument("task", nargs="*", metavar="TASK", help="number of a task")
    cancel.add_argument("--batch", metavar="ID", help="all of a batch instead")
    cancel.add_argument("--undo", action="store_true", help="with --batch: delete those, too, that were made already")
    return cancel


def _add_start(commands: Commands[Parser]) -> Parser:
    start = _add(commands, "start", "start a guest", "Starts a guest that is shut off.")
    start.add_argument("guest", metavar="GUEST", help="its name")
    return start


def _add_rm(commands: Commands[Parser]) -> Parser:
    text = "Deletes a guest that is shut off, and the storage that was made for it when it was cloned."
    rm = _add(commands, "rm", "delete a guest", text)
    rm.add_argument("guest", metavar="GUEST", help="its name")
    rm.add_argument(
        "--storage", action="store_true", help="delete its other storage, too, unless somebody else uses it"
    )
    return rm


def _add_server(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="print the server's JSON")
    server = command.add_argument_group("which server")
    server.add_argument("--url", help=f"its address (default CLONER_URL, or {DEFAULT_URL})")
    server.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file that has the token (default CLONER_TOKEN)"
    )
    server.add_argument(
        "--cacert", type=Path, metavar="FILE", help="the only authority to trust (default the system's)"
    )
    server.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="for how long to ask a server again that does not answer or is busy (default %(default)g)",
    )


def _add_completion(parser: Parser, commands: Commands[Parser]) -> None:
    completion = commands.add_parser(
        "completion",
        help="print what makes a shell complete",
        description="Prints a script that makes a shell complete commands, options and names of guests.",
    )
    completion.add_argument("shell", choices=SHELLS, help="which shell")
    completion.set_defaults(run=lambda options: _complete(parser, options))


def _add(commands: Commands[Parser], name: str, words: str, description: str) -> Parser:
    command = commands.add_parser(name, help=words, description=description)
    command.set_defaults(run=_run(name))
    return command


def _run(name: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from .commands import run as run_command  # noqa: PLC0415 - `cloner --help` need not load a client

        return run_command(name, options)

    return run


def _complete(parser: Parser, options: argparse.Namespace) -> int:
    from .completion import script  # noqa: PLC0415 - as above

    print(script(parser, options.shell))
    return 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:  # noqa: PLR2004 - eleven days, also to rule out infinity
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
