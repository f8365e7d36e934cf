"""`cloner token`: tokens are made and revoked by whoever may write the journal, without a server."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

from .. import errors
from ..callers import FIRST_ADMIN, READ, SCOPES
from ..settings import Settings

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_S = 100 * 365 * 86400
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Read = Callable[[argparse.Namespace], Settings]


def add_to(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    add_common: Callable[[argparse.ArgumentParser], None],
    read: Read,
) -> None:
    """Adds the command to the command line; `read` makes settings of its options."""
    token = commands.add_parser("token", help="make, list and revoke tokens", description=__doc__)
    verbs = token.add_subparsers(required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a token and print it, once")
    create.add_argument("name", type=_name, help="what the token is called: letters, digits, dots, dashes")
    create.add_argument("--scope", choices=SCOPES, default=READ, help="what it may do (default read)")
    create.add_argument("--expires", type=_lifetime, default="90d", help="30m, 12h, 90d (default), 8w or never")
    create.add_argument("--user", type=_user, help="the user that it acts for; left out: every guest is there")
    show = verbs.add_parser("list", help="list the tokens, without their secrets")
    show.add_argument("--json", action="store_true", help="print a JSON list")
    revoke = verbs.add_parser("revoke", help="make a token worthless from now on")
    revoke.add_argument("name", help="of the token")
    for verb, run in ((create, _create), (show, _list), (revoke, _revoke)):
        add_common(verb)
        verb.set_defaults(run=lambda options, run=run: run(options, read(options)))


def _create(options: argparse.Namespace, settings: Settings) -> int:
    """The secret alone is on stdout."""
    with closing(_Journal(settings)) as journal:
        tokens = journal.tokens
        secret = tokens.create(options.name, options.scope, owner=options.user or "", lifetime_s=options.expires)
        made = next(token for token in tokens.all() if token.name == options.name)
    until = f"until {_time(made.expires)}" if made.expires else "until it is revoked"
    print(secret)
    print(f"cloner: token {made.name} of scope {made.scope} is good {until}. It is not shown again.", file=sys.stderr)
    return 0


def _list(options: argparse.Namespace, settings: Settings) -> int:
    with closing(_Journal(settings)) as journal:
        rows = [
            {"name": token.name, "scope": token.scope, "user": token.owner or None}
            | {key: _time(at) for key, at in (("created", token.created), ("expires", token.expires))}
            | {"last_used": _time(token.used)}
            for token in journal.tokens.all()
        ]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    return 0


def _revoke(options: argparse.Namespace, settings: Settings) -> int:
    with closing(_Journal(settings)) as journal:
        journal.tokens.revoke(options.name)
    return 0


class _Journal:
    """The journal of a state directory and its tokens, for as long as a command takes."""

    def __init__(self, settings: Settings) -> None:
        from ..engine.journal import Journal  # noqa: PLC0415 - `cloner --help` need not load a data base
        from ..engine.tokens import Tokens  # noqa: PLC0415 - as above

        try:
            settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise errors.InvalidConfiguration(cause=f"the state directory cannot be used: {error}") from error
        self._journal = Journal(settings.journal_url)
        self.tokens = Tokens(self._journal)

    def close(self) -> None:
        self._journal.close()


def _print_table(rows: list[dict[str, str | None]]) -> None:
    head = ("NAME", "SCOPE", "USER", "CREATED", "EXPIRES", "LAST USED")
    lines = [
        head,
        *(
            tuple(value or ("never" if key in ("expires", "last_used") else "-") for key, value in row.items())
            for row in rows
        ),
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _time(at: int | None) -> str | None:
    """Microseconds since 1970 as RFC 3339, to the second."""
    if at is None:
        return None
    return datetime.fromtimestamp(at // 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of up to 64 letters, digits, dots, dashes")
    return text


def _user(text: str) -> str:
    if not text or not text.isprintable() or ":" in text or text == FIRST_ADMIN:
        raise argparse.ArgumentTypeError(f"{text!r} is no user that a token can act for")
    return text


def _lifetime(text: str) -> float | None:
    """Seconds, or None for ever."""
    if text == "never":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})([mhdw])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30m, 12h, 90d, 8w or never")
    return float(seconds)
