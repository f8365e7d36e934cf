"""Scripts that make a shell complete the command line, made of the parsers by shtab.

They are text and complete without starting Python, but for names of guests and pools, which the server is asked for:
it has a second to answer, else there are none. Only names are offered that need no quotes, since a shell would run what
is in some others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

_PLAIN = "^[A-Za-z0-9_][A-Za-z0-9._-]*$"
_NAMES = f"cloner ls {{kind}} --timeout 1 2>/dev/null </dev/null | cut -f1 | grep -E '{_PLAIN}'"

_KINDS = {"source": "guests", "guest": "guests", "pool": "pools", "of_pool": "pools"}
"""What an argument names, by where argparse puts it."""

_BASH = """
_cloner_{kind}() {{
  local name
  {names} | while read -r name; do
    if [[ "$name" == "$1"* ]]; then printf '%s\\n' "$name"; fi
  done
}}
"""
_ZSH = """
_cloner_{kind}() {{
  local -a names
  names=(${{(f)"$({names})"}})
  compadd -a names
}}
"""
_FISH = """
function _cloner_{kind}
  {names}
end
"""
_FUNCTIONS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`."""
    for action in _actions(parser):
        if action.dest in _KINDS:
            action.complete = _names(_KINDS[action.dest])  # type: ignore[attr-defined]  # how shtab wants it
        elif action.dest == "state_dir":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # as above
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # as above
    functions = (_FUNCTIONS[shell].format(kind=kind, names=_NAMES.format(kind=kind)) for kind in ("guests", "pools"))
    return str(shtab.complete(parser, shell, preamble="".join(functions)))


def _names(kind: str) -> dict[str, str]:
    return {"bash": f"_cloner_{kind}", "zsh": f"_cloner_{kind}", "fish": f"(_cloner_{kind})"}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of all commands and their verbs."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
