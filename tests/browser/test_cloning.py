"""Cloning in the page, on libvirt's test driver and on a real libvirt: what a person does, and sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from support.browser import Site, Slow, Tab
from support.server import TOKEN, Server

Open = Callable[..., Tab]


def open_dialog(page: Page, name: str = "web") -> None:
    """Press Clone, and wait for the plan."""
    page.get_by_role("button", name=f"Clone {name}", exact=True).click()
    planned(page)


def planned(page: Page) -> None:
    expect(page.locator(".plan")).to_have_attribute("aria-busy", "false")


def confirm(page: Page) -> None:
    page.locator("dialog .confirm").click()
    expect(page.locator("dialog")).to_have_count(0)


def names(server: Server) -> set[str]:
    return {guest["name"] for guest in server.request("GET", "vms").json}


def running(server: Server) -> list[dict[str, Any]]:
    return server.request("GET", "tasks?status=running").json


def test_a_clone_is_planned_made_and_shown(shared: Server, tab: Open) -> None:
    page = tab(shared).open()
    before = names(shared)
    open_dialog(page)
    expect(page.locator(".plan h3")).to_have_text("1 clone")
    foreseen = page.locator(".names .name").inner_text()
    expect(page.get_by_label("Name", exact=True)).to_have_attribute("placeholder", foreseen)
    expect(page.locator(".names")).to_contain_text("will be later ones")
    expect(page.locator(".plan-disk").first).to_contain_text("vda")
    expect(page.locator(".own")).to_contain_text("name and UUID, MAC addresses, vda")
    assert names(shared) == before

    confirm(page)
    page.locator(".notice", has_text="is ready").get_by_role("button", name="Show", exact=True).click()

    (made,) = names(shared) - before
    row = page.get_by_role("row").filter(has=page.get_by_text(made, exact=True))
    expect(row).to_have_class(re.compile("is-lit"))
    expect(row.locator(".badge")).to_have_text("New")
    expect(row.get_by_role("button", name=f"Clone {made}")).to_be_focused()


def test_25_are_made_at_once_and_are_one_bar_that_opens(shared: Server, tab: Open) -> None:
    page = tab(shared).open()
    before = names(shared)
    open_dialog(page)
    page.get_by_label("How many").fill("25")
    expect(page.locator(".plan h3")).to_have_text("25 clones")
    expect(page.get_by_label("Name", exact=True)).to_be_disabled()
    confirm(page)
    expect(page.locator(".notice", has_text="25 clones of web are ready")).to_be_visible()
    assert len(names(shared) - before) == 25

    page.get_by_role("link", name="Activity").click()
    batch = page.locator(".tasks > .task").first
    expect(batch.locator("h3").first).to_have_text("25 clones of web")
    expect(batch.locator(".task-facts").first).to_contain_text("25 ready")
    batch.get_by_role("button", name="Each of them").click()
    expect(batch.locator(".parts .task")).to_have_count(25)


def test_a_name_is_taken_as_it_is_and_enter_confirms(shared: Server, tab: Open) -> None:
    page = tab(shared).open()
    open_dialog(page)
    wanted = f"named-{len(names(shared))}"
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Description").fill("Made by name")
    page.get_by_label("Name", exact=True).fill(wanted)
    expect(page.locator(".names")).to_have_text(wanted)  # as it is, without a word about numbers
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".notice", has_text=f"{wanted} is ready")).to_be_visible()
    assert shared.request("GET", f"vms/{wanted}").json["description"] == "Made by name"


def test_a_name_that_is_taken_is_said_beside_the_field_before_anything_is_done(shared: Server, tab: Open) -> None:
    opened = tab(shared)
    opened.allowed |= {"409"}
    page = opened.open()
    before = names(shared)
    open_dialog(page)
    field = page.get_by_label("Name", exact=True)
    field.fill("web")
    expect(page.locator(".problem")).to_contain_text("The name web is taken")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator("dialog .confirm")).to_be_disabled()
    field.fill("")
    expect(page.locator("dialog .confirm")).to_be_enabled()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    assert names(shared) == before


def test_what_there_is_no_room_for_is_said_at_once_with_what_fits(shared: Server, site: Site, tab: Open) -> None:
    opened = tab(shared)
    opened.allowed |= {"507"}
    page = opened.open()
    pool, count = site.crowd
    before = names(shared)
    open_dialog(page)
    page.locator(".pools-choice").get_by_text(pool, exact=True).click()
    page.get_by_label("How many").fill(str(count))
    expect(page.locator(".problem")).to_contain_text(f"There is no room for {count:,} clones")
    expect(page.locator("dialog .confirm")).to_be_disabled()
    page.get_by_role("button", name=re.compile(r"Take \d+")).click()
    expect(page.locator("dialog .confirm")).to_be_enabled()
    expect(page.locator(".problem")).to_be_hidden()
    assert int(page.get_by_label("How many").input_value()) < count
    page.keyboard.press("Escape")
    assert names(shared) == before


def test_a_double_click_makes_one_set_of_clones(shared: Server, tab: Open) -> None:
    page = tab(shared).open()
    before = names(shared)
    page.get_by_role("button", name="Clone web", exact=True).dblclick()
    expect(page.locator("dialog")).to_have_count(1)
    page.get_by_label("How many").fill("3")
    expect(page.locator(".plan h3")).to_have_text("3 clones")
    page.locator("dialog .confirm").dblclick()
    expect(page.locator(".notice", has_text="3 clones of web are ready")).to_be_visible()
    assert len(names(shared) - before) == 3


def test_an_answer_that_is_lost_makes_no_second_set(shared: Server, tab: Open) -> None:
    opened = tab(shared)
    opened.allowed |= {"ERR_FAILED"}
    page = opened.open()
    before = names(shared)
    open_dialog(page)
    page.get_by_label("Name", exact=True).fill(wanted := f"lost-{len(before)}")
    expect(page.locator(".names")).to_have_text(wanted)
    is_lost: list[int] = []

    def lose_the_first(route: Any) -> None:
        if is_lost:
            route.continue_()
        else:
            is_lost.append(route.fetch().status)  # the server has done it, and the page does not hear of it
            route.abort()

    page.route("**/vms/web/clone", lose_the_first)
    confirm(page)
    assert is_lost == [202]
    assert names(shared) - before <= {wanted}


def test_two_tabs_show_the_same(shared: Server, tab: Open) -> None:
    first = tab(shared)
    page, other = first.open(), tab(shared, beside=first).show("activity")
    open_dialog(page)
    page.get_by_label("Name", exact=True).fill(wanted := f"seen-twice-{len(names(shared))}")
    expect(page.locator(".names")).to_have_text(wanted)
    confirm(page)
    task = other.locator(".task", has_text=wanted)
    expect(task).to_have_class("task finished")
    task.get_by_role("button", name=f"Take {wanted} out").click()
    expect(task).to_have_count(0)
    page.get_by_role("link", name="Activity").click()
    expect(page.locator(".task", has_text=wanted)).to_have_count(0)


def test_a_session_that_has_ended_is_asked_for_without_losing_the_dialog(shared: Server, tab: Open) -> None:
    opened = tab(shared)
    opened.allowed |= {"401"}
    page = opened.open()
    open_dialog(page)
    page.get_by_label("Name", exact=True).fill(wanted := f"after-log-in-{len(names(shared))}")
    expect(page.locator(".names")).to_have_text(wanted)
    page.context.clear_cookies()
    page.locator("dialog .confirm").click()
    login = page.locator("dialog.login")
    login.get_by_label("Password or token").fill("wrong")
    login.get_by_role("button", name="Log in").click()
    expect(login.locator(".problem")).to_contain_text("wrong")
    login.get_by_label("Password or token").fill(TOKEN)
    login.get_by_role("button", name="Log in").click()
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".notice", has_text=f"{wanted} is ready")).to_be_visible()


def test_what_is_cancelled_is_gone(slow: Slow, tab: Open) -> None:
    page = tab(slow.server).open("activity")
    before = names(slow.server)
    task = slow.ask()
    expect(page.locator(".task.running progress").first).to_be_visible()
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        page.locator(".tasks > .task").first.get_by_role("button", name="Cancel").first.click()
    slow.go_on()
    expect(page.locator(".tasks > .task.running")).to_have_count(0)
    assert slow.server.wait_task(task["id"])["status"] == "killed"
    assert names(slow.server) == before
    page.locator(".tasks > .task").first.get_by_text("cancelled").first.wait_for()


def test_reloading_in_the_middle_loses_nothing(slow: Slow, tab: Open) -> None:
    page = tab(slow.server).open()
    task = slow.ask()
    expect(page.locator(".bubble")).to_be_visible()
    page.get_by_role("link", name="Activity").click()
    page.reload()
    expect(page.locator(".tasks > .task.running progress").first).to_be_visible()
    assert page.url.endswith("#activity")
    assert running(slow.server)
    slow.server.request("DELETE", f"tasks/{task['id']}", {"cancel": True})
    slow.go_on()
    expect(page.locator(".bubble")).to_be_hidden()


def test_a_restart_in_the_middle_is_survived_and_what_failed_says_why(slow: Slow, tab: Open) -> None:
    own = slow.server
    opened = tab(own)
    opened.allowed |= {"401", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED_ENCODING"}
    opened.allowed |= {"ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CONNECTED"}
    page = opened.open("activity")
    slow.ask()
    expect(page.locator(".task.running progress").first).to_be_visible()
    own.kill()
    expect(page.locator(".connection")).to_have_text("Connection lost")
    expect(page.locator(".banner")).to_be_visible()
    own.start()
    page.locator("dialog.login").get_by_label("Password or token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator(".connection")).to_have_text("Live")
    expect(page.locator(".banner")).to_be_hidden()
    expect(page.locator(".tasks > .task.running")).to_have_count(0)
    expect(page.locator(".tasks > .task .reason").first).to_contain_text(
        "The server stopped before this clone was complete"
    )


def test_a_volume_is_cloned_the_same_way(shared: Server, site: Site, tab: Open) -> None:
    page = tab(shared).open("storage")
    page.locator(".pools button", has_text="default").click()
    page.get_by_label("Search volumes").fill("web.")
    volume = page.locator(".volumes tbody th .name", has_text=re.compile(r"^web\.(img|qcow2)$"))
    name = volume.inner_text()
    expect(page.locator(".pools [role=meter]").first).to_be_visible()
    page.get_by_role("button", name=f"Clone {name}", exact=True).click()
    planned(page)
    confirm(page)
    page.locator(".notice", has_text="is ready").get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".volumes tr.is-lit")).to_contain_text("web-clone-")


def test_several_are_cloned_together_and_what_cannot_be_is_left_out(own: Server, tab: Open) -> None:
    first, second = (own.wait_task(own.request("POST", "vms/web/clone", {"name": name}).json["id"]) for name in "ab")
    own.request("POST", f"vms/{second['name']}/start")
    page = tab(own).open()
    for name in ("web", first["name"], second["name"]):
        page.get_by_label(f"Select {name}", exact=True).check()
    expect(page.locator(".selection-text")).to_have_text("3 guests selected")
    before = names(own)
    page.get_by_role("button", name="Clone selected").click()
    expect(page.locator(".left-out")).to_contain_text("b")
    expect(page.locator(".plan h3")).to_have_text("2 clones")
    plan = page.locator(".sources > li").filter(has=page.locator("summary", has_text="a"))
    expect(plan.locator(".names")).to_contain_text("a-clone-")
    expect(plan.locator(".plan-disk").first).to_contain_text("vda")
    page.get_by_label("How many of each").fill("2")
    expect(page.locator("dialog .confirm")).to_have_text("Make 4 clones")
    confirm(page)
    expect(page.locator(".selection")).to_be_hidden()
    for task in running(own):
        own.wait_task(task["id"])
    assert len(names(own) - before) == 4
