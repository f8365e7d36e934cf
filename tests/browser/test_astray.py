"""The page where something goes astray: answers, connections and clicks that are lost, late, or one too many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.sync_api import Page, Route, expect

from support.browser import Tab
from support.running import wait_until
from support.server import TOKEN, Server

Open = Callable[..., Tab]
VOLUMES = "storagepools/default/storagevolumes"


def asked_for(server: Server) -> list[str]:
    """What clones were accepted of."""
    return [task["source"] for task in server.request("GET", "tasks").json]


def open_dialog(page: Page, name: str = "web") -> None:
    page.get_by_role("button", name=f"Clone {name}", exact=True).click()
    expect(page.locator(".plan")).to_have_attribute("aria-busy", "false")


class Once:
    """Loses the first answer to a clone that is done, as a broken connection does."""

    def __init__(self) -> None:
        self.statuses: list[int] = []

    def __call__(self, route: Route) -> None:
        if self.statuses or (route.request.post_data_json or {}).get("dry_run"):
            route.continue_()
        else:
            self.statuses.append(route.fetch().status)
            route.abort()


def test_what_is_typed_while_a_lost_answer_is_asked_for_again_makes_nothing_twice(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"ERR_FAILED"}
    page = opened.open()
    before = len(asked_for(demo))
    open_dialog(page)
    lost = Once()
    page.route("**/vms/web/clone", lost)
    page.keyboard.press("Enter")
    expect(page.locator("dialog .problem")).to_contain_text("nothing is made twice")
    page.keyboard.type("another")
    expect(page.locator("dialog")).to_have_count(0)
    assert lost.statuses == [202]
    assert asked_for(demo)[before:] == ["web"]


def test_what_was_accepted_is_not_asked_for_again_after_another_was_refused(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"507"}
    page = opened.open()
    before = len(asked_for(demo))
    refusal = '{"code": "507", "reason": "KCHVM0034E: Storage pool x-2 has room for 1 bytes, and 4096 are needed"}'

    def refuse(route: Route) -> None:
        if (route.request.post_data_json or {}).get("dry_run"):
            route.continue_()
        else:
            route.fulfill(status=507, content_type="application/json", body=refusal)

    page.route("**/vms/win-uefi/clone", refuse)
    for name in ("web", "win-uefi"):
        page.get_by_label(f"Select {name}", exact=True).check()
    page.get_by_role("button", name="Clone selected").click()
    expect(page.locator(".plan h3")).to_have_text("2 clones")
    page.locator("dialog .confirm").click()
    expect(page.locator("dialog .problem")).to_contain_text("pool x-2 has room for 1 B, and 4 KiB are needed")
    page.unroute("**/vms/win-uefi/clone")
    page.get_by_text("Start afterwards", exact=True).click()
    expect(page.locator(".plan h3")).to_have_text("1 clone")
    page.locator("dialog .confirm").click()
    expect(page.locator("dialog")).to_have_count(0)
    assert asked_for(demo)[before:] == ["web", "win-uefi"]


def test_the_second_click_of_a_double_click_chooses_nothing(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.page.clock.install()
    page = opened.open()
    button = page.get_by_role("button", name="Clone web", exact=True)
    button.wait_for()
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=5))
    pointer = "each => getComputedStyle(each).pointerEvents"
    button.dblclick()
    dialog = page.locator("dialog")
    assert dialog.evaluate(pointer) == "none"
    page.clock.run_for(1000)
    assert dialog.evaluate(pointer) == "auto"
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert page.locator("main").evaluate(pointer) == "none"
    page.clock.run_for(1000)
    assert page.locator("main").evaluate(pointer) == "auto"


def test_a_volume_is_that_of_the_pool_which_is_shown(demo: Server, tab: Open) -> None:
    task = demo.request("POST", "storagepools/data/storagevolumes/db-data.raw/clone", {"name": "web.qcow2"}).json
    demo.wait_task(task["id"])
    page = tab(demo).open("storage")
    page.locator(".pools button", has_text="data").click()
    expect(page.locator(".volumes tbody .name", has_text="db-data.raw")).to_be_visible()
    page.locator(".pools button", has_text="default").click()
    with page.expect_request("**/clone") as asked:
        page.get_by_role("button", name="Clone web.qcow2", exact=True).click()
    assert "/storagepools/default/" in asked.value.url


def test_storage_that_could_not_be_read_is_read_again(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"500", "401"}
    failures: list[str] = []

    def fail_once(route: Route) -> None:
        if failures:
            route.continue_()
        else:
            failures.append(route.request.url)
            route.fulfill(status=500, content_type="application/json", body='{"code": "500", "reason": "X: broken"}')

    opened.page.route("**/storagepools", fail_once)
    page = opened.open("storage")
    expect(page.locator(".pools button", has_text="default")).to_be_visible()
    assert failures


def test_a_pool_that_cannot_be_read_leaves_the_others_as_they_are(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"500"}
    broken = '{"code": "500", "reason": "CLNX0001E: cannot open volume"}'
    opened.page.route(
        "**/storagepools/data/storagevolumes",
        lambda route: route.fulfill(status=500, content_type="application/json", body=broken),
    )
    page = opened.open("storage")
    page.locator(".pools button", has_text="default").click()
    expect(page.locator(".volumes tbody .name").first).to_be_visible()
    page.locator(".pools button", has_text="data").click()
    expect(page.locator(".volumes .empty")).to_contain_text("cannot open volume")


def test_what_others_do_to_storage_is_seen_when_it_is_looked_at(demo: Server, tab: Open) -> None:
    page = tab(demo).open("storage")
    expect(page.locator(".volumes tbody .name").first).to_be_visible()
    page.get_by_role("link", name="Guests").click()
    volumes = [{**volume, "name": f"new-{volume['name']}"} for volume in demo.request("GET", VOLUMES).json]
    page.route(f"**/{VOLUMES}", lambda route: route.fulfill(json=volumes))
    page.get_by_role("link", name="Storage").click()
    page.locator(".pools button", has_text="default").click()
    expect(page.locator(".volumes tbody .name").first).to_contain_text("new-")


def test_what_could_not_be_taken_out_of_the_list_stays_in_it(demo: Server, tab: Open) -> None:
    demo.wait_task(demo.request("POST", "vms/web/clone", {"name": "stays"}).json["id"])
    opened = tab(demo)
    opened.allowed |= {"ERR_FAILED"}
    page = opened.open("activity")
    page.route("**/tasks/*", lambda route: route.abort())
    page.get_by_role("button", name="Clear ended").click()
    expect(page.locator(".notice.is-bad")).to_contain_text("cannot be reached")
    demo.wait_task(demo.request("POST", "vms/web/clone", {"name": "later"}).json["id"])
    expect(page.locator(".task", has_text="later")).to_be_visible()
    expect(page.locator(".task", has_text="stays")).to_be_visible()
    expect(page.locator(".notice.is-bad")).to_have_count(1)


def test_a_log_in_in_another_tab_is_one_here(demo: Server, tab: Open) -> None:
    first = tab(demo)
    first.allowed |= {"401"}
    page = first.page
    page.goto(demo.url("/"))
    expect(page.locator("dialog.login")).to_be_visible()
    second = tab(demo, beside=first)
    second.allowed |= {"401"}
    other = second.page
    other.goto(demo.url("/"))
    other.get_by_label("Password or token").fill(TOKEN)
    other.keyboard.press("Enter")
    expect(other.locator(".connection")).to_have_text("Live")
    expect(page.locator("dialog.login")).to_have_count(0)
    expect(page.locator(".connection")).to_have_text("Live")


def test_a_notice_stays_as_long_as_it_is_looked_at(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.page.clock.install()
    page = opened.open()
    page.get_by_role("button", name="Clone mail", exact=True).click(force=True)  # which runs
    notice = page.locator(".notice", has_text="Shut it down")
    notice.hover()
    page.clock.fast_forward(20_000)
    expect(notice).to_be_visible()
    page.mouse.move(5, 300)
    page.clock.fast_forward(20_000)
    expect(notice).to_have_count(0)


def test_enter_that_is_held_down_opens_the_dialog_and_confirms_nothing(demo: Server, tab: Open) -> None:
    page = tab(demo).open()
    page.get_by_role("button", name="Clone web", exact=True).focus()
    with page.expect_request("**/vms/web/clone"):
        page.keyboard.down("Enter")
    expect(page.locator("dialog .confirm")).to_be_enabled()
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if request.method == "POST" else None)
    page.keyboard.down("Enter")  # again, so that it is the keyboard that repeats it
    page.keyboard.up("Enter")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    assert not asked


def test_an_address_that_leads_nowhere_shows_the_guests(demo: Server, tab: Open) -> None:
    page = tab(demo).open("constructor")
    expect(page.get_by_role("link", name="Guests")).to_have_attribute("aria-current", "page")


def test_nothing_is_said_to_be_wrong_before_there_is_a_plan(demo: Server, tab: Open) -> None:
    page = tab(demo).open()
    page.route("**/vms/web/clone", lambda _route: None)  # which is not answered
    page.get_by_role("button", name="Clone web", exact=True).click()
    expect(page.locator("dialog .plan")).to_have_attribute("aria-busy", "true")
    expect(page.locator("dialog .problem")).to_be_hidden()
    expect(page.locator("dialog .confirm")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_those_that_are_ready_together_are_told_of_together(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.page.clock.install()
    page = opened.open("activity")
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=5))
    for number in range(4):
        demo.wait_task(demo.request("POST", "vms/web/clone", {"name": f"together-{number}"}).json["id"])
    shown = page.locator(".task.finished", has_text="together-")

    def are_shown() -> bool:
        page.clock.run_for(1)
        return shown.count() == 4

    wait_until(are_shown, 20, "all of them are known to the page")
    page.clock.run_for(2000)
    expect(page.locator(".notice", has_text="3 more clones are ready")).to_be_visible()
    expect(page.locator(".notice", has_text="together-")).to_have_count(1)


def test_what_has_the_focus_and_goes_leaves_it_where_it_was(demo: Server, tab: Open) -> None:
    batch = demo.request("POST", "vms/web/clone", {"count": 2}).json
    for task in batch["tasks"]:
        demo.wait_task(task["id"])
    page = tab(demo).open("activity")
    card = page.locator(".tasks > .task").first
    card.get_by_role("button", name="Remove the clones of web again").press("Enter")
    page.get_by_role("button", name="Delete 2 clones").press("Enter")
    expect(card.locator(".task-facts").first).to_contain_text("2 cancelled")
    expect(card.get_by_role("button", name="Each of them")).to_be_focused()
    page.keyboard.press("Enter")
    taken = card.locator(".parts .task").first.get_by_role("button", name="out of the list")
    taken.press("Enter")
    expect(card.locator(".parts .task")).to_have_count(1)
    expect(page.get_by_role("group", name="Activity")).to_be_focused()


def test_what_is_ready_is_no_longer_said_to_be_in_the_making(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"503"}
    page = opened.page
    page.clock.install()
    busy = '{"code": "503", "reason": "CLNAPI0008E: too many follow the events"}'
    page.route("**/events?*", lambda route: route.fulfill(status=503, content_type="application/json", body=busy))
    opened.log_in()
    page.goto(demo.url("/"))
    expect(page.locator(".connection.polling")).to_be_visible()
    open_dialog(page)
    page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=5))
    page.locator("dialog .confirm").click()
    making = page.locator(".notice", has_text="is being made")
    expect(making).to_be_visible()
    demo.wait_task(demo.request("GET", "tasks").json[-1]["id"])
    page.clock.run_for(2500)  # until it is asked for again
    expect(page.locator(".notice", has_text="is ready")).to_be_visible()
    assert making.count() == 0


def test_events_that_a_proxy_keeps_are_done_without(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    page = opened.page
    page.clock.install()
    page.route("**/events?*", lambda _route: None)
    opened.log_in()
    with page.expect_request("**/events?*"):
        page.goto(demo.url("/"))
    expect(page.locator(".guests tbody th .name").first).to_be_visible()
    page.clock.fast_forward(15_000)
    expect(page.locator(".connection.polling")).to_be_visible()


def test_a_log_in_that_took_long_puts_nothing_off(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"401"}
    page = opened.page
    page.clock.install()
    page.route(
        "**/storagepools",
        lambda route: route.fulfill(status=401, content_type="application/json", body='{"reason": "WOKAUTH0002E: no"}'),
        times=1,
    )
    opened.log_in()
    page.goto(demo.url("/#storage"))
    expect(page.locator("dialog.login")).to_be_visible()
    page.clock.fast_forward(600_000)
    page.get_by_label("Password or token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator(".volumes tbody .name").first).to_be_visible()
    page.get_by_role("link", name="Guests").click()
    page.get_by_role("link", name="Storage").click()
    with page.expect_request("**/storagepools"):
        page.clock.fast_forward(31_000)
