"""What libvirt keeps for a guest beside its disks: each clone has its own of that, with the source's content."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from support.answers import cloned, refusal
from support.guests import inventory, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.server import Server
from support.storage import sha256

TPM = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
KEPT_TPM = TPM.replace("/>", " persistent_state='yes'/>")
Guest = Callable[..., libvirt.virDomain]


@pytest.fixture
def tpm_dir(libvirtd: PrivateLibvirtd) -> Path:
    return libvirtd.folder / "c/libvirt/qemu/swtpm"


@pytest.fixture
def nvram_dir(libvirtd: PrivateLibvirtd) -> Path:
    return libvirtd.folder / "c/libvirt/qemu/nvram"


@pytest.fixture
def server(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, tmp_path: Path, tpm_dir: Path, nvram_dir: Path
) -> Iterator[Server]:
    """One that is told where this libvirtd, which listens on a socket of its own, keeps such files."""
    conf = tmp_path / "cloner.conf"
    conf.write_text(f"[cloner]\ntpm_dir = {tpm_dir}\nnvram_dir = {nvram_dir}\n", "utf-8")
    with Server(libvirtd.uri, tmp_path / "state", args=["--config", str(conf)]) as running:
        yield running


def started_once(domain: libvirt.virDomain) -> libvirt.virDomain:
    """libvirt makes what a guest has of its own at the first start."""
    domain.create()
    stop_guest(domain)
    return domain


def define_uefi(conn: libvirt.virConnect, name: str) -> libvirt.virDomain:
    """A guest whose firmware libvirt chooses, so that its XML does not tell where the variables are."""
    return conn.defineXML(
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>"
        "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>"
        "<devices><memballoon model='none'/></devices></domain>"
    )


def foreseen(server: Server, **body: object) -> dict[str, Any]:
    """What a dry run tells of a clone."""
    plan: dict[str, Any] = server.request("POST", "vms/web/clone", {"dry_run": True, **body}).json["plans"][0]
    return plan


def state_of(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Content, mode and owner of each file of a TPM's state."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    stats = {path: path.stat() for path in found}
    return {
        str(path.relative_to(folder)): (sha256(path), status.st_mode, status.st_uid) for path, status in stats.items()
    }


def test_a_clone_has_a_copy_of_the_tpms_state_and_starts_with_it(
    server: Server, conn: libvirt.virConnect, guest: Guest, tpm_dir: Path
) -> None:
    source = started_once(guest("web", devices=TPM))
    kept = tpm_dir / source.UUIDString()
    before = state_of(kept)
    assert before, "swtpm has made a state"

    task = cloned(server, "vms/web")

    copy = tpm_dir / task["uuid"]
    assert state_of(copy) == before
    assert (copy.stat().st_mode, copy.stat().st_uid) == (kept.stat().st_mode, kept.stat().st_uid)
    started_once(conn.lookupByName(task["name"]))
    assert state_of(kept) == before, "the clone has written to its own"
    assert server.request("DELETE", f"vms/{task['name']}").status == 204
    assert not copy.exists()
    assert state_of(kept) == before


@pytest.mark.parametrize(("target", "body"), [("copy", {}), ("web", {"storage": True})])
def test_the_state_of_a_tpm_that_libvirt_is_to_keep_goes_with_the_storage(
    server: Server, guest: Guest, tpm_dir: Path, target: str, body: dict[str, bool]
) -> None:
    """Libvirt leaves such a one where it is when a guest is undefined, for whom the guest may be defined again."""
    source = started_once(guest("web", devices=KEPT_TPM))
    states = {"web": tpm_dir / source.UUIDString(), "copy": tpm_dir / cloned(server, "vms/web", name="copy")["uuid"]}
    assert all(path.exists() for path in states.values())
    assert server.request("DELETE", f"vms/{target}", body).status == 204
    assert {name for name, path in states.items() if path.exists()} == set(states) - {target}


def test_the_state_of_a_tpm_that_libvirt_is_to_keep_stays_where_the_storage_does(
    server: Server, guest: Guest, tpm_dir: Path
) -> None:
    source = started_once(guest("web", devices=KEPT_TPM))
    assert server.request("DELETE", "vms/web").status == 204
    assert (tpm_dir / source.UUIDString()).exists()


def test_a_tpm_that_was_never_started_has_no_state_to_clone(
    server: Server, conn: libvirt.virConnect, guest: Guest, tpm_dir: Path
) -> None:
    guest("web", devices=TPM)
    assert foreseen(server)["tpm"] is False
    task = cloned(server, "vms/web")
    assert not (tpm_dir / task["uuid"]).exists()
    started_once(conn.lookupByName(task["name"]))


def test_a_dry_run_tells_of_what_is_there_to_copy(server: Server, conn: libvirt.virConnect, nvram_dir: Path) -> None:
    source = define_uefi(conn, "web")
    assert foreseen(server, name="copy")["nvram"] is None
    cloned(server, "vms/web", name="copy")
    assert not (nvram_dir / "copy_VARS.fd").exists()
    started_once(source)
    paths = {"source": str(nvram_dir / "web_VARS.fd"), "target": str(nvram_dir / "second_VARS.fd")}
    assert foreseen(server, name="second")["nvram"] == paths
    cloned(server, "vms/web", name="second")
    assert (nvram_dir / "second_VARS.fd").exists()


def test_a_clone_that_fails_after_the_tpm_was_copied_leaves_nothing(
    server: Server, conn: libvirt.virConnect, guest: Guest, tpm_dir: Path
) -> None:
    source = started_once(guest("web", devices=TPM))
    strange = tpm_dir / source.UUIDString() / "zzz"
    os.mkfifo(strange)  # nobody knows how to copy that
    before = inventory(conn), {path.name for path in tpm_dir.iterdir()}

    task = server.wait_task(server.request("POST", "vms/web/clone").json["id"])

    assert task["status"] == "failed"
    assert "neither a file nor a folder" in task["message"]
    assert (inventory(conn), {path.name for path in tpm_dir.iterdir()}) == before
    strange.unlink()


def test_uefi_variables_that_only_libvirt_knows_the_place_of_are_copied(
    server: Server, conn: libvirt.virConnect, nvram_dir: Path
) -> None:
    started_once(define_uefi(conn, "web"))
    variables = nvram_dir / "web_VARS.fd"
    content = variables.read_bytes()
    changed = content[:-16] + b"these are of web"
    variables.write_bytes(changed)

    task = cloned(server, "vms/web")

    copy = nvram_dir / f"{task['name']}_VARS.fd"
    assert copy.read_bytes() == changed
    assert copy.stat().st_uid == variables.stat().st_uid
    started_once(conn.lookupByName(task["name"]))
    assert copy.read_bytes()[-16:] == b"these are of web", "libvirt takes the file that is there"
    assert variables.read_bytes() == changed
    assert server.request("DELETE", f"vms/{task['name']}").status == 204
    assert not copy.exists()
    assert variables.exists()


def test_where_nobody_can_tell_the_place_the_guest_is_refused(
    libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, guest: Guest, tmp_path: Path
) -> None:
    guest("sealed", devices=TPM)
    define_uefi(conn, "web")
    before = inventory(conn)
    with Server(libvirtd.uri, tmp_path / "untold") as server:
        for name, setting in (("sealed", "tpm_dir"), ("web", "nvram_dir")):
            answer = server.request("POST", f"vms/{name}/clone")
            assert refusal(answer) == (400, "CLNVM0003E")
            assert f"set {setting}" in answer.json["reason"]
    assert inventory(conn) == before
