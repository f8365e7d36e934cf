"""Asks the system about a user, in a process of its own: what takes long or hangs there can be ended.

A program, not a module: it reads one JSON object from stdin and writes one to stdout. Name services and PAM run code of
the host's, which may block for as long as a server in the network does, and some of it holds all threads meanwhile.
"""

import ctypes
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


def is_password(question: dict[str, Any]) -> bool:
    """Whether PAM takes the password, and the account for one that may be used now."""
    import pam  # noqa: PLC0415 - installed with the extra `pam` alone

    checker = pam.pam()
    authenticate = checker.pam_authenticate

    def tell_host_and_authenticate(handle: Any, flags: int) -> Any:
        """For the host's log and for modules that go by it (pam_access, pam_faillock)."""
        checker.pam_set_item(handle, pam.PAM_RHOST, ctypes.c_char_p(question["address"].encode()))
        return authenticate(handle, flags)

    checker.pam_authenticate = tell_host_and_authenticate
    service = question["service"]
    return bool(checker.authenticate(question["user"], question["password"], service=service, resetcreds=False))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """`name` as the system writes it, None where it has no such user, `groups`, and whether a password is right."""
    try:
        right = "password" in question and is_password(question)
    except ValueError:  # a text that no user and no password can be
        right = False
    try:
        entry = pwd.getpwnam(question["user"])
    except (KeyError, ValueError):  # as above, or there is none
        return {"name": None, "groups": [], "right": right}
    return {"name": entry.pw_name, "groups": groups_of(entry), "right": right}


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
