"""The page itself: many guests, strange names, keyboards, readers, small screens, languages, lost connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from playwright.sync_api import Page, expect

from support.browser import NARROW, WIDE, Tab, accessibility_problems, base_path
from support.running import wait_until
from support.server import TOKEN, Server

Open = Callable[..., Tab]

HOSTILE = [
    "<img src=x onerror=document.title='owned'>",
    "<script>document.title='owned'<script>",
    "\u202egpj.txt",
    "\u05d0\u05d1\u05d2 web",
    "&amp; 'quoted' \"twice\"",
    "n" * 200,
    "{name} %s $& \\u0000",
    "__proto__",
]
DOMAIN = (
    "<domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'><name>{name}</name>"
    "<title>{title}</title><memory unit='MiB'>1024</memory><vcpu>2</vcpu><os><type>hvm</type></os>"
    "<devices><disk type='file'><source file='/images/{number}.img'/><target dev='vda'/></disk></devices>"
    "<test:runstate>{state}</test:runstate></domain>"
)
VOLUME = (
    "<volume type='file'><name>{number}.img</name><key>/images/{number}.img</key><capacity unit='GiB'>8</capacity>"
    "<allocation>4096</allocation><target><path>/images/{number}.img</path><format type='raw'/></target></volume>"
)
OFF, RUNNING = 5, 1
WHEN_FIRST_SHOWN = """new MutationObserver((_, observer) => {
    if (!document.querySelector(".guests tbody th .name")) return;
    observer.disconnect();
    requestAnimationFrame(() => (window.firstShown = performance.now()));
}).observe(document, { childList: true, subtree: true })"""


def inventory(folder: Path, names: list[str], titles: list[str] | None = None) -> str:
    """The URI of a test driver with guests of these names; every third of them runs, but not the first."""
    volumes = "".join(VOLUME.format(number=number) for number in range(len(names)))
    domains = "".join(
        DOMAIN.format(
            name=escape(name),
            title=escape((titles or names)[number][:100]),
            number=number,
            state=RUNNING if number % 3 == 1 else OFF,
        )
        for number, name in enumerate(names)
    )
    pool = f"<pool type='dir'><name>default</name><target><path>/images</path></target>{volumes}</pool>"
    path = folder / "inventory.xml"
    path.write_text(f"<node>{pool}{domains}</node>", "utf-8")
    return f"test://{path}"


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, serve: Callable[[str | None], Server]) -> Iterator[Server]:
    """5,000 guests."""
    folder = tmp_path_factory.mktemp("crowd")
    uri = inventory(folder, [f"guest-{number}" for number in range(5000)], [f"Rack {n % 40}" for n in range(5000)])
    with serve(uri) as server:
        wait_until(lambda: server.request("GET", "vms?_limit=1").status == 200, 60, "all guests were read once")
        yield server


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, serve: Callable[[str | None], Server]) -> Iterator[Server]:
    with serve(inventory(tmp_path_factory.mktemp("strange"), HOSTILE)) as server:
        yield server


def rows(page: Page) -> Any:
    return page.locator(".guests tbody tr:not(.spacer)")


# --- Many ------------------------------------------------------------------------------------------------------------


def test_of_5000_guests_those_in_sight_are_in_the_document(
    crowd: Server, tab: Open, record_property: Callable[[str, object], None]
) -> None:
    opened = tab(crowd)
    opened.page.add_init_script(WHEN_FIRST_SHOWN)
    page = opened.open()
    expect(page.locator(".guests .count")).to_contain_text("5,000 guests")
    expect(page.get_by_role("table", name="Guests")).to_have_attribute("aria-rowcount", "5001")
    assert rows(page).count() < 60
    page.locator(".guests .scroller").evaluate("scroller => scroller.scrollTop = scroller.scrollHeight")
    expect(page.get_by_text("guest-4999", exact=True)).to_be_visible()
    assert rows(page).count() < 60
    record_property("first guests of 5,000 are shown after, ms", round(page.evaluate("window.firstShown")))


def test_a_search_among_5000_is_done_in_memory(
    crowd: Server, tab: Open, record_property: Callable[[str, object], None]
) -> None:
    page = tab(crowd).open()
    expect(page.locator(".guests .count")).to_contain_text("5,000 guests")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("""() => {
        window.tasks = [];
        new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((each) => each.duration)))
            .observe({ type: "longtask" });
    }""")
    page.keyboard.press("/")
    page.keyboard.type("499 RACK")
    expect(page.locator(".guests .count")).to_have_text("15 of 5,000 found")
    assert rows(page).count() == 15
    assert not [url for url in asked if "events" not in url]
    record_property("longest task while typing, ms", page.evaluate("Math.max(0, ...window.tasks)"))
    page.keyboard.type("xyz")
    expect(page.get_by_text("Nothing found")).to_be_visible()
    page.get_by_role("button", name="Show all guests").click()
    expect(page.locator(".guests .count")).to_contain_text("5,000 guests")


def test_5000_are_sorted_by_number_and_turned_around(crowd: Server, tab: Open) -> None:
    page = tab(crowd).open()
    expect(page.locator(".guests .count")).to_contain_text("5,000 guests")
    expect(rows(page).first).to_contain_text("guest-0")
    page.get_by_role("button", name="Name").click()
    expect(rows(page).first).to_contain_text("guest-4999")
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="State").click()
    expect(rows(page).first.locator("td.state")).to_have_text("Running")


# --- Strange names ---------------------------------------------------------------------------------------------------


def test_names_are_text_whatever_they_are(strange: Server, tab: Open) -> None:
    page = tab(strange).open()
    expect(rows(page).nth(len(HOSTILE) - 1)).to_be_visible()  # others clone them meanwhile
    assert set(HOSTILE) <= set(page.locator(".guests tbody .main bdi.name").all_inner_texts())
    assert page.locator(".guests :is(img, script)").count() == 0
    assert page.title() == "cloner"
    sides = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert sides[0] <= sides[1]


@pytest.mark.parametrize("name", [HOSTILE[0], HOSTILE[2], HOSTILE[5]])
def test_what_has_a_strange_name_is_cloned_as_any_other(strange: Server, tab: Open, name: str) -> None:
    page = tab(strange).open()
    page.get_by_role("button", name=f"Clone {name}", exact=True).click()
    expect(page.locator("dialog h2 bdi")).to_have_text(name, use_inner_text=True)
    page.locator("dialog .names").wait_for()
    too_wide = "each => each.scrollWidth - each.clientWidth"
    assert [page.locator(place).evaluate(too_wide) for place in ("dialog", ".foreseen", ".wishes")] == [0, 0, 0]
    wanted = name.replace("/", "")[:150] + "-2" + HOSTILE[0]
    if name == HOSTILE[2]:
        wanted = f"plain-{len(HOSTILE)}"  # such marks are refused in a new name
    page.get_by_label("Name", exact=True).fill(wanted)
    expect(page.locator(".plan .names bdi")).to_have_text(wanted)
    page.locator("dialog .confirm").click()
    notice = page.locator(".notice", has_text="is ready")
    expect(notice).to_contain_text(wanted)
    box = notice.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= WIDE["width"]
    page.get_by_role("link", name="Activity").click()
    expect(page.locator(".task.finished", has_text=wanted).first).to_be_visible()
    assert page.locator(".cloner :is(img, script)").count() == 0
    assert page.title() == "cloner"


# --- Everybody -------------------------------------------------------------------------------------------------------


def test_the_keyboard_alone_will_do(demo: Server, tab: Open) -> None:
    page = tab(demo).open()
    page.keyboard.press("/")
    expect(page.get_by_label("Search guests")).to_be_focused()
    page.keyboard.type("win-uefi")
    expect(rows(page).first).to_contain_text("win-uefi")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Clone win-uefi":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("by-hand")
    expect(page.locator(".names")).to_have_text("by-hand")
    expect(page.locator(".own")).to_contain_text("UEFI variables")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Clone win-uefi", exact=True)).to_be_focused()
    expect(page.locator(".notice", has_text="by-hand is ready")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_arrows_lead_from_row_to_row_through_all_of_them(crowd: Server, tab: Open) -> None:
    page = tab(crowd).open()
    expect(page.locator(".guests .count")).to_contain_text("5,000 guests")
    page.get_by_role("button", name="Clone guest-0", exact=True).focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="Clone guest-1", exact=True)).to_be_focused()
    page.keyboard.press("End")
    expect(page.get_by_role("button", name="Clone guest-4999", exact=True)).to_be_focused()
    page.keyboard.press("Home")
    expect(page.get_by_role("button", name="Clone guest-0", exact=True)).to_be_focused()


def show_dialog(page: Page) -> None:
    page.get_by_role("button", name="Clone web", exact=True).click()
    expect(page.locator(".plan")).to_have_attribute("aria-busy", "false")
    page.get_by_text("More", exact=True).click()


def show_problem(page: Page) -> None:
    show_dialog(page)
    page.get_by_label("Name", exact=True).fill("web")
    expect(page.locator(".problem")).to_be_visible()


def show_selection(page: Page) -> None:
    page.get_by_label("Select web", exact=True).check()


def show_several(page: Page) -> None:
    for name in ("web", "db", "mail"):  # of which one runs
        page.get_by_label(f"Select {name}", exact=True).check()
    page.get_by_role("button", name="Clone selected").click()
    expect(page.locator(".plan")).to_have_attribute("aria-busy", "false")


def show_nothing(page: Page) -> None:
    page.get_by_label("Search guests").fill("there is no such guest")


def show_question(page: Page) -> None:
    page.get_by_role("button", name="Each of them").first.click()
    page.get_by_role("button", name="Remove the clones of web again").first.click()


VIEWS: dict[str, tuple[str, Callable[[Page], None]]] = {
    "guests": ("guests", show_selection),
    "several": ("guests", show_several),
    "nothing": ("guests", show_nothing),
    "dialog": ("guests", show_dialog),
    "problem": ("guests", show_problem),
    "storage": ("storage", lambda page: page.locator(".volumes tbody th").first.wait_for()),
    "activity": ("activity", lambda page: page.locator(".task").first.wait_for()),
    "question": ("activity", show_question),
}


@pytest.fixture(scope="module")
def busy(demo: Server) -> Server:
    """The demo, where something has happened."""
    for body in ({"count": 2}, {"name": "web-2"}):
        answer = demo.request("POST", "vms/web/clone", body).json
        for task in answer.get("tasks", [answer]):
            demo.wait_task(task["id"])
    return demo


@pytest.mark.parametrize(("size", "colours"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide-light", "narrow-dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_and_nothing_is_too_wide(
    busy: Server, tab: Open, view: str, size: dict[str, int], colours: str
) -> None:
    opened = tab(busy, viewport=size, color_scheme=colours)
    opened.allowed |= {"409"}
    place, show = VIEWS[view]
    page = opened.open(place)
    show(page)
    assert accessibility_problems(page) == []
    sides = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert sides[0] <= sides[1]
    for dialog in page.locator("dialog").all():
        assert dialog.evaluate("each => each.scrollWidth <= each.clientWidth")


def test_axe_finds_nothing_in_the_log_in_and_in_the_description_of_the_api(busy: Server, tab: Open) -> None:
    opened = tab(busy)
    opened.allowed |= {"401"}
    page = opened.page
    page.goto(busy.url("/"))
    page.locator("dialog.login").wait_for()
    assert accessibility_problems(page) == []
    opened.log_in()
    page.goto(busy.url("/docs"))
    page.locator("#requests section").first.wait_for()
    assert accessibility_problems(page) == []


def test_it_is_there_in_another_language(demo: Server, tab: Open) -> None:
    page = tab(demo, locale="de-AT").open()
    expect(page.locator(".cloner")).to_have_attribute("lang", "de")
    page.get_by_role("button", name="web klonen", exact=True).click()
    expect(page.locator(".plan h3")).to_have_text("1 Klon")
    page.get_by_label("Wie viele").fill("2")
    expect(page.locator(".plan h3")).to_have_text("2 Klone")


def test_times_are_told_as_people_do_and_in_full_on_hover(busy: Server, tab: Open) -> None:
    last = datetime.fromisoformat(busy.request("GET", "tasks").json[-1]["ended"])
    opened = tab(busy)
    opened.page.clock.set_fixed_time(last + timedelta(hours=3))
    page = opened.open("activity")
    moment = page.locator(".task time").first
    expect(moment).to_have_text("3 hours ago")
    assert str(last.year) in (moment.get_attribute("title") or "")


# --- Log-in and connection -------------------------------------------------------------------------------------------


def test_the_form_logs_in_and_the_button_logs_out(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.allowed |= {"401"}
    page = opened.page
    page.goto(demo.url("/"))
    login = page.locator("dialog.login")
    page.keyboard.press("Escape")
    expect(login).to_be_visible()
    assert login.evaluate("each => each.clientWidth - each.firstChild.offsetWidth") == 0  # which it holds
    login.get_by_label("Password or token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator(".connection")).to_have_text("Live")
    expect(rows(page).first).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(login).to_be_visible()


def test_the_one_time_link_logs_in(tmp_path: Path, tab: Open) -> None:
    with Server(None, tmp_path) as server:
        opened = tab(server)
        link = server.ready_line[server.ready_line.index("http") :].split()[0]
        opened.page.goto(link)
        expect(opened.page.locator(".connection")).to_have_text("Live")
        assert "once" not in opened.page.url


def test_without_events_it_asks_again_and_again(tmp_path: Path, tab: Open) -> None:
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nmax_streams = 1\n")
    with Server(None, tmp_path / "state", args=["--config", str(conf)]) as server:
        first = tab(server)
        first.open()
        second = tab(server, beside=first)
        second.allowed |= {"503"}
        second.page.goto(server.url("/#guests"))
        expect(second.page.locator(".connection")).to_have_text("Asking every few seconds")
        task = server.request("POST", "vms/web/clone", {"name": "polled"}).json
        server.wait_task(task["id"])
        expect(second.page.get_by_text("polled", exact=True)).to_be_visible()


def test_a_user_sees_neither_storage_nor_pools(demo: Server, tab: Open) -> None:
    """Storage is for admins: the server says that there is none."""
    opened = tab(demo)
    opened.allowed |= {"404"}
    refusal = json.dumps({"code": "404 Not Found", "reason": "CLNAPI0001E: There is nothing"})
    opened.page.route("**/storagepools", lambda route: route.fulfill(status=404, body=refusal))
    page = opened.open()
    expect(page.get_by_role("link", name="Storage")).to_be_hidden()
    page.get_by_role("button", name="Clone web", exact=True).click()
    expect(page.locator(".plan h3")).to_have_text("1 clone")
    expect(page.get_by_role("radiogroup", name="Where to")).to_be_hidden()


def test_it_can_be_put_into_another_page_and_ends_with_its_place(demo: Server, tab: Open) -> None:
    opened = tab(demo)
    opened.log_in()
    page = opened.page
    page.goto(demo.url("/docs"))
    page.locator("#requests section").first.wait_for()
    page.evaluate(
        """async (base) => {
        for (const name of ["colors.css", "page.css"]) {
            const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: `/ui/${name}` });
            document.head.append(link);
        }
        const place = document.createElement("div");
        document.querySelector("main").replaceChildren(place);
        window.shown = await (await import("/ui/page.js")).mount(place, { base });
    }""",
        base_path(demo),
    )
    expect(page.locator(".connection")).to_have_text("Live")
    expect(page.get_by_role("button", name="Log out")).to_have_count(0)
    page.get_by_role("link", name="Storage").click()
    expect(page.locator(".volumes tbody th").first).to_be_visible()
    assert page.url.endswith("/docs")
    page.evaluate("document.querySelector('.cloner').remove()")
    page.wait_for_function("window.shown.live.stream === null")
