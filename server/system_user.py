"""Asks the system about a user, in a process of its own: what takes long or hangs there can be ended.

A program, not a module: it reads one JSON object from stdin and writes one to stdout. Name services and PAM run code of
the host's, which may block for as long as a server in the network does, and some of it holds all threads meanwhile.
"""

import grp
import json
import os
import pwd
import sys
from typing import Any


def groups_of(entry: pwd.struct_passwd) -> list[str]:
    """Names of the groups that a user is in; a number that has no name is left out."""
    names = []
    for number in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            names.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue
    return names


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """`name` as the system writes it, None where it has no such user, and `groups`."""
    try:
        entry = pwd.getpwnam(question["user"])
    except (KeyError, ValueError):
        return {"name": None, "groups": []}
    return {"name": entry.pw_name, "groups": groups_of(entry)}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
