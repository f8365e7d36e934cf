"""Images and files that lead somewhere else: out of libvirt's pools nothing is read, by whatever method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from support import people
from support.answers import cloned, refusal
from support.guests import Disk, inventory
from support.libvirtd import PrivateLibvirtd
from support.people import USER
from support.running import run, wait_until
from support.server import Response, Server
from support.storage import KiB, MiB, make_pool, make_qcow2, make_raw, pool_path, qemu_img_compare, some_data

Guest = Callable[..., libvirt.virDomain]

KIMCHI = (
    "<kimchi:metadata xmlns:kimchi='https://github.com/kimchi-project/kimchi'>"
    f"<access><user>{USER}</user></access></kimchi:metadata>"
)
every_method = pytest.mark.parametrize(
    "wishes",
    [{}, *({"method": method} for method in ("reflink", "copy", "linked", "libvirt")), {"flatten": True}],
    ids=str,
)


@pytest.fixture
def server(libvirtd: PrivateLibvirtd, conn: libvirt.virConnect, tmp_path: Path) -> Iterator[Server]:
    with Server(libvirtd.uri, tmp_path / "state") as running:
        yield running


@pytest.fixture
def secret(folder: Path) -> Path:
    """A file outside of every pool, as /etc/shadow is one; libvirtd may read it, or it would tell nothing."""
    path = folder / "secret"
    path.write_bytes(b"not for anybody " * 4096)
    path.chmod(0o644)
    return path


@pytest.fixture
def images(conn: libvirt.virConnect, file_system: Callable[..., Path]) -> libvirt.virStoragePool:
    """A pool on XFS, where every method can serve."""
    return make_pool(conn, "images", file_system("xfs") / "pool")


def refused_volume(server: Server, conn: libvirt.virConnect, name: str, wishes: dict[str, object]) -> str:
    """Why a volume is not cloned, after which everything is as it was."""
    before = inventory(conn)
    answer = server.request("POST", f"storagepools/images/storagevolumes/{name}/clone", wishes)
    assert refusal(answer) == (400, "CLNVOL0001E")
    assert inventory(conn) == before
    reason: str = answer.json["reason"]
    return reason


def refused_guest(server: Server, conn: libvirt.virConnect, wishes: dict[str, object], *, user: bool = False) -> str:
    """Why the guest web is not cloned, for an admin or for its user."""
    before = inventory(conn)
    answer = ask(server, "vms/web/clone", wishes, user=user)
    assert refusal(answer) == (400, "CLNVM0002E")
    assert inventory(conn) == before
    reason: str = answer.json["reason"]
    return reason


def ask(server: Server, path: str, body: dict[str, object], *, user: bool) -> Response:
    secret = people.token(server.state_dir, f"t{len(path)}{body}"[:60], user=USER) if user else server.token
    return server.request("POST", path, body, {"Authorization": f"Bearer {secret}"}, anonymous=True)


def overlay_on(backing: Path | str, folder: Path, name: str = "web.qcow2") -> Path:
    """An image that says that it stands on something, whether that is there or not."""
    path = folder / name
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", str(backing), path, str(64 * KiB))
    path.chmod(0o666)
    return path


# --- Symbolic links --------------------------------------------------------------------------------------------------


@every_method
def test_a_link_in_a_pool_does_not_lead_out_of_it(
    server: Server,
    conn: libvirt.virConnect,
    images: libvirt.virStoragePool,
    guest: Guest,
    secret: Path,
    wishes: dict[str, object],
) -> None:
    """libvirt takes it for a volume, and would read what it leads to."""
    link = pool_path(images) / "web.img"
    link.symlink_to(secret)
    images.refresh()
    assert images.listVolumes() == ["web.img"]
    assert "symbolic link" in refused_volume(server, conn, "web.img", wishes)
    guest("web", [link])
    assert "symbolic link" in refused_guest(server, conn, wishes)


def test_a_link_that_lies_in_no_pool_is_said_to_be_one(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, folder: Path, secret: Path
) -> None:
    (folder / "web.img").symlink_to(secret)
    guest("web", [folder / "web.img"])
    assert "is a symbolic link that lies in no storage pool: name" in refused_guest(server, conn, {})


@every_method
def test_nor_does_one_that_an_image_stands_on(
    server: Server,
    conn: libvirt.virConnect,
    images: libvirt.virStoragePool,
    guest: Guest,
    secret: Path,
    wishes: dict[str, object],
) -> None:
    (pool_path(images) / "base.img").symlink_to(secret)
    path = overlay_on("base.img", pool_path(images))
    images.refresh()
    assert sorted(images.listVolumes()) == ["base.img", "web.qcow2"]
    assert "symbolic link" in refused_volume(server, conn, "web.qcow2", wishes)
    guest("web", [path])
    assert "symbolic link" in refused_guest(server, conn, wishes)


@pytest.mark.parametrize("method", ["reflink", "copy", "libvirt"])
def test_a_link_to_another_volume_is_that_volume(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, method: str
) -> None:
    volume = make_qcow2(images, "real.qcow2", MiB, {0: some_data(64 * KiB)})
    (pool_path(images) / "link.qcow2").symlink_to("real.qcow2")
    images.refresh()
    task = cloned(server, "storagepools/images/storagevolumes/link.qcow2", method=method)
    copy = Path(images.storageVolLookupByName(task["name"]).path())
    assert not copy.is_symlink()
    assert qemu_img_compare(copy, Path(volume.path()))


@every_method
def test_an_image_that_stands_on_another_file_by_a_link_than_by_its_path_is_refused(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, wishes: dict[str, object]
) -> None:
    """QEMU looks for a relative name beside the link that it is given, where there is another file of that name."""
    other = make_pool(conn, "other", pool_path(images).parent / "other")
    for place, seed in ((images, 1), (other, 2)):
        make_raw(place, "base.img", 64 * KiB, {0: some_data(64 * KiB, seed)})
    path = overlay_on("base.img", pool_path(other))
    link = pool_path(images) / "web.qcow2"
    link.symlink_to(path)
    for each in (images, other):
        each.refresh()
    assert not qemu_img_compare(link, path), "QEMU has two disks there"
    assert "beside the link" in refused_volume(server, conn, "web.qcow2", wishes)
    guest("web", [link])
    assert "beside the link" in refused_guest(server, conn, wishes)


@pytest.mark.parametrize("name", ["base.img", "{folder}/base.img"])
def test_an_image_that_stands_on_one_file_by_a_link_and_by_its_path_is_cloned(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, name: str
) -> None:
    """Into the pool of the link, if it is cloned as a volume of that."""
    other = make_pool(conn, "other", pool_path(images).parent / "other")
    make_raw(other, "base.img", 64 * KiB, {0: some_data(64 * KiB)})
    path = overlay_on(name.format(folder=pool_path(other)), pool_path(other))
    link = pool_path(images) / "web.qcow2"
    link.symlink_to(path)
    (pool_path(images) / "base.img").symlink_to(pool_path(other) / "base.img")
    for each in (images, other):
        each.refresh()
    task = cloned(server, "storagepools/images/storagevolumes/web.qcow2")
    assert task["target_uri"].startswith("/plugins/kimchi/storagepools/images/")
    assert qemu_img_compare(Path(images.storageVolLookupByName(task["name"]).path()), link)
    guest("web", [link])
    target = cloned(server, "vms/web")["disks"][0]["target"]
    copy = conn.storagePoolLookupByName(target["pool"]).storageVolLookupByName(target["name"])
    assert qemu_img_compare(Path(copy.path()), link)


def test_uefi_variables_that_are_a_link_are_not_copied(
    server: Server, conn: libvirt.virConnect, guest: Guest, secret: Path, folder: Path
) -> None:
    """Their folder belongs to QEMU's account on many hosts."""
    link = folder / "web_VARS.fd"
    link.symlink_to(secret)
    guest("web", nvram=link)
    before = inventory(conn, folder)
    answer = server.request("POST", "vms/web/clone")
    assert refusal(answer) == (400, "CLNVM0003E")
    assert "symbolic link" in answer.json["reason"]
    assert inventory(conn, folder) == before


# --- Backing files ---------------------------------------------------------------------------------------------------


@every_method
def test_an_image_on_a_file_in_no_pool_is_refused_and_it_is_said_what_to_do(
    server: Server,
    conn: libvirt.virConnect,
    images: libvirt.virStoragePool,
    guest: Guest,
    secret: Path,
    wishes: dict[str, object],
) -> None:
    path = overlay_on(secret, pool_path(images))
    images.refresh()
    guest("web", [path], metadata=KIMCHI)
    reasons = [refused_guest(server, conn, wishes, user=is_user) for is_user in (False, True)]
    for reason in (*reasons, refused_volume(server, conn, "web.qcow2", wishes)):
        assert str(secret) in reason
        assert "pool-refresh" in reason
        assert "rebase" in reason


@pytest.mark.parametrize(
    "backing", ["/etc/passwd", "../../../../../etc/passwd", "nbd://127.0.0.1/x", "json:{}", "/nowhere/at/all"]
)
def test_whatever_else_it_names(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, backing: str
) -> None:
    path = overlay_on(backing, pool_path(images))
    images.refresh()
    guest("web", [path])
    assert "backing file" in refused_guest(server, conn, {})
    assert "backing file" in refused_guest(server, conn, {"flatten": True})


def test_what_counts_is_what_the_image_says_now(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, secret: Path
) -> None:
    """libvirt's view is as old as its last refresh."""
    base = Path(make_raw(images, "base.img", MiB, {0: some_data(64 * KiB)}).path())
    path = Path(make_qcow2(images, "web.qcow2", MiB, backing=base).path())
    guest("web", [path])
    cloned(server, "vms/web")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, path)
    assert str(secret) in refused_guest(server, conn, {})


def test_a_file_of_a_guest_in_no_pool_may_stand_on_a_volume_and_on_nothing_else(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, folder: Path, secret: Path
) -> None:
    base = Path(make_raw(images, "base.img", MiB, {0: some_data(64 * KiB)}).path())
    loose = guest("web", [overlay_on(base, folder)])
    cloned(server, "vms/web", pool="images")
    loose.undefine()
    guest("web", [overlay_on(secret, folder)])
    assert str(secret) in refused_guest(server, conn, {"pool": "images"})


# --- Images of more than one file ------------------------------------------------------------------------------------


@every_method
def test_an_image_whose_data_lies_in_another_file_is_refused(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, folder: Path, wishes: dict[str, object]
) -> None:
    """qemu-img, and so libvirt, would read that file, wherever it is."""
    data, path = folder / "data.raw", pool_path(images) / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", path, "1M")
    for file in (data, path):
        file.chmod(0o666)
    images.refresh()
    assert "data lies in another file" in refused_volume(server, conn, "web.qcow2", wishes)


@every_method
def test_an_image_that_may_be_many_files_is_refused(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, wishes: dict[str, object]
) -> None:
    path = pool_path(images) / "web.vmdk"
    run("qemu-img", "create", "-q", "-f", "vmdk", path, "1M")
    path.chmod(0o666)
    images.refresh()
    assert "vmdk" in refused_volume(server, conn, "web.vmdk", wishes)


# --- Formats ---------------------------------------------------------------------------------------------------------


@every_method
def test_what_a_guest_wrote_into_its_raw_disk_is_not_taken_for_an_image(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest, wishes: dict[str, object]
) -> None:
    """Here the header of an overlay on another guest's disk, which libvirt sees when it refreshes the pool."""
    others = Path(make_raw(images, "others.img", 64 * KiB, {0: some_data(64 * KiB)}).path())
    overlay = overlay_on(others, pool_path(images), "made.qcow2")
    disk = Path(make_raw(images, "web.img", MiB).path())
    guest("web", [Disk(disk, format="raw")])
    with disk.open("r+b") as file:
        file.write(overlay.read_bytes())
    overlay.unlink()
    images.refresh()
    wait_until(
        lambda: [vm for vm in server.request("GET", "vms").json if vm["name"] == "web"], 30, "the guest is known"
    )
    assert "web reads it as raw, and libvirt takes it for qcow2" in refused_volume(server, conn, "web.img", wishes)
    assert "libvirt takes the volume for qcow2" in refused_guest(server, conn, wishes)


def test_what_a_guest_wrote_into_its_raw_disk_by_a_link_is_not_taken_for_an_image(
    server: Server, conn: libvirt.virConnect, images: libvirt.virStoragePool, guest: Guest
) -> None:
    others = Path(make_raw(images, "others.img", 64 * KiB, {0: some_data(64 * KiB)}).path())
    other = make_pool(conn, "other", pool_path(images).parent / "other")
    disk = overlay_on(others, pool_path(other), "real.img")
    link = pool_path(images) / "web.img"
    link.symlink_to(disk)
    for each in (images, other):
        each.refresh()
    guest("web", [Disk(link, format="raw")])
    wait_until(
        lambda: [vm for vm in server.request("GET", "vms").json if vm["name"] == "web"], 30, "the guest is known"
    )
    assert "web reads it as raw, and libvirt takes it for qcow2" in refused_volume(server, conn, "web.img", {})
