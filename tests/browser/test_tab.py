"""The page as a tab of Wok's, in the stand-in: put into Wok's page as that does it, with Wok's session."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Request, Route, expect

from cloner.settings import demo_uri
from support.browser import WIDE, Tab, accessibility_problems
from support.wok import PASSWORD, USER, Wok

TAB = "plugins/cloner/tabs/clones.html"
FRAME = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Wok</title>
<script src="libs/jquery/jquery.min.js"></script></head>
<body><nav aria-label="Wok"><h1>Wok</h1></nav><div id="main"></div></body></html>"""
"""What Wok's page has, of all that a tab meets: ui/pages/wok-ui.html.tmpl."""

ROBOT = "wok-robot"
"""What Wok's own page sends with all that nobody has clicked for: src/wok/auth.py, check_auth_session."""

LINKED = ".connection:is(.live, .polling)"
"""Wok has ten threads, so that a stream has no place while those that other tests have left are not missed yet."""

LOAD = """
async function load(path) {
  const main = document.getElementById("main");
  main.innerHTML = await (await fetch(path, { headers: { Accept: "text/html" } })).text();
  for (const dead of main.querySelectorAll("script")) {
    dead.remove();
    (0, eval)(dead.textContent);
  }
}
"""
"""How Wok's page shows a tab, by jQuery's load(): ui/js/src/wok.main.js. Before 3.0 jQuery evaluates what is a script,
so that it seems to come from jQuery's own file."""

CHOOSE = "path => load(path)"


@pytest.fixture(scope="module")
def wok(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wok]:
    with Wok(tmp_path_factory.mktemp("wok"), connect=demo_uri()) as shared:
        yield shared


@pytest.fixture
def opened(browser: Browser, wok: Wok) -> Iterator[Tab]:
    """Wok's page with our tab in it."""
    settings: dict[str, Any] = {"viewport": WIDE, "reduced_motion": "reduce", "color_scheme": "dark"}
    context = browser.new_context(**settings)
    held = Tab(context, wok)
    held.allowed.add("503")

    def frame(route: Route) -> None:
        route.fulfill(content_type="text/html", body=FRAME)

    def jquery(route: Route) -> None:
        route.fulfill(content_type="text/javascript", body=LOAD)

    held.page.route(wok.url("/"), frame)
    held.page.route(wok.url("/libs/jquery/jquery.min.js"), jquery)
    held.page.request.post(wok.url("/login"), data={"username": USER, "password": PASSWORD})
    held.page.goto(wok.url("/"))
    held.page.evaluate(CHOOSE, TAB)
    held.page.locator(LINKED).wait_for()
    yield held
    held.check()
    context.close()


def test_a_clone_is_made_in_the_tab(opened: Tab, wok: Wok) -> None:
    page = opened.page
    clicks: list[Request] = []
    page.on("request", lambda request: clicks.append(request) if request.method == "POST" else None)
    page.get_by_role("button", name="Clone web", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Clone", exact=True).click()
    expect(page.get_by_text("is ready")).to_be_visible()
    assert clicks
    assert [request.url for request in clicks if ROBOT in request.headers] == []
    names = [vm["name"] for vm in wok.request("GET", "vms").json]
    assert any(name.startswith("web-clone-") for name in names)
    assert page.get_by_role("button", name="Log out").count() == 0  # that is Wok's


def test_it_is_accessible_and_leaves_woks_own_page_as_it_is(opened: Tab) -> None:
    page = opened.page
    assert accessibility_problems(page) == []
    color = "getComputedStyle(document.documentElement).colorScheme"
    assert page.evaluate(color) == "normal"


def test_when_another_tab_is_chosen_it_ends_and_begins_anew_when_it_is_chosen_again(opened: Tab) -> None:
    """What it asks by itself does not count for Wok, which logs out who does nothing for ten minutes."""
    page = opened.page
    asked: list[Request] = []

    def note(request: Request) -> None:
        asked.append(request)

    page.evaluate("document.getElementById('main').replaceChildren()")
    page.on("request", note)
    page.evaluate(CHOOSE, TAB)
    page.locator(LINKED).wait_for()
    assert page.locator(".cloner").count() == 1
    assert len([request for request in asked if request.url.endswith("/storagepools")]) == 1
    lists = [request for request in asked if re.search(r"/(vms|tasks|events|storagepools)\b", request.url)]
    assert len(lists) > 3
    assert [request.url for request in lists if request.headers.get(ROBOT) != "wok-robot"] == []


def test_a_session_of_woks_that_has_ended_leads_to_its_log_in(opened: Tab, wok: Wok) -> None:
    page = opened.page
    page.route(wok.url("/login.html"), lambda route: route.fulfill(content_type="text/html", body="<p>Wok's log-in"))
    opened.allowed.add("401")
    # At Wok: with an answer that is on its way the browser would have a cookie again that it was made to forget.
    session = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "wok")
    wok.request("POST", "/logout", headers={"Cookie": f"wok={session}"}, anonymous=True)
    page.get_by_role("button", name="Clone web", exact=True).click()
    expect(page.get_by_role("dialog").filter(has_text="session")).to_be_visible()
