"""What only a real host shows: methods that can serve and those that cannot, a clone that fails, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lxml import etree
from playwright.sync_api import expect

from support.browser import Site, Tab
from support.guests import stop_guest
from support.server import Server

Open = Callable[..., Tab]


@pytest.fixture
def server(libvirt_site: Site, tmp_path: Path) -> Iterator[Server]:
    with Server(libvirt_site.uri, tmp_path / "state") as running:
        yield running


def spoilt_disk(site: Site) -> Path:
    """The disk of the guest `spoilt`."""
    assert site.conn is not None
    xml = etree.fromstring(site.conn.lookupByName("spoilt").XMLDesc())
    return Path(xml.xpath("string(devices/disk/source/@file)"))


def test_a_method_that_cannot_serve_is_greyed_with_the_reason(server: Server, tab: Open) -> None:
    page = tab(server).open()
    page.get_by_role("button", name="Clone web", exact=True).click()
    page.locator(".pools-choice").get_by_text("tight", exact=True).click()
    reflink = page.locator(".choice", has=page.locator("[value=reflink]"))
    expect(reflink.locator(".about")).to_contain_text("Not here: vda:")
    expect(reflink.locator("input")).to_be_disabled()
    page.get_by_text("Linked", exact=True).click()
    expect(page.locator(".plan .method")).to_have_text("linked")
    expect(page.locator(".own .warning")).to_contain_text("must not be started or deleted")


def test_a_slow_copy_shows_how_far_it_is_and_fails_with_what_to_do(
    server: Server, libvirt_site: Site, tab: Open
) -> None:
    page = tab(server).open()
    page.get_by_role("button", name="Clone spoilt", exact=True).click()
    page.get_by_text("Copy", exact=True).click()
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Read at most").fill("1")
    page.get_by_label("Name", exact=True).fill("doomed")
    expect(page.locator(".names")).to_have_text("doomed")
    page.locator("dialog .confirm").click()
    row = page.get_by_role("row").filter(has=page.get_by_text("doomed", exact=True))
    expect(row.locator("td.state progress:not([value='0'])")).to_be_visible()
    page.get_by_role("link", name="Activity").click()
    expect(page.locator(".task", has_text="doomed").locator(".task-facts")).to_contain_text("of 4 MiB")
    with spoilt_disk(libvirt_site).open("r+b") as disk:
        disk.write(b"written to")
    reason = page.locator(".task.failed", has_text="doomed").locator(".reason")
    expect(reason).to_contain_text("was written to while it was cloned")
    expect(reason).to_contain_text("CLNTASK0007E")
    expect(page.locator(".notice.is-bad")).to_contain_text("doomed could not be made")
    page.get_by_role("button", name="Clone spoilt again").click()
    expect(page.locator("dialog h2")).to_have_text("Clone spoilt")


def test_what_others_do_is_seen_at_once(server: Server, libvirt_site: Site, tab: Open) -> None:
    assert libvirt_site.conn is not None
    page = tab(server).open()
    row = page.get_by_role("row").filter(has=page.get_by_role("button", name="Clone web", exact=True))
    expect(row.locator("td.state")).to_have_text("Off")
    guest = libvirt_site.conn.lookupByName("web")
    guest.create()
    try:
        expect(row.locator("td.state")).to_have_text("Running")
        button = row.get_by_role("button", name="Clone web")
        expect(button).to_have_attribute("aria-disabled", "true")
        button.click(force=True)  # which it is not disabled for, only said to be
        expect(page.locator(".notice")).to_contain_text("Shut it down before it is cloned")
        expect(page.locator("dialog")).to_have_count(0)
    finally:
        stop_guest(guest)
    expect(row.locator("td.state")).to_have_text("Off")
