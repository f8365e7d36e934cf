"""Users of the system: their groups, asked for in a process that is ended when it takes too long."""

from __future__ import annotations

import grp
import os
import pwd
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cloner import errors
from cloner.callers import ADMIN, CLONE, USER, Caller
from cloner.server import accounts
from cloner.server.accounts import CHECKS, MOST_WAITING, Accounts, Rules
from cloner.settings import Settings
from support.answers import at_once
from support.running import wait_until


@pytest.fixture
def clock() -> Iterator[mock.Mock]:
    with mock.patch("time.monotonic", return_value=1000.0) as reads:
        yield reads


def program(folder: Path, text: str) -> mock._patch[Path]:
    """Another program in place of the one that asks the system."""
    path = folder / "program.py"
    path.write_text(text)
    return mock.patch.object(accounts, "_PROGRAM", path)


def counting(folder: Path, said: str = '{"name": "ann", "groups": ["staff"]}') -> mock._patch[Path]:
    """One that leaves a file behind each time."""
    return program(folder, f"import os\nopen('{folder}/asked-%d' % os.getpid(), 'w')\nprint('{said}')")


def asked(folder: Path) -> int:
    return len(list(folder.glob("asked-*")))


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_user_has_the_groups_of_the_system(user: str) -> None:
    entry = pwd.getpwnam(user)
    groups = frozenset(grp.getgrgid(number).gr_name for number in os.getgrouplist(user, entry.pw_gid))
    assert groups
    assert Accounts().caller(user) == Caller(user, groups, USER, CLONE)


@pytest.mark.parametrize("user", ["no-such-user", "", "a\0b", "\udcff", "x" * 10_000, "名前", "-h", '"'])
def test_who_is_no_user_of_the_system_has_no_groups(user: str) -> None:
    assert Accounts().caller(user) == Caller(user, frozenset(), USER, CLONE)


def test_the_system_is_asked_once_a_minute(tmp_path: Path, clock: mock.Mock) -> None:
    known = Accounts()
    with counting(tmp_path):
        for _ in range(3):
            assert known.caller("ann") == Caller("ann", frozenset({"staff"}), USER, CLONE)
        assert asked(tmp_path) == 1
        clock.return_value += 60
        known.caller("ann")
        assert asked(tmp_path) == 2


def test_of_many_who_ask_at_once_one_asks_the_system(tmp_path: Path) -> None:
    known = Accounts()
    with counting(tmp_path):
        assert {caller and caller.name for caller in at_once(30, lambda _: known.caller("ann"))} == {"ann"}
    assert asked(tmp_path) == 1


def test_the_name_is_the_systems_however_it_was_written(tmp_path: Path) -> None:
    """Or somebody would be another one, with limits of their own, by writing their name in capitals."""
    with counting(tmp_path):
        caller = Accounts().caller("ANN")
    assert caller is not None
    assert caller.name == "ann"


def test_a_system_that_does_not_answer_is_given_up_with_all_that_it_began(tmp_path: Path) -> None:
    hangs = "import os, subprocess, time\n"
    hangs += f"child = subprocess.Popen(['sleep', '600'])\nopen('{tmp_path}/child', 'w').write(f'{{child.pid}}!')\n"
    hangs += "time.sleep(600)"
    begun = tmp_path / "child"
    for patience in (0.5, 1.0, 2.0, 4.0, 8.0):  # seconds: until there is something to end
        with (
            program(tmp_path, hangs),
            mock.patch.object(accounts, "PATIENCE_S", patience),
            pytest.raises(errors.LoginUnavailable, match="CLNAUTH0005E"),
        ):
            Accounts().caller("ann")
        if begun.exists() and begun.read_text().endswith("!"):
            break
    child = Path("/proc", begun.read_text().removesuffix("!"), "cmdline")
    wait_until(lambda: not child.exists() or not child.read_bytes(), 10, "what it began has ended")


@pytest.mark.parametrize("text", ["raise SystemExit(1)", "print('no JSON')", "import os; os.kill(os.getpid(), 9)"])
def test_one_that_fails_is_asked_again_the_next_time(tmp_path: Path, text: str) -> None:
    known = Accounts()
    with program(tmp_path, text), pytest.raises(errors.LoginUnavailable):
        known.caller("ann")
    with counting(tmp_path):
        assert known.caller("ann") is not None


def test_a_user_whose_look_up_takes_long_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    known, go_on = Accounts(), tmp_path / "go-on"
    waits = "import json, os, sys, time\nuser = json.load(sys.stdin)['user']\n"
    waits += f"while user == 'slow' and not os.path.exists('{go_on}'): time.sleep(0.01)\n"
    with (
        program(tmp_path, waits + "print(json.dumps({'name': user, 'groups': []}))"),
        mock.patch.object(accounts, "PATIENCE_S", 60.0),
        ThreadPoolExecutor(2) as threads,
    ):
        slow = [threads.submit(known.caller, "slow") for _ in range(2)]
        quick = [known.caller(name) for name in ("ann", "bob")]
        still_asking = [not asking.done() for asking in slow]
        go_on.touch()
        assert [caller and caller.name for caller in quick] == ["ann", "bob"]
        assert still_asking == [True, True]
        assert [asking.result() for asking in slow] == [Caller("slow", frozenset(), USER, CLONE)] * 2


# --- By PAM ----------------------------------------------------------------------------------------------------------

BY_GROUPS = Rules("login", frozenset({"wheel", "ops"}), frozenset({"staff", "domain users"}))


def saying(name: str | None, *groups: str, right: bool = True) -> mock._patch[Any]:
    """What the system says, of a user and a password."""
    return mock.patch.object(accounts, "_ask", return_value={"name": name, "groups": list(groups), "right": right})


@pytest.mark.parametrize(
    ("groups", "role", "scope"),
    [
        (("wheel",), ADMIN, ADMIN),
        (("staff", "ops"), ADMIN, ADMIN),
        (("domain users", "games"), USER, CLONE),
        (("staff",), USER, CLONE),
    ],
)
def test_groups_decide_who_is_what(groups: tuple[str, ...], role: str, scope: str) -> None:
    with saying("ann", *groups):
        assert Accounts(BY_GROUPS).log_in("ann", "x", "::1") == Caller("ann", frozenset(groups), role, scope)
        assert Accounts(BY_GROUPS).caller("ann") == Caller("ann", frozenset(groups), role, scope)


@pytest.mark.parametrize("groups", [(), ("games",), ("Wheel",), ("domain", "users")])
def test_who_is_in_none_of_them_does_not_come_in(groups: tuple[str, ...]) -> None:
    with saying("ann", *groups):
        assert Accounts(BY_GROUPS).log_in("ann", "x", "::1") is None
        assert Accounts(BY_GROUPS).caller("ann") is None


def test_who_leaves_the_groups_is_out_within_a_minute(clock: mock.Mock) -> None:
    known = Accounts(BY_GROUPS)
    with saying("ann", "staff"):
        assert known.caller("ann") is not None
    clock.return_value += 60
    with saying("ann", "games"):
        assert known.caller("ann") is None


def test_the_first_admins_name_is_no_users() -> None:
    """Or an account of that name would have made what the first admin made."""
    with saying("admin", "staff"):
        assert Accounts(BY_GROUPS).log_in("Admin", "x", "::1") is None
    with saying("admin", "wheel"):
        assert Accounts(BY_GROUPS).log_in("admin", "x", "::1") is not None


@pytest.mark.parametrize(("user", "password"), [("", "x"), ("ann", ""), ("", "")])
def test_nothing_is_no_password(user: str, password: str) -> None:
    with saying("ann", "staff") as asking:
        assert Accounts(BY_GROUPS).log_in(user, password, "::1") is None
    asking.assert_not_called()


def test_a_wrong_password_is_one_in_whatever_group() -> None:
    with saying("ann", "wheel", right=False):
        assert Accounts(BY_GROUPS).log_in("ann", "x", "::1") is None


def test_without_rules_nobody_logs_in() -> None:
    with saying("ann", "wheel") as asking:
        assert Accounts().log_in("ann", "x", "::1") is None
    asking.assert_not_called()


def test_passwords_are_checked_a_few_at_a_time_and_for_no_address_alone() -> None:
    """Who guesses from one address leaves half of the checks to others, and who finds none free is told so."""
    known, go_on, asking = Accounts(BY_GROUPS), threading.Event(), threading.Semaphore(0)

    def ask(_question: dict[str, Any]) -> dict[str, Any]:
        asking.release()
        go_on.wait(60)
        return {"name": "ann", "groups": ["staff"], "right": True}

    with (
        mock.patch.object(accounts, "_ask", ask),
        mock.patch.object(accounts, "_TURN_S", 0.1),
        ThreadPoolExecutor(2 * CHECKS) as threads,
    ):
        try:
            guesses = [threads.submit(known.log_in, "ann", "x", "192.0.2.1") for _ in range(CHECKS // 2)]
            assert all(asking.acquire(timeout=60) for _ in guesses)
            with pytest.raises(errors.LoginUnavailable):
                known.log_in("ann", "x", "192.0.2.1")
            others = [threads.submit(known.log_in, "ann", "x", f"192.0.2.{n}") for n in range(2, 2 + CHECKS // 2)]
            assert all(asking.acquire(timeout=60) for _ in others)
            with pytest.raises(errors.LoginUnavailable):
                known.log_in("ann", "x", "192.0.2.99")
        finally:
            go_on.set()
        assert {who.result() for who in (*guesses, *others)} == {Caller("ann", frozenset({"staff"}), USER, CLONE)}
        assert known.log_in("ann", "x", "192.0.2.1") is not None


def test_who_waits_for_a_check_keeps_few_threads_from_others() -> None:
    """Each request that waits has a thread, and who sends log-ins by the hundred is to have few of them."""
    known, go_on, asking = Accounts(BY_GROUPS), threading.Event(), threading.Semaphore(0)

    def ask(_question: dict[str, Any]) -> dict[str, Any]:
        asking.release()
        go_on.wait(60)
        return {"name": "ann", "groups": ["staff"], "right": False}

    def guess(number: int) -> str:
        try:
            known.log_in("ann", "x", f"192.0.2.{number % 3}")
        except errors.LoginUnavailable:
            return "unavailable"
        return "wrong"

    with (
        mock.patch.object(accounts, "_ask", ask),
        mock.patch.object(accounts, "_TURN_S", 60),
        ThreadPoolExecutor(100) as threads,
    ):
        try:
            guesses = [threads.submit(guess, number) for number in range(100)]
            refused = [done.result() for done in islice(as_completed(guesses), 100 - CHECKS - MOST_WAITING)]
            assert set(refused) == {"unavailable"}
        finally:
            go_on.set()
        assert [guess.result() for guess in guesses].count("wrong") == CHECKS + MOST_WAITING


@pytest.mark.parametrize(("there", "service"), [("cloner", "cloner"), ("sshd", "login"), ("", "login")])
def test_a_service_that_the_host_lacks_is_login(tmp_path: Path, there: str, service: str) -> None:
    if there:
        (tmp_path / there).touch()
    with mock.patch.object(accounts, "SERVICE_FOLDERS", (str(tmp_path),)):
        found = accounts.rules(Settings(auth="pam", admin_groups="wheel,ops", user_groups="staff, domain users"))
    assert found == replace(BY_GROUPS, service=service)


# --- Memory ----------------------------------------------------------------------------------------------------------


def test_users_of_any_number_take_little_memory() -> None:
    known = Accounts()
    with mock.patch.object(accounts, "_ask", return_value={"name": None, "groups": [], "right": False}):
        for number in range(3000):
            known.caller(f"user{number}")
    assert len(known._known) <= 1000
