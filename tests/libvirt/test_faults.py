"""All or nothing, whatever fails: each call of libvirt, of the file system and of the journal that a clone makes, once.

Then the same for what is called while a clone is undone: nothing is left, or the task's message names what is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import libvirt
import pytest

from support.guests import define_guest, remove_guest
from support.libvirtd import PrivateLibvirtd
from support.running import run
from support.storage import KiB, MiB, mounted, sha256
from support.trials import Case, FailingServer, Fault, Trials, faults, uefi_guest

WRITE = "make: journal.begin in journal._write"
DELETE = "undo: virStorageVol.delete in storage.delete_volume"


@pytest.fixture(scope="module")
def cases(libvirtd: PrivateLibvirtd) -> Iterator[dict[str, Case]]:
    """A UEFI guest with two disks on XFS and one on ext4, a volume, and a guest whose overlay lies in no pool."""
    with (
        mounted("xfs") as fast,
        mounted("ext4", 64 * MiB) as plain,
        uefi_guest(libvirtd, "fast", fast, 64 * KiB) as on_xfs,
        uefi_guest(libvirtd, "plain", plain, 64 * KiB) as on_ext4,
        closing(libvirtd.open()) as conn,
    ):
        system = on_xfs["reflink"].disks[0][0]
        path = f"storagepools/fast/storagevolumes/{system.name}"
        volume = Case(path, "auto", "fast", system.parent, ((system, ""),))
        loose = plain / "loose.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", plain / "pool" / "plain.qcow2", loose)
        guest = define_guest(conn, "loose", [loose])
        yield {
            **on_ext4,
            "reflink": on_xfs["reflink"],
            "volume": volume,
            "volume-libvirt": replace(volume, method="libvirt"),
            "loose": Case("vms/loose", "copy", "plain", plain / "pool", ((loose, "-vda.qcow2"),)),
        }
        remove_guest(guest)


@pytest.fixture(scope="module")
def server(
    libvirtd: PrivateLibvirtd, cases: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FailingServer]:
    """One for all faults: it outlives each. It ends before the file systems that it has files open on."""
    with FailingServer(libvirtd.uri, tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "phases", "least"),
    [
        ("reflink", ("accept", "make"), 110),
        ("copy", ("make",), 50),  # what is looked up before a clone is accepted does not depend on the method
        ("linked", ("make",), 40),
        ("libvirt", ("make",), 45),
        ("volume", ("accept", "make"), 40),
        ("loose", ("accept",), 40),
    ],
)
def test_each_call_that_fails_leaves_all_or_nothing(
    server: FailingServer,
    conn: libvirt.virConnect,
    cases: dict[str, Case],
    name: str,
    phases: tuple[str, ...],
    least: int,
) -> None:
    case = cases[name]
    trials = Trials(server, conn, case)
    sums = [sha256(source) for source, _ in case.disks]
    known = Trials(server, conn, cases["reflink"]).calls() if name in ("copy", "linked", "libvirt") else ()
    calls = only(trials.calls(), phases)
    assert calls.total() >= least
    wrong = [problem for fault in faults(calls, known) if (problem := trials.attempt(fault))]
    assert not wrong, "\n".join(wrong)
    assert [sha256(source) for source, _ in case.disks] == sums
    assert server.open_files(case.folder.parent) == []


def only(calls: Counter[str], phases: tuple[str, ...]) -> Counter[str]:
    return Counter({label: count for label, count in calls.items() if label.startswith(phases)})


def test_a_source_that_cannot_be_looked_at_again_may_have_changed(
    server: FailingServer, cases: dict[str, Case]
) -> None:
    server.arm([Fault("make: os.fstat in files.examine", 1, "EIO")])
    task = server.wait_task(server.request("POST", f"{cases['reflink'].path}/clone").json["id"])
    assert (task["status"], task["message"][:12]) == ("failed", "CLNTASK0001E")
    assert "is unchanged failed: [Errno 5] injected" in task["message"]


def everything(calls: Counter[str]) -> Fault:
    """Everything is made, and the last mark cannot be written."""
    return Fault(WRITE, calls[WRITE], "full")


def a_volume(calls: Counter[str]) -> Fault:
    """A volume is made, but the connection is lost before libvirt says so."""
    return Fault(next(label for label in calls if "createXML" in label), 1, "lost")


def the_nvram(_calls: Counter[str]) -> Fault:
    """The file is made, and cannot be looked at."""
    return Fault("make: os.fstat in files._copied", 2, "EIO")


KNOWN = [("reflink", the_nvram), ("copy", everything), ("linked", everything)]
"""Whose undoing calls what that of a whole reflink calls, where each fails in all ways."""


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("reflink", everything),
        ("reflink", the_nvram),
        ("copy", everything),
        ("linked", everything),
        ("volume", everything),
        ("volume", a_volume),  # only one: of two that are made side by side, the other may have begun or not
        ("volume-libvirt", a_volume),
    ],
)
def test_each_call_that_fails_while_a_clone_is_undone_leaves_nothing_that_is_not_named(
    server: FailingServer,
    conn: libvirt.virConnect,
    cases: dict[str, Case],
    name: str,
    made: Callable[[Counter[str]], Fault],
) -> None:
    """The clone fails once what its name says is made, and then something else fails as well."""
    trials = Trials(server, conn, cases[name])
    first = made(trials.calls())
    others = Trials(server, conn, cases["reflink"])
    known = undone(server, others, everything) if (name, made) in KNOWN else ()
    calls = undone(server, trials, made)
    assert calls[DELETE] > 0
    wrong = [problem for second in faults(calls, known) if (problem := trials.attempt(first, second))]
    assert not wrong, "\n".join(wrong)


def undone(server: FailingServer, trials: Trials, made: Callable[[Counter[str]], Fault]) -> Counter[str]:
    """The calls of undoing a clone that fails when so much is made."""
    problem = trials.attempt(made(trials.calls()))
    assert problem is None, problem
    return only(server.calls()[0], ("undo",))


def test_an_ending_that_meets_what_nobody_thought_of_is_kept_and_tried_again(
    server: FailingServer, conn: libvirt.virConnect, cases: dict[str, Case]
) -> None:
    trials = Trials(server, conn, cases["reflink"])
    problem = trials.attempt(everything(trials.calls()), Fault(DELETE, 1, "unforeseen"))
    assert problem is None, problem
    assert "cannot be ended yet" in server.log
    assert server.calls()[0][DELETE] == 3, "once in vain, and once for each disk"
