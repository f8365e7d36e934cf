"""Takes the pictures in docs/img: each view, light and dark, wide and narrow. `make screenshots` runs it, as root.

What is shown is real: guests of a libvirtd of its own on an XFS, and for the storage libvirt's test driver.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import libvirt
from playwright.sync_api import Browser, Page

from support.browser import Tab, chromium
from support.guests import Disk, define_guest, stop_guest
from support.libvirtd import PrivateLibvirtd
from support.server import Server
from support.storage import GiB, KiB, MiB, make_pool, make_qcow2, make_raw, mounted, some_data

FOLDER = Path(__file__).parents[1] / "docs" / "img"
SIZES = {"wide": (1280, 760), "narrow": (360, 720)}
COLOURS = ("light", "dark")
GUESTS = {
    "web": ("Web front end", "Debian 12 with nginx", 20, "52:54:00:aa:00:01"),
    "db": ("", "PostgreSQL 15", 60, "52:54:00:aa:00:02"),
    "build-runner": ("", "Fedora 40, made anew each night", 40, "52:54:00:aa:00:03"),
    "gitlab": ("GitLab", "Ubuntu 24.04", 80, "52:54:00:aa:00:04"),
    "mail": ("", "Postfix and Dovecot", 40, "52:54:00:aa:00:05"),
    "monitoring": ("Prometheus and Grafana", "", 30, "52:54:00:aa:00:06"),
    "win11-template": ("Windows 11", "Generalised, ready to be cloned", 64, "52:54:00:aa:00:07"),
}
RUNNING = ("gitlab", "mail")
LARGE = 50  # GiB


@contextmanager
def host(stack: ExitStack) -> Iterator[tuple[Server, libvirt.virConnect]]:
    """A server on a libvirtd with some guests, with clones that are being made."""
    fast = stack.enter_context(mounted("xfs", 400 * GiB))
    slow = stack.enter_context(mounted("ext4", 8 * GiB))
    daemon = stack.enter_context(PrivateLibvirtd())  # ends before its file systems do
    conn = daemon.open()
    images, archive = make_pool(conn, "default", fast / "images"), make_pool(conn, "archive", slow / "archive")
    for name, (title, description, size, mac) in GUESTS.items():
        disk = make_qcow2(images, f"{name}.qcow2", size * GiB, {0: some_data(8 * MiB)})
        disks = [Disk(Path(disk.path()))]
        if name == "db":
            disks.append(Disk(Path(make_raw(archive, "db-data.raw", 120 * GiB, {0: some_data(90 * MiB)}).path())))
        define_guest(conn, name, disks, macs=[mac], title=title, description=description)
        resize(conn, name, size)
    for name in RUNNING:
        conn.lookupByName(name).create()
    with Server(daemon.uri, Path(stack.enter_context(tempfile.TemporaryDirectory()))) as server:
        yield server, conn
    for name in RUNNING:
        stop_guest(conn.lookupByName(name))
    conn.close()


def resize(conn: libvirt.virConnect, name: str, size: int) -> None:
    """Gives a guest as much of everything as one of its kind has; none of it is used."""
    xml = conn.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    many, memory = (">2<", 2 * GiB) if size < LARGE else (">4<", 8 * GiB)
    conn.defineXML(xml.replace(">32768<", f">{memory // KiB}<").replace(">1</vcpu", f"{many}/vcpu"))


def make_clones(server: Server) -> None:
    """Clones of every kind of end, and two that go on for a while."""
    done = [
        server.request("POST", "vms/web/clone", {"count": 25}).json["tasks"][-1],
        server.request("POST", "vms/win11-template/clone", {"name": "win11-training-01"}).json,
    ]
    for task in done:
        server.wait_task(task["id"])
    cancelled = server.request("POST", "vms/monitoring/clone", {"pool": "archive", "bandwidth": 1}).json
    server.request("DELETE", f"tasks/{cancelled['id']}")
    server.wait_task(cancelled["id"])
    server.request("POST", "vms/db/clone", {"name": "db-staging", "pool": "archive", "method": "copy", "bandwidth": 1})


def spoil_one(server: Server, conn: libvirt.virConnect) -> None:
    """A clone that fails, since its source is started meanwhile."""
    body = {"pool": "archive", "method": "copy", "bandwidth": 1}
    task = server.request("POST", "vms/build-runner/clone", body).json
    source = conn.lookupByName("build-runner")
    source.create()
    server.wait_task(task["id"])
    stop_guest(source)


def show_guests(page: Page) -> None:
    page.locator(".disk", has_text="GiB").first.wait_for(state="attached")
    page.get_by_label("Select db", exact=True).check()
    page.get_by_label("Select monitoring", exact=True).check()


def show_dialog(page: Page) -> None:
    page.get_by_role("button", name="Clone web", exact=True).click()
    page.get_by_label("How many").fill("25")
    page.locator(".plan[aria-busy=false] h3", has_text="25 clones").wait_for()


def show_refusal(page: Page) -> None:
    page.get_by_role("button", name="Clone db", exact=True).click()
    page.get_by_label("How many").fill("1000")
    page.locator(".pools-choice").get_by_text("archive").click()
    page.locator(".problem p").wait_for()


def show_activity(page: Page) -> None:
    page.locator(".task.running progress:not([value='0'])").first.wait_for()


def show_storage(page: Page) -> None:
    page.locator(".pools button", has_text="default").click()
    page.locator(".volumes").get_by_text("web.qcow2", exact=True).first.wait_for()


def show_login(page: Page) -> None:
    page.locator("dialog.login").wait_for()


Show = Callable[[Page], None]


def shoot(browser: Browser, server: Server, name: str, view: str, show: Show, *, logged_in: bool = True) -> None:
    """Takes one view's pictures."""
    for size, (width, height) in SIZES.items():
        for colours in COLOURS:
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=colours, reduced_motion="reduce", locale="en"
            )
            tab = Tab(context, server)
            if logged_in:
                tab.open(view)
            else:
                tab.page.goto(server.url("/"))
            show(tab.page)
            tab.page.evaluate("document.fonts.ready")
            tab.page.screenshot(path=FOLDER / f"{name}-{size}-{colours}.png")
            context.close()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        browser = stack.enter_context(chromium())
        server, conn = stack.enter_context(host(stack))
        demo = stack.enter_context(Server(None, Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        make_clones(server)
        shoot(browser, server, "guests", "guests", show_guests)
        shoot(browser, server, "clone", "guests", show_dialog)
        shoot(browser, server, "no-room", "guests", show_refusal)
        spoil_one(server, conn)
        shoot(browser, server, "activity", "activity", show_activity)
        shoot(browser, demo, "storage", "storage", show_storage)
        shoot(browser, demo, "login", "guests", show_login, logged_in=False)
    for path in sorted(FOLDER.glob("*.png")):
        sys.stdout.write(f"{path.relative_to(FOLDER.parents[1])}: {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    main()
