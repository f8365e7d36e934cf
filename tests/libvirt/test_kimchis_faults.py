"""What is wrong with clones in Kimchi 3.0, and below each fault the tests that it is not so here.

Names come from the clock alone, and most of those that are asked for at once are duplicates:
    unit/test_names.py::test_64_threads_get_128000_names
    unit/test_names.py::test_a_clock_that_stands_still_repeats_no_name
    libvirt/test_clones.py::test_200_clones_at_once_through_two_servers
    libvirt/test_clones.py::test_200_clones_of_a_volume_at_once_through_two_servers
A backlog of 5 connections:
    contract/test_serve.py::test_1100_connections_wait_for_a_server_that_is_held_up_and_are_answered_then
Accepting a clone takes the longer the more guests and volumes there are:
    unit/test_accepting.py::test_accepting_a_clone_of_a_guest_lists_nothing
    unit/test_accepting.py::test_accepting_a_clone_of_a_volume_lists_nothing
A sparse disk of 4 TiB is refused for want of room:
    libvirt/test_room.py::test_a_disk_counts_as_what_it_holds_and_not_as_what_its_guest_sees
Disks of type block, volume or network are shared with the source without a word:
    libvirt/test_clones.py::test_disks_of_type_volume_and_shared_media
    libvirt/test_clones.py::test_what_cannot_be_cloned_yet_is_refused_and_named
    libvirt/test_anothers.py::test_an_image_on_the_network_is_no_file_of_that_name
NVRAM is shared, and the clone cannot be deleted:
    libvirt/test_clones.py::test_a_uefi_clone_has_variables_of_its_own
The pool to fall back to never works, and leaves an orphan:
    libvirt/test_clones.py::test_a_source_whose_pool_is_full_goes_to_default
    libvirt/test_kimchis_faults.py::test_the_pool_to_fall_back_to_takes_what_fits_and_nothing_of_what_does_not
An apostrophe in a path leaves an orphan:
    libvirt/test_strange_paths.py::test_a_guest_of_a_strange_name_in_a_strange_folder_is_cloned_whole
Holes, overlays and snapshots are lost:
    libvirt/test_clones.py::test_a_volume_clone_keeps_format_and_sparseness
    libvirt/test_methods.py::test_an_overlay_keeps_its_backing_file
    libvirt/test_methods.py::test_auto_takes_the_best_method_and_everything_in_the_image_travels
The source can be started while it is copied:
    libvirt/test_methods.py::test_a_source_that_is_started_meanwhile_ends_the_clone
    libvirt/test_methods.py::test_a_source_that_is_written_to_meanwhile_ends_the_clone
A guest with its UUID in sysinfo cannot be cloned:
    libvirt/test_clones.py::test_a_clone_has_an_identity_of_its_own
A serial port's log, sockets and a fixed VNC port are copied:
    unit/test_corpus.py::test_what_changes_is_published_and_all_else_is_the_sources_to_the_byte
    libvirt/test_kimchis_faults.py::test_with_ports_sockets_and_logs_of_its_own_a_clone_runs_beside_its_source
Disks are copied one after another, a second each at least:
    libvirt/test_kimchis_faults.py::test_disks_are_copied_side_by_side
No progress, no cancel:
    libvirt/test_methods.py::test_progress_grows_and_ends_at_100
    libvirt/test_cancelling.py::test_a_copy_of_4_gib_that_is_cancelled_at_a_random_moment_is_gone
After a restart tasks are gone, and what they made is left:
    contract/test_clones.py::test_tasks_outlive_the_server
    libvirt/test_crashes.py::test_a_server_killed_at_any_point_leaves_all_or_nothing
    libvirt/test_stateful.py::test_it_does_what_the_model_says
The name of a volume in a task's message runs as script in the page:
    contract/test_failures.py::test_a_name_is_not_markup_in_the_message_of_a_task_that_runs
    contract/test_names.py::test_a_name_is_never_markup_in_a_reason
    libvirt/test_kimchis_faults.py::test_a_name_is_not_markup_in_whatever_a_task_says
A filter hangs the whole server:
    contract/test_resources.py::test_an_expression_that_hung_kimchi_is_answered
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import libvirt
import pytest
from lxml import etree

from support.answers import cloned, refusal
from support.guests import inventory, stop_guest
from support.running import wait_until
from support.server import Server
from support.storage import KiB, MiB, allocated, listing, make_pool, make_qcow2, make_raw, pool_path, some_data

Guest = Callable[..., libvirt.virDomain]

TESTS = Path(__file__).resolve().parents[1]
SCRIPT = "<script>alert(1)<b>"
SLOW = {"method": "copy", "bandwidth": 1}


@pytest.mark.parametrize("named", re.findall(r"[\w/]+\.py::\w+", __doc__))
def test_each_test_that_is_named_is_there(named: str) -> None:
    file, _, test = named.partition("::")
    assert f"\ndef {test}(" in (TESTS / file).read_text("utf-8")


def test_the_pool_to_fall_back_to_takes_what_fits_and_nothing_of_what_does_not(
    server: Server,
    conn: libvirt.virConnect,
    small_pool: libvirt.virStoragePool,
    file_system: Callable[..., Path],
    guest: Guest,
) -> None:
    """The pool of the two disks is full, and `default` has room for the first of them alone."""
    default = make_pool(conn, "default", file_system("ext4", 24 * MiB) / "pool")
    disks = [make_raw(small_pool, f"{size}.img", size * MiB, {0: some_data(size * MiB)}) for size in (11, 12)]
    guest("both", disks)
    guest("one", disks[:1])
    before = inventory(conn)
    assert refusal(server.request("POST", "vms/both/clone")) == (507, "KCHVM0034E")
    assert inventory(conn) == before
    task = cloned(server, "vms/one")
    assert listing(pool_path(default)) == [f"{task['name']}-vda.img"]
    assert server.request("DELETE", f"vms/{task['name']}").status == 204
    assert inventory(conn) == before


def test_with_ports_sockets_and_logs_of_its_own_a_clone_runs_beside_its_source(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    devices = (
        f"<serial type='file'><source path='{folder}/web-console.log'/><target port='0'/></serial>"
        f"<channel type='unix'><source mode='bind' path='{folder}/web.sock'/>"
        f"<target type='virtio' name='org.example.agent'/></channel>"
        f"<graphics type='vnc' port='{port}' autoport='no' listen='127.0.0.1'/>"
    )
    web = guest("web", [make_qcow2(pool, "web.qcow2", MiB)], devices=devices, macs=["52:54:00:12:34:56"])
    web.create()
    stop_guest(web)
    copy = conn.lookupByName(cloned(server, "vms/web", name="copy")["name"])
    web.create()
    copy.create()
    assert web.isActive()
    assert copy.isActive()
    ours, theirs = (etree.fromstring(domain.XMLDesc()) for domain in (copy, web))
    for place in ("serial/source/@path", "channel/source/@path", "graphics/@port"):
        (one,), (other,) = ours.xpath(f"devices/{place}"), theirs.xpath(f"devices/{place}")
        assert one != other
        assert place == "graphics/@port" or Path(str(one)).exists()


def test_disks_are_copied_side_by_side(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest
) -> None:
    """Each of the two takes a minute: one after the other, the second would not be begun when both are looked for."""
    guest("web", [make_raw(pool, f"{name}.img", 64 * MiB, {0: b"\1" * 64 * MiB}) for name in "ab"])
    before = inventory(conn)
    task = server.request("POST", "vms/web/clone", SLOW).json
    copies = [pool_path(pool) / f"{task['name']}-{disk}.img" for disk in ("vda", "vdb")]
    wait_until(lambda: all(copy.exists() and allocated(copy) for copy in copies), 30, "both grow", lambda: server.log)
    assert server.request("GET", f"tasks/{task['id']}").json["status"] == "running"
    server.request("DELETE", f"tasks/{task['id']}", {"cancel": True})
    assert server.wait_task(task["id"])["status"] == "killed"
    assert inventory(conn) == before


@pytest.mark.parametrize("kind", ["guest", "volume"])
def test_a_name_is_not_markup_in_whatever_a_task_says(
    server: Server, conn: libvirt.virConnect, pool: libvirt.virStoragePool, guest: Guest, kind: str
) -> None:
    """While it runs, and after it has failed."""
    disk = Path(make_raw(pool, SCRIPT, 2 * MiB, {0: some_data(2 * MiB)}).path())
    guest(SCRIPT, [disk])
    sources = {"guest": f"vms/{quote(SCRIPT)}", "volume": f"storagepools/{pool.name()}/storagevolumes/{quote(SCRIPT)}"}
    said = []

    def is_copying() -> bool:
        said.append(server.request("GET", f"tasks/{task['id']}").json["message"])
        return said[-1].startswith("Copying")

    task: dict[str, Any] = server.request("POST", f"{sources[kind]}/clone", SLOW).json
    wait_until(is_copying, 30, "it says that it copies", lambda: server.log)
    with disk.open("r+b") as file:
        file.write(some_data(4 * KiB, 1))
    ended = server.wait_task(task["id"])
    assert (ended["status"], "CLNTASK0007E" in ended["message"]) == ("failed", True)
    assert "‹script›alert(1)‹b›" in ended["message"]
    assert not [message for message in [*said, ended["message"]] if set("<>") & set(message)]
