"""Who asks: what is not known for certain gives no right."""

from __future__ import annotations

from typing import Any

import pytest

from cloner.callers import ADMIN, ANYBODY, CLONE, NOBODY, READ, USER, Caller
from cloner.control.caller import of_session
from cloner.hypervisor.infos import DomainInfo
from cloner.model.guests import Guest, read_guest

ANN = Caller("ann", frozenset({"staff"}), USER, CLONE)


def guest(access: str) -> Guest:
    xml = f"<domain><name>web</name><metadata>{access}</metadata></domain>"
    return read_guest(DomainInfo("web", "", "shutoff", xml, True, False, False))


def kimchi(inside: str) -> str:
    return f"<k:metadata xmlns:k='https://github.com/kimchi-project/kimchi'><access>{inside}</access></k:metadata>"


@pytest.mark.parametrize(
    ("access", "is_there"),
    [
        (kimchi("<auth type='pam'><user>ann</user></auth>"), True),
        (kimchi("<auth type='pam'><group>staff</group></auth>"), True),
        (kimchi("<user>ann</user>"), True),
        (kimchi("<user>bob</user><user> ann </user>"), True),
        (kimchi("<auth type='ldap'><user>ann</user></auth>"), False),
        (kimchi("<auth type='ldap'><user>bob</user></auth><user>ann</user>"), False),  # of before there were kinds
        (kimchi("<auth><user>ann</user></auth>"), False),
        (kimchi("<user>staff</user><group>ann</group>"), False),
        (kimchi("<user>Ann</user><user>ann2</user><user/>"), False),
        (kimchi("<user>ann</user>").replace("kimchi-project", "somebody"), False),
        (kimchi("<user>ann</user>").replace("access", "axes"), False),
        ("<access><user>ann</user></access>", False),
        ("", False),
    ],
)
def test_a_guest_is_there_for_whom_kimchis_metadata_name(access: str, is_there: bool) -> None:
    assert guest(access).is_there_for(ANN) == is_there
    assert guest(access).is_there_for(ANYBODY)


@pytest.mark.parametrize(
    ("access", "is_there"),
    [
        ("<auth type='pam'><user>bob</user></auth><auth type='ldap'><user>ann</user></auth>", True),
        ("<auth type='pam'><user>ann</user></auth><auth type='ldap'><user>bob</user></auth>", False),
        ("<user>ann</user>", False),  # of before there were kinds, when all were PAM's
    ],
)
def test_by_the_kind_of_log_in_that_users_have(access: str, is_there: bool) -> None:
    xml = f"<domain><name>web</name><metadata>{kimchi(access)}</metadata></domain>"
    by_ldap = read_guest(DomainInfo("web", "", "shutoff", xml, True, False, False), log_in="ldap")
    assert by_ldap.is_there_for(ANN) == is_there


@pytest.mark.parametrize("inside", ["<user/>", "<user></user>", "<user> </user>", "<group/>", "<group> </group>", ""])
def test_nothing_is_there_for_nobody(inside: str) -> None:
    assert not guest(kimchi(inside)).is_there_for(NOBODY)


@pytest.mark.parametrize(
    ("caller", "may"),
    [
        (ANYBODY, ["ann", "bob", ""]),
        (ANN, ["ann"]),
        (Caller("ann", role=ADMIN, scope=CLONE), ["ann"]),
        (Caller("ann", role=ADMIN, scope=READ), []),
        (NOBODY, []),
        (Caller("", scope=CLONE), []),
    ],
)
def test_whose_things_may_be_ended(caller: Caller, may: list[str]) -> None:
    assert [owner for owner in ("ann", "bob", "") if caller.may_remove(owner)] == may


@pytest.mark.parametrize(
    ("session", "caller"),
    [
        ({}, NOBODY),
        ({"username": None, "role": "admin"}, NOBODY),
        ({"username": "", "role": "admin"}, NOBODY),
        ({"username": 7, "role": "admin"}, NOBODY),
        ({"username": "admin", "role": "user"}, NOBODY),  # else they would have made what the first admin made
        ({"username": "token:nightly", "role": "user"}, NOBODY),
        ({"username": "admin", "role": "admin"}, ANYBODY),
        ({"username": "ann"}, Caller("ann", scope=CLONE)),
        ({"username": "ann", "groups": None, "role": None}, Caller("ann", scope=CLONE)),
        ({"username": "ann", "groups": "staff", "role": "Admin"}, Caller("ann", scope=CLONE)),
        ({"username": "ann", "role": {"host": "admin"}}, Caller("ann", scope=CLONE)),
        ({"username": "ann", "groups": ["staff"], "role": "user"}, ANN),
        ({"username": "ann", "groups": ["staff"], "role": "admin"}, Caller("ann", frozenset({"staff"}), ADMIN, ADMIN)),
    ],
)
def test_a_session_of_woks(session: dict[str, Any], caller: Caller) -> None:
    assert of_session(session) == caller
