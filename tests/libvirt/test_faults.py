"""All or nothing, whatever fails: each call of libvirt, the file system and the journal that a clone makes, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import libvirt
import pytest

from support.guests import define_guest, remove_guest
from support.libvirtd import PrivateLibvirtd
from support.running import run
from support.storage import KiB, MiB, mounted, sha256
from support.trials import Case, FailingServer, Fault, Trials, faults, uefi_guest


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
        ("reflink", ("accept", "make"), 150),
        ("copy", ("make",), 90),  # what is looked up before a clone is accepted does not depend on the method
        ("linked", ("make",), 70),
        ("libvirt", ("make",), 80),
        ("volume", ("accept", "make"), 50),
        ("loose", ("accept",), 50),
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
