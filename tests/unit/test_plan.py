"""What a clone will do is decided before anything is written: each refusal, and each decision about a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from cloner import errors
from cloner.engine.chain import Chain, Image
from cloner.engine.deciding import draft_domain, draft_volume
from cloner.engine.domainxml import Disk, Identity, NetworkSource, ToldChain
from cloner.engine.files import FileFacts
from cloner.engine.plan import (
    CLONE,
    EMPTY,
    SHARE,
    Copy,
    Draft,
    Left,
    Wishes,
    split_volume_name,
)
from cloner.engine.reach import COPY, LIBVIRT, LINKED, REFLINK, Reach
from cloner.engine.survey import SourceDisk, Survey, network_volume
from cloner.hypervisor.infos import DomainInfo, PoolInfo, VolumeInfo
from cloner.hypervisor.places import Places
from cloner.utils import MAX_FILE_NAME_BYTES, MAX_NAME_BYTES, byte_length, get_next_clone_name

MiB, GiB = 1 << 20, 1 << 30
NOON = 1_795_429_330_539_756
_TOO_FAR = {REFLINK: "the host is far away", COPY: "the host is far away", LINKED: "it is a device"}
FAR = Reach(_TOO_FAR, _TOO_FAR)
"""As on a remote host: only libvirt can do anything."""

NEAR = Reach({}, {}, FileFacts(device=1, inode=2, length=20 * GiB, occupied=3 * GiB, written=NOON * 1000))
"""Files on one file system that can share blocks."""

ON_ITS_OWN = Chain()
OURS = Identity("web-clone-7", "6f1ecb8e-6c61-4d4b-8d52-1a4f5f1a0c11", "", ("52:54:00:00:00:01",))


def pool(name: str, kind: str = "dir", *, state: str = "active", available: int = 100 * GiB) -> PoolInfo:
    return PoolInfo(name, "", kind, state, 200 * GiB, 0, available, f"/{name}", {}, True, True)


def volume(name: str = "web.qcow2", form: str = "qcow2", *, capacity: int = 20 * GiB, **more: Any) -> VolumeInfo:
    known = VolumeInfo("images", name, f"/images/{name}", "file", form, capacity, 0, None, (), None, None, False, None)
    return replace(known, **more)


BASE = volume("base", "raw", path="/base")
ON_BASE = Chain((Image("/base", "raw"),), GiB, (("/base", NOON),), volumes=(BASE,))


def disk(
    of: VolumeInfo | None = None,
    target: str = "vda",
    *,
    stored: int = 3 * GiB,
    chain: Chain = Chain(),  # noqa: B008 - it is frozen
    reach: Reach | Mapping[str, Reach] = FAR,
    **more: Any,
) -> SourceDisk:
    """A disk of a guest; `more` is what its XML says of it. `reach` holds for every pool unless it is told of each."""
    form = of.format if of else None
    known = Disk(target, "disk", "file", form, of.path if of else None, None, None, True, False, False, None)
    everywhere = dict.fromkeys(("images", "default", "other"), reach) if isinstance(reach, Reach) else reach
    return SourceDisk(replace(known, **more), of, stored, everywhere, chain, "json:{}" if chain.images else "")


def domain(devices: str = "", os: str = "", state: str = "shutoff", *, saved_state: bool = False) -> DomainInfo:
    mac = "<interface type='user'><mac address='52:54:00:aa:00:01'/></interface>"
    uuid = "11f5c8a2-7c1e-4a34-9c3d-5c3c5a1c0001"
    xml = f"<domain><name>web</name><uuid>{uuid}</uuid><os>{os}</os><devices>{devices}{mac}</devices></domain>"
    return DomainInfo("web", uuid, state, xml, True, False, saved_state)


def survey(
    *disks: SourceDisk, pools: tuple[PoolInfo, ...] = (pool("images"), pool("default")), of: DomainInfo | None = None
) -> Survey:
    return Survey(disks, {pool.name: pool for pool in pools}, of or domain())


def room(of: PoolInfo) -> int:
    return of.available


def no_question(of: PoolInfo) -> NoReturn:
    raise AssertionError(f"the room of {of.name} was asked for")


def draft(*disks: SourceDisk, pools: tuple[PoolInfo, ...] = (pool("images"), pool("default")), **wishes: Any) -> Draft:
    return draft_domain(survey(*disks, pools=pools), Wishes(**wishes), room)


def copy_of(*disks: SourceDisk, **more: Any) -> Copy:
    (copy,) = draft(*disks, **more).copies
    return copy


def refusal(kind: type[errors.ClonerError], *disks: SourceDisk, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        draft(*disks, **more)
    return caught.value.reason


# --- The guest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["running", "blocked", "paused", "shutdown", "pmsuspended", "nostate"])
def test_a_guest_that_is_not_shut_off_is_refused(state: str) -> None:
    with pytest.raises(errors.DomainNotShutOff, match=f"KCHVM0033E: Virtual machine web is {state}"):
        draft_domain(survey(disk(volume()), of=domain(state=state)), Wishes(), no_question)


def test_a_guest_with_a_saved_memory_image_is_refused() -> None:
    with pytest.raises(errors.DomainHasSavedState, match="web"):
        draft_domain(survey(disk(volume()), of=domain(saved_state=True)), Wishes(), no_question)


def test_a_guest_whose_nvram_cannot_be_copied_is_refused() -> None:
    found = replace(survey(disk(volume())), refusals=("its NVRAM is not a file",))
    with pytest.raises(errors.DeviceNotCloneable, match="web cannot be cloned: its NVRAM is not a file"):
        draft_domain(found, Wishes(), no_question)


def test_a_tpm_whose_state_lies_where_the_guest_says_is_refused() -> None:
    of = domain("<tpm><backend type='emulator'><source type='dir' path='/tpm'/></backend></tpm>")
    with pytest.raises(errors.DeviceNotCloneable, match="its TPM lies in a place of its own, /tpm"):
        draft_domain(survey(disk(volume()), of=of), Wishes(), no_question)


def test_an_emulated_tpm_has_its_state_cloned() -> None:
    of = domain("<tpm><backend type='emulator'/></tpm>")
    found = replace(survey(disk(volume()), of=of), places=Places(tpm="/swtpm"))
    plan = draft_domain(found, Wishes(), room).domain_plan(OURS)
    assert plan.tpm == (f"/swtpm/{of.uuid}", f"/swtpm/{OURS.uuid}")
    assert draft(disk(volume())).domain_plan(OURS).tpm is None


def test_uefi_variables_that_only_libvirt_knows_the_place_of_are_cloned_by_the_name() -> None:
    of = domain()
    of = replace(of, xml=of.xml.replace("<os>", "<os firmware='efi'>"))
    found = replace(survey(disk(volume()), of=of), places=Places(nvram="/nvram"))
    plan = draft_domain(found, Wishes(), room).domain_plan(OURS)
    assert plan.nvram == ("/nvram/web_VARS.fd", "/nvram/web-clone-7_VARS.fd")
    assert not plan.nvram_in_xml


def test_firmware_that_keeps_no_variables_has_none_to_clone() -> None:
    os = "<loader stateless='yes'/>"
    of = replace(domain(os=os), xml=domain(os=os).xml.replace("<os>", "<os firmware='efi'>"))
    found = replace(survey(disk(volume()), of=of), places=Places(nvram="/nvram"))
    assert draft_domain(found, Wishes(), room).domain_plan(OURS).nvram is None


def test_a_guest_with_a_device_of_the_host_is_refused_unless_it_may_be_left_out() -> None:
    found = survey(disk(volume()), of=domain("<hostdev mode='subsystem' type='pci'/>"))
    with pytest.raises(errors.DeviceNotCloneable, match="drop_hostdevs"):
        draft_domain(found, Wishes(), no_question)
    assert draft_domain(found, Wishes(drop_hostdevs=True), room).domain_plan(OURS).wishes.drop_hostdevs
    assert not draft(disk(volume())).domain_plan(OURS).wishes.drop_hostdevs


def test_every_cause_is_told_at_once() -> None:
    of = domain("<tpm><backend type='external'/></tpm><hostdev mode='subsystem' type='usb'/>")
    found = replace(survey(of=of), refusals=("its NVRAM is not a file",))
    with pytest.raises(errors.DeviceNotCloneable, match=r"NVRAM .*; .*external TPM.*; .*usb device"):
        draft_domain(found, Wishes(), no_question)


def test_a_guest_without_disks_can_be_cloned() -> None:
    assert draft().domain_plan(OURS).copies == ()


# --- What happens to a disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "action"),
    [
        (disk(has_source=False, device="cdrom"), EMPTY),
        (disk(has_source=False, device="floppy"), EMPTY),
        (disk(has_source=False, readonly=True), EMPTY),
        (disk(device="cdrom", path="/a.iso"), SHARE),
        (disk(device="cdrom", type="network"), SHARE),
        (disk(readonly=True, path="/a.img"), SHARE),
        (disk(readonly=True, oddity="it is encrypted"), SHARE),
        (disk(shareable=True, path="/a.img"), SHARE),
        (disk(shareable=True, type="network"), SHARE),
    ],
)
def test_media_that_nobody_writes_are_shared_and_empty_drives_stay_empty(found: SourceDisk, action: str) -> None:
    made = draft_domain(survey(found), Wishes(), no_question)
    assert made.copies == ()
    assert [(left.item, left.action) for left in made.left] == [("vda", action)]


@pytest.mark.parametrize("device", ["disk", "floppy"])
def test_what_the_guest_writes_is_cloned(device: str) -> None:
    assert copy_of(disk(volume(), device=device)).describe()["action"] == CLONE


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (disk(type="network"), "a disk of type network is not supported yet"),
        (disk(type="dir"), "a disk of type dir is not supported yet"),
        (disk(type="nvme"), "a disk of type nvme is not supported yet"),
        (disk(type="file", path="/a/b.img"), "/a/b.img is no volume"),
        (disk(type="block", path="/dev/sdb"), "/dev/sdb is no volume"),
        (disk(type="volume", pool="p", volume="v"), "p/v is no volume"),
        (disk(volume(), oddity="it is a slice of its file"), "it is a slice of its file"),
        (disk(volume(encrypted=True)), "its volume is encrypted"),
        (disk(volume(type="dir")), "its volume is of type dir"),
        (disk(type="network", network=NetworkSource("nbd", "x", ())), "a disk of type network is not supported yet"),
        (disk(type="network", network=NetworkSource("rbd", "p/i", ())), "p/i is no volume .* type rbd for its Ceph"),
    ],
)
def test_a_disk_that_cannot_be_cloned_is_refused_by_its_name(found: SourceDisk, cause: str) -> None:
    disks = (disk(volume(), "vdx"), replace(found, disk=replace(found.disk, target="vdb")))
    with pytest.raises(errors.DiskNotCloneable, match=f"Disk vdb of virtual machine web cannot be cloned: {cause}"):
        draft(*disks)


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("raw", "raw"),
        (None, "raw"),
        ("raw", "iso"),
        ("raw", "unknown"),
        ("raw", "none"),
        ("raw", ""),
        ("qcow2", "qcow2"),
    ],
)
def test_the_guest_and_libvirt_agree_on_the_format(stated: str | None, found: str) -> None:
    assert copy_of(disk(volume(form=found), format=stated)).format == (stated or "raw")


@pytest.mark.parametrize(("stated", "found"), [("raw", "qcow2"), (None, "qcow2"), ("qcow2", "raw"), ("qcow2", "vmdk")])
def test_a_format_that_they_do_not_agree_on_is_refused(stated: str | None, found: str) -> None:
    """A guest can write a qcow2 header into its raw disk, and name any file of the host as its backing file."""
    reason = refusal(errors.DiskNotCloneable, disk(volume(form=found), format=stated))
    assert f"says {stated or 'raw'}, and libvirt takes the volume for {found}" in reason


@pytest.mark.parametrize(
    "told",
    [
        ToldChain((), is_whole=False),
        ToldChain((("/base", "raw"),), is_whole=True),
        ToldChain((("/base", None),), is_whole=False),
        ToldChain((("images/base", "raw"),), is_whole=True),
    ],
)
def test_backing_files_that_the_guest_names_as_the_image_does_are_fine(told: ToldChain) -> None:
    assert copy_of(disk(volume(), chain=ON_BASE, told_chain=told)).item == "vda"


@pytest.mark.parametrize(
    ("chain", "told", "cause"),
    [
        (ON_BASE, ToldChain((), is_whole=True), "leaves out the backing file /base"),
        (ON_BASE, ToldChain((("/other", "raw"),), is_whole=True), "names /other .* the image stands on /base"),
        (ON_BASE, ToldChain((("", "raw"),), is_whole=True), "names another as"),
        (ON_BASE, ToldChain((("/base", "qcow2"),), is_whole=True), "says qcow2 .*/base, and the image raw"),
        (ON_BASE, ToldChain((("/base", "raw"), ("/c", "raw")), is_whole=True), "names /c .*stands on nothing more"),
        (ON_ITS_OWN, ToldChain((("/base", "raw"),), is_whole=False), "names /base .*stands on nothing more"),
    ],
)
def test_other_backing_files_than_the_images_are_refused(chain: Chain, told: ToldChain, cause: str) -> None:
    """The guest sees those that its configuration names; its clone would see the image's."""
    with pytest.raises(errors.DiskNotCloneable, match=cause):
        draft(disk(volume(), chain=chain, told_chain=told))


# --- Where to --------------------------------------------------------------------------------------------------------

SMALL = pool("images", available=GiB)
NO_DEFAULT = (pool("images"),)


def test_a_disk_stays_in_its_pool() -> None:
    assert copy_of(disk(volume())).pool == "images"


@pytest.mark.parametrize(
    "its_own",
    [
        SMALL,
        *(pool("images", kind) for kind in ("scsi", "iscsi", "iscsi-direct", "mpath")),
        pool("images", state="inactive"),
    ],
)
def test_a_disk_goes_to_default_where_it_cannot_stay(its_own: PoolInfo) -> None:
    assert copy_of(disk(volume()), pools=(its_own, pool("default"))).pool == "default"


@pytest.mark.parametrize(
    ("its_own", "kind"),
    [
        (SMALL, errors.NoRoom),
        (pool("images", "scsi"), errors.PoolCannotCreate),
        (pool("images", state="inactive"), errors.PoolInactive),
    ],
)
@pytest.mark.parametrize(
    "others", [(), (pool("default", available=0),), (pool("default", "iscsi"),), (pool("default", state="inactive"),)]
)
def test_why_it_cannot_stay_is_told_where_default_cannot_take_it_either(
    its_own: PoolInfo, kind: type[errors.ClonerError], others: tuple[PoolInfo, ...]
) -> None:
    assert "Storage pool images" in refusal(kind, disk(volume()), pools=(its_own, *others))


def test_a_pool_that_was_named_wins() -> None:
    assert copy_of(disk(volume()), pools=(pool("images"), pool("default"), pool("other")), pool="other").pool == "other"


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        (pool("other", available=0), errors.NoRoom),
        (pool("other", "iscsi"), errors.PoolCannotCreate),
        (pool("other", state="inactive"), errors.PoolInactive),
        (pool("other", state="inaccessible"), errors.PoolInactive),
    ],
)
def test_a_pool_that_was_named_is_not_left_silently(named: PoolInfo, kind: type[errors.ClonerError]) -> None:
    pools = (pool("images"), pool("default"), named)
    assert "Storage pool other" in refusal(kind, disk(volume()), pools=pools, pool="other")


def test_each_disk_goes_where_it_came_from() -> None:
    disks = (disk(volume()), disk(volume("data.img", "raw", pool="other"), "vdb"))
    made = draft(*disks, pools=(pool("images"), pool("other")))
    assert [(copy.item, copy.pool) for copy in made.copies] == [("vda", "images"), ("vdb", "other")]


LOOSE = volume(pool="")


def test_a_file_in_no_pool_goes_to_default() -> None:
    assert copy_of(disk(LOOSE, reach=NEAR)).pool == "default"


def test_a_file_in_no_pool_needs_one_to_be_named_where_there_is_no_default() -> None:
    reason = refusal(errors.DiskNotCloneable, disk(LOOSE, reach=NEAR), pools=NO_DEFAULT)
    assert "Disk vda of virtual machine web" in reason
    assert "name one in the field pool" in reason


# --- How much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "stored", "size"),
    [
        (volume("a.img", "raw", capacity=4096 * GiB), MiB, MiB),
        (volume("a.img", "raw", capacity=GiB), GiB + 4096, GiB),
        (volume("a.img", "raw", capacity=GiB), 0, 0),
        (volume(capacity=4096 * GiB), MiB, 2 * MiB),
        (volume("a.img", "raw", capacity=5000), 8192, 8192),
        (volume(capacity=GiB), 2 * GiB, GiB + MiB + MiB),
        (volume(capacity=GiB, cluster_size=512), 2 * GiB, GiB + 37 * MiB + 1024),
        (volume(capacity=16 * MiB, cluster_size=2 * MiB), MiB, 9 * MiB),
    ],
    ids=[
        "sparse",
        "not sparse",
        "empty",
        "sparse qcow2",
        "part of a block",
        "chain that holds more than the guest sees",
        "small clusters",
        "large clusters",
    ],
)
def test_what_is_stored_counts_and_not_what_the_guest_sees(of: VolumeInfo, stored: int, size: int) -> None:
    copy = copy_of(disk(of, stored=stored))
    growth = MiB if copy.format == "qcow2" else 0  # what XFS allots at a time of what qemu-img makes
    assert (copy.size, copy.total) == (size + growth, size)


@pytest.mark.parametrize("kind", ["logical", "disk", "zfs"])
def test_a_pool_without_files_gets_raw_volumes_of_the_whole_capacity(kind: str) -> None:
    copy = copy_of(disk(volume(), stored=MiB), pools=(pool("images"), pool("other", kind)), pool="other")
    assert (copy.format, copy.size, copy.extension) == ("raw", 20 * GiB, "")


def test_a_raw_volume_keeps_its_ending_in_a_pool_without_files() -> None:
    assert copy_of(disk(volume("a.img", "raw")), pools=(pool("images", "logical"),)).extension == ".img"


def test_room_that_is_just_enough_is_enough() -> None:
    of = disk(volume("a.img", "raw"), stored=GiB)
    assert copy_of(of, pools=(pool("images", available=GiB),)).size == GiB
    reason = refusal(errors.NoRoom, of, pools=(pool("images", available=GiB - 1),))
    assert f"KCHVM0034E: Storage pool images has room for {GiB - 1} bytes, and {GiB} are needed" in reason


@pytest.mark.parametrize(("device", "fits"), [(None, True), (7, False)])
def test_pools_on_one_file_system_have_one_room(device: int | None, fits: bool) -> None:
    pools = tuple(replace(pool(name, available=4 * GiB), device=device) for name in ("images", "data"))
    elsewhere = disk(volume("data.qcow2", pool="data"), "vdb", reach={"data": NO_REFLINK})
    disks = (disk(volume(), reach=NO_REFLINK), elsewhere)
    if fits:
        assert [copy.pool for copy in draft(*disks, pools=pools).copies] == ["images", "data"]
    else:
        assert "data" in refusal(errors.NoRoom, *disks, pools=pools)


def test_room_that_was_promised_to_others_does_not_count() -> None:
    found = survey(disk(volume("a.img", "raw"), stored=GiB), pools=NO_DEFAULT)
    assert draft_domain(found, Wishes(), lambda pool: pool.available - 99 * GiB).copies
    with pytest.raises(errors.NoRoom, match="room for 0 bytes"):
        draft_domain(found, Wishes(), lambda pool: pool.available - 101 * GiB)


def two_disks(of_second: str = "images") -> tuple[SourceDisk, SourceDisk]:
    """A GiB each."""
    second = volume("b.img", "raw", pool=of_second)
    return disk(volume("a.img", "raw"), stored=GiB), disk(second, "vdb", stored=GiB)


def test_two_disks_in_one_pool_are_counted_together() -> None:
    reason = refusal(errors.NoRoom, *two_disks(), pools=(pool("images", available=2 * GiB - 1),))
    assert f"and {2 * GiB} are needed" in reason
    assert len(draft(*two_disks(), pools=(pool("images", available=2 * GiB),)).copies) == 2


def test_two_disks_that_move_into_one_pool_are_counted_together() -> None:
    pools = (pool("images"), pool("other"), pool("default", available=2 * GiB - 1))
    assert f"and {2 * GiB} are needed" in refusal(errors.NoRoom, *two_disks("other"), pools=pools, pool="default")


def test_two_disks_in_two_pools_are_counted_apart() -> None:
    pools = (pool("images", available=GiB), pool("other", available=GiB))
    assert len(draft(*two_disks("other"), pools=pools).copies) == 2


def test_a_disk_for_which_the_others_leave_no_room_goes_to_default() -> None:
    made = draft(*two_disks(), pools=(pool("images", available=2 * GiB - 1), pool("default")))
    assert [copy.pool for copy in made.copies] == ["images", "default"]


def test_a_refused_disk_takes_no_room_from_the_next() -> None:
    big, small = disk(volume("a.img", "raw"), stored=5 * GiB), disk(volume("b.img", "raw"), "vdb", stored=GiB)
    made = draft(big, small, pools=(pool("images", available=2 * GiB), pool("default")))
    assert [copy.pool for copy in made.copies] == ["default", "images"]


# --- By which method -------------------------------------------------------------------------------------------------

NO_REFLINK = replace(NEAR, refusals={REFLINK: "it is ext4"})


@pytest.mark.parametrize(
    ("reach", "method", "reason"),
    [
        (NEAR, REFLINK, "one file system"),
        (NO_REFLINK, COPY, "it is ext4"),
        (FAR, LIBVIRT, "the host is far away"),
    ],
)
def test_auto_takes_the_best_method_that_can_serve_and_says_why(reach: Reach, method: str, reason: str) -> None:
    copy = copy_of(disk(volume(), reach=reach))
    assert copy.method == method
    assert reason in copy.reason


def test_a_method_that_was_asked_for_is_taken_or_refused() -> None:
    for method in (REFLINK, COPY, LIBVIRT, LINKED):
        assert copy_of(disk(volume(), reach=NEAR), method=method).method == method
    reason = refusal(errors.MethodCannotServe, disk(volume(), reach=NO_REFLINK), method=REFLINK)
    assert "reflink cannot clone vda: it is ext4" in reason


def test_no_method_at_all_is_told() -> None:
    nothing = Reach({method: f"no {method}" for method in (REFLINK, COPY, LIBVIRT)})
    reason = refusal(errors.MethodCannotServe, disk(volume(), reach=nothing))
    assert "auto cannot clone vda: no copy; nor can libvirt do it, since no libvirt. Name another pool" in reason
    assert "or auto" not in reason


def test_a_reflink_takes_next_to_nothing_though_it_handles_all() -> None:
    copy = copy_of(disk(volume(), reach=NEAR), pools=(pool("images", available=MiB),))
    assert copy.size <= MiB
    assert copy.total == 3 * GiB


def test_libvirts_copy_takes_what_a_converted_image_takes() -> None:
    copy = copy_of(disk(volume(), reach=NEAR, stored=9 * GiB), method=LIBVIRT)
    assert (copy.size, copy.total) == (9 * GiB + 2 * MiB, 9 * GiB + MiB)


def test_a_copy_of_a_file_takes_what_the_file_occupies() -> None:
    """And a MiB where qemu-img makes the file, which has XFS allot so much at a time."""
    copy = copy_of(disk(volume(), reach=NO_REFLINK, stored=9 * GiB))
    assert (copy.size, copy.total) == (3 * GiB + MiB, 3 * GiB)
    raw = copy_of(disk(volume("web.img", "raw"), reach=NO_REFLINK, stored=9 * GiB))
    assert (raw.size, raw.total) == (3 * GiB, 3 * GiB)
    vdi = copy_of(disk(volume("web.vdi", "vdi"), reach=NO_REFLINK))
    assert (vdi.size, vdi.total) == (3 * GiB + MiB, 3 * GiB)
    assert copy.written == {"/images/web.qcow2": NOON * 1000}


@pytest.mark.parametrize(("name", "form", "extension"), [("a.qcow2", "qcow2", ".qcow2"), ("a.img", "raw", ".qcow2")])
def test_a_linked_clone_is_a_small_overlay_on_its_source(name: str, form: str, extension: str) -> None:
    copy = copy_of(disk(volume(name, form), reach=NEAR), method=LINKED)
    assert (copy.format, copy.extension, copy.overlay_of) == ("qcow2", extension, (f"/images/{name}", form))
    assert copy.size <= MiB


def test_an_overlay_with_large_clusters_takes_some_of_them_at_once() -> None:
    assert copy_of(disk(volume(cluster_size=2 * MiB), reach=NEAR), method=LINKED).size == 8 * MiB


def test_a_copy_that_is_not_linked_is_an_overlay_on_nothing() -> None:
    assert copy_of(disk(volume(backing="/base"), reach=NEAR)).overlay_of is None


def test_each_pool_is_judged_by_what_can_be_done_there() -> None:
    of = disk(volume(), reach={"images": NEAR, "default": FAR})
    assert copy_of(of, pools=(pool("images"), pool("default"))).method == REFLINK
    assert copy_of(of, pools=(pool("images", "scsi"), pool("default"))).method == LIBVIRT


@pytest.mark.parametrize(
    ("method", "snapshots", "bitmaps", "chain", "note"),
    [
        (LIBVIRT, (), (), ON_ITS_OWN, ""),
        (LIBVIRT, ("a", "b c"), (), ON_ITS_OWN, "internal snapshots (a, b c)"),
        (LIBVIRT, (), ("m",), ON_ITS_OWN, "bitmaps (m)"),
        (LIBVIRT, ("a",), ("m", "n"), ON_ITS_OWN, "internal snapshots (a) and bitmaps (m, n)"),
        (LIBVIRT, (), (), ON_BASE, "the link to its backing file, whose content is copied"),
        (
            LIBVIRT,
            ("a",),
            ("m",),
            ON_BASE,
            "internal snapshots (a), bitmaps (m) and the link to its backing file, whose content is copied",
        ),
        (LINKED, ("a", "b c"), ("m",), ON_BASE, "internal snapshots (a, b c) and bitmaps (m)"),
        (REFLINK, ("a", "b c"), ("m",), ON_BASE, ""),
        (COPY, ("a", "b c"), ("m",), ON_BASE, ""),
    ],
)
def test_what_a_method_loses_is_told(
    method: str, snapshots: tuple[str, ...], bitmaps: tuple[str, ...], chain: Chain, note: str
) -> None:
    inside = replace(NEAR, snapshots=snapshots, bitmaps=bitmaps)
    told = f"not in the clone: {note}" if note else ""
    assert copy_of(disk(volume(), chain=chain, reach=inside), method=method).note == told


# --- Backing files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "stands_on"), [(REFLINK, ["/base"]), (COPY, ["/base"]), (LIBVIRT, [])])
def test_an_overlay_keeps_its_backing_file_where_its_file_is_copied(method: str, stands_on: list[str]) -> None:
    assert list(copy_of(disk(volume(), chain=ON_BASE, reach=NEAR), method=method).depends_on) == stands_on


@pytest.mark.parametrize("method", [REFLINK, COPY, LINKED, LIBVIRT])
def test_a_backing_file_is_read_by_libvirt_alone_and_must_not_change_then(method: str) -> None:
    copy = copy_of(disk(volume(), chain=ON_BASE, reach=NEAR), method=method)
    below = {"/base": NOON} if method == LIBVIRT else {}
    assert copy.written == {"/images/web.qcow2": NOON * 1000, **below}
    assert copy.reads == (volume(), *([BASE] if method == LIBVIRT else []))


def test_a_backing_file_is_watched_though_the_pool_is_out_of_reach() -> None:
    assert copy_of(disk(volume(), chain=ON_BASE, reach=FAR)).written == {"/base": NOON}


def test_a_linked_clone_stands_on_its_source_and_on_what_that_stands_on() -> None:
    copy = copy_of(disk(volume(), chain=ON_BASE, reach=NEAR), method=LINKED)
    assert copy.depends_on == ("/images/web.qcow2", "/base")


def test_a_flat_clone_stands_on_nothing_and_takes_what_all_of_it_takes() -> None:
    flat = replace(NEAR, flat_refusals={REFLINK: "it would keep the link"}, snapshots=("before",))
    copy = copy_of(disk(volume(), chain=ON_BASE, reach=flat, stored=5 * GiB), flatten=True)
    assert (copy.method, copy.depends_on, copy.flat_source) == (COPY, (), "json:{}")
    assert "it would keep the link" in copy.reason
    assert (copy.size, copy.total) == (5 * GiB + 2 * MiB, 5 * GiB + MiB)
    assert copy.written == {"/images/web.qcow2": NOON * 1000, "/base": NOON}
    assert copy.reads == (volume(), BASE)
    assert copy.note == (
        "not in the clone: internal snapshots (before) and the link to its backing file, whose content is copied"
    )


def test_flattening_changes_nothing_for_an_image_that_stands_on_nothing() -> None:
    flat = replace(NEAR, flat_refusals={REFLINK: "it would keep the link"})
    copy = copy_of(disk(volume(), reach=flat), flatten=True)
    assert (copy.method, copy.flat_source) == (REFLINK, "")


def test_a_method_that_cannot_flatten_is_refused() -> None:
    flat = replace(NEAR, flat_refusals={REFLINK: "it would keep the link"})
    of = disk(volume(), chain=ON_BASE, reach=flat)
    assert "it would keep the link" in refusal(errors.MethodCannotServe, of, flatten=True, method=REFLINK)


def test_what_a_clone_reads_is_its_sources_and_what_they_stand_on() -> None:
    disks = (disk(volume(), chain=ON_BASE), disk(volume("data.qcow2"), "vdb", chain=ON_BASE))
    assert draft(*disks).reads == ["/images/web.qcow2", "/base", "/images/data.qcow2"]


# --- Ceph ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_pool", "of_disk", "is_it"),
    [(["mon1", "mon2"], ("mon2",), True), (["mon1"], ("mon9",), False), ([], ("mon9",), True), (["mon1"], (), True)],
)
def test_an_image_of_that_name_on_other_monitors_is_another(
    of_pool: list[str], of_disk: tuple[str, ...], *, is_it: bool
) -> None:
    image = volume("web", "raw", type="network", path="ceph-pool/web")
    host: Any = SimpleNamespace(volume_at=lambda _: image, pool_hosts=lambda _: of_pool)
    found = network_volume(host, disk(image, type="network", network=NetworkSource("rbd", image.path, of_disk)).disk)
    assert found == (image if is_it else None)


def test_a_disk_in_ceph_is_cloned_by_libvirt_into_its_own_pool() -> None:
    image = volume("web", "raw", type="network", path="ceph-pool/web")
    pools = (pool("images", "rbd"), pool("default"))
    source = NetworkSource("rbd", "ceph-pool/web", ("mon1",))
    copy = copy_of(disk(image, type="network", path=None, network=source), pools=pools)
    assert (copy.method, copy.pool, copy.format, copy.extension) == (LIBVIRT, "images", "raw", "")
    assert copy.size <= MiB, "it shares its source's blocks"
    assert not copy.is_allotted
    assert "child of a snapshot" in copy.note


# --- Names -----------------------------------------------------------------------------------------------------------


def test_disks_are_named_after_the_clone() -> None:
    disks = (disk(volume()), disk(volume("data.img", "raw"), "vdb"), disk(volume("plain", "raw"), "sda"))
    names = [copy.name for copy in draft(*disks).domain_plan(OURS).copies]
    assert names == ["web-clone-7-vda.qcow2", "web-clone-7-vdb.img", "web-clone-7-sda"]


@pytest.mark.parametrize(
    ("nvram", "expected"),
    [
        ("", None),
        ("<nvram template='/t'/>", None),
        ("<nvram>/nv/ram/web_VARS.fd</nvram>", "/nv/ram/web-clone-7_VARS.fd"),
        ("<nvram type='file'><source file='/nv/web.qcow2'/></nvram>", "/nv/web-clone-7_VARS.qcow2"),
        ("<nvram>/nv/web</nvram>", "/nv/web-clone-7_VARS"),
    ],
)
def test_the_nvram_is_named_after_the_clone_and_lies_beside_the_sources(nvram: str, expected: str | None) -> None:
    found = survey(disk(volume()), of=domain(os=nvram))
    nvram_of_both = draft_domain(found, Wishes(), room).domain_plan(OURS).nvram
    assert (nvram_of_both and nvram_of_both[1]) == expected


@pytest.mark.parametrize("base", ["x" * 300, "漢" * 100, "\U0001f40e" * 80])
@pytest.mark.parametrize("ending", ["", ".qcow2", ".fifteen-letters", ".éééééé"])
@pytest.mark.parametrize("target", ["vda", "a-target-of-some-length"])
@pytest.mark.parametrize("nvram", ["", "<nvram>/nv/web_VARS.fd</nvram>", "<nvram>/nv/web_VARS.qcow2</nvram>"])
def test_a_long_name_has_its_base_cut_and_never_its_stamp(base: str, ending: str, target: str, nvram: str) -> None:
    """Nor in the names of its disks and its NVRAM, or they would be another clone's too."""
    of = survey(disk(volume(f"d{ending}"), target), of=domain(os=nvram))
    made = draft_domain(of, Wishes(), room)
    name = get_next_clone_name((), base, ts=True, clock=lambda: NOON, max_bytes=made.max_name_bytes())
    plan = made.domain_plan(replace(OURS, name=name))
    files = [plan.copies[0].name, *([plan.nvram[1].removeprefix("/nv/")] if plan.nvram else [])]
    assert all(file.startswith(name) and byte_length(file) <= MAX_FILE_NAME_BYTES for file in files)
    assert byte_length(name) <= MAX_NAME_BYTES


def test_a_short_name_leaves_the_room_that_libvirt_gives() -> None:
    assert draft().max_name_bytes() == MAX_NAME_BYTES
    assert draft(disk(volume("a"), "v")).max_name_bytes() == MAX_NAME_BYTES


@pytest.mark.parametrize(
    ("name", "base", "extension"),
    [
        ("disk.qcow2", "disk", ".qcow2"),
        ("disk", "disk", ""),
        ("a.tar.gz", "a.tar", ".gz"),
        (".hidden", ".hidden", ""),
        ("web-v1.2 of the shop and more", "web-v1.2 of the shop and more", ""),
        ("x.fifteen-letters", "x", ".fifteen-letters"),
        ("x.sixteen-letters!", "x.sixteen-letters!", ""),
        ("it's (a) disk+.img", "it's (a) disk+", ".img"),
    ],
)
def test_a_volumes_name_is_split_before_its_extension(name: str, base: str, extension: str) -> None:
    assert split_volume_name(name) == (base, extension)


# --- The whole plan --------------------------------------------------------------------------------------------------


def test_a_plan_has_what_the_draft_decided_and_the_names() -> None:
    iso = disk(None, "sda", device="cdrom", path="/a.iso")
    of = survey(disk(volume()), iso, of=domain(os="<nvram>/nv/web_VARS.fd</nvram>"))
    made = draft_domain(of, Wishes(), room)
    plan = made.domain_plan(OURS)
    assert made.macs() == ["52:54:00:aa:00:01"]
    assert (plan.source, plan.source_uuid, plan.identity) == ("web", "11f5c8a2-7c1e-4a34-9c3d-5c3c5a1c0001", OURS)
    assert plan.xml == (of.domain and of.domain.xml)
    assert plan.copies == (replace(made.copies[0], name="web-clone-7-vda.qcow2"),)
    assert plan.left == (Left("sda", SHARE, "read-only"),)
    assert plan.nvram == ("/nv/web_VARS.fd", "/nv/web-clone-7_VARS.fd")


def test_a_plan_can_be_shown() -> None:
    iso = disk(None, "sda", device="cdrom", path="/a.iso")
    shown = draft(disk(volume(), reach=NEAR), iso).domain_plan(OURS).describe()
    assert shown == {
        "source": "web",
        "name": "web-clone-7",
        "uuid": OURS.uuid,
        "disks": [
            {
                "disk": "vda",
                "action": "clone",
                "source": {"pool": "images", "name": "web.qcow2", "path": "/images/web.qcow2"},
                "target": {"pool": "images", "name": "web-clone-7-vda.qcow2", "format": "qcow2"},
                "bytes": 1 << 16,
                "total": 3 * GiB,
                "method": "reflink",
                "reason": "source and target lie on one file system that can share blocks",
            },
            {"disk": "sda", "action": "share", "reason": "read-only"},
        ],
    }


# --- Volumes ---------------------------------------------------------------------------------------------------------


def volume_draft(of: VolumeInfo, *pools: PoolInfo, **wishes: Any) -> Draft:
    found = Survey((disk(of),), {pool.name: pool for pool in pools or (pool("images"), pool("default"))})
    return draft_volume(found, Wishes(**wishes), room)


def test_a_volume_is_cloned_into_its_pool_or_the_named_one() -> None:
    for wanted, expected in ((None, "images"), ("default", "default")):
        plan = volume_draft(volume(), pool=wanted).volume_plan("new.qcow2")
        (copy,) = plan.copies
        assert (copy.item, copy.pool, copy.name, copy.format) == ("volume", expected, "new.qcow2", "qcow2")
        assert plan.describe()["name"] == "new.qcow2"


@pytest.mark.parametrize(
    ("pools", "kind"),
    [
        ((SMALL, pool("default")), errors.NoRoom),
        ((pool("images", "iscsi"), pool("default")), errors.PoolCannotCreate),
        ((pool("images", state="inactive"), pool("default")), errors.PoolInactive),
    ],
)
def test_a_volume_does_not_leave_its_pool_unasked(pools: tuple[PoolInfo, ...], kind: type[errors.ClonerError]) -> None:
    with pytest.raises(kind, match="images"):
        volume_draft(volume(), *pools)


def test_a_pool_that_is_not_there_is_told() -> None:
    with pytest.raises(errors.PoolNotFound, match=r"KCHPOOL0002E: Storage pool other"):
        volume_draft(volume(), pool="other")


@pytest.mark.parametrize(
    ("of", "cause"),
    [(volume(encrypted=True), "encrypted"), (volume(type="dir"), "type dir"), (volume(type="ploop"), "type ploop")],
)
def test_a_volume_that_cannot_be_cloned_is_refused(of: VolumeInfo, cause: str) -> None:
    with pytest.raises(errors.VolumeNotCloneable, match=f"Storage volume web.qcow2 cannot be cloned: .*{cause}"):
        volume_draft(of)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: draft_volume(survey(disk()), Wishes(), room),
        lambda: draft_domain(Survey((), {}), Wishes(), room),
        lambda: volume_draft(volume()).domain_plan(OURS),
    ],
)
def test_a_guest_is_no_volume_and_a_volume_no_guest(mistake: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="volume"):
        mistake()
