"""`cloner backup`: copies the journal to a file, while servers work on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..settings import demo_uri, load


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the command line."""
    backup = commands.add_parser(
        "backup",
        help="copy the journal to a file",
        description="Copies the journal to a file that must not be there yet, also while servers work on it.",
    )
    backup.add_argument("file", metavar="FILE", type=Path, help="where to; for its owner alone")
    backup.add_argument("--demo", action="store_true", help="the demo's journal")
    backup.add_argument("--state-dir", metavar="DIR", help="where the journal lies")
    backup.add_argument("--config", metavar="FILE", type=Path, help="configuration file in the manner of cloner.conf")
    backup.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..engine.backup import back_up  # noqa: PLC0415 - `cloner --help` need not load a database

    # Whether libvirt answers makes no difference here, so that a backup is never one of the demo by mistake.
    given = {"state_dir": options.state_dir, "connect": demo_uri() if options.demo else None}
    settings = load(options.config, given)
    ended = back_up(settings.journal_url, options.file.absolute())
    print(f"the journal is backed up to {options.file}, {options.file.stat().st_size} bytes")
    if ended:
        print(f"{ended} clones are under way; put back, the journal has them as ended, and undoes nothing")
    return 0
