"""The page in Debian's Chromium, driven by Playwright: what it says in its console and whom it asks is watched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import libvirt
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from support.running import wait_until
from support.server import MOUNT_POINT, TOKEN, Server

CHROMIUM = "/usr/bin/chromium"
TIMEOUT_MS = 20_000
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 320, "height": 640}
_FAILED = re.compile(r"Failed to load resource: (?:the server responded with a status of (\d+)|net::(\w+))")


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser, without a window, for a `with`."""
    with sync_playwright() as playwright:
        args = ["--disable-dev-shm-usage"]  # of which a container has too little
        args += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root one
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Site:
    """A host with a guest `web` that is shut off, and how to ask for clones of it that take a while.

    `crowd` are the pool and the number of clones that it has no room for, `slow` fields of a clone's body.
    """

    uri: str | None
    crowd: tuple[str, int]
    slow_source: str
    slow: dict[str, Any]
    conn: libvirt.virConnect | None = None


@dataclass(frozen=True)
class Slow:
    """A server, and what is a clone on it that takes a while: as long as the file `pause` is there, if there is one."""

    server: Server
    source: str
    body: dict[str, Any]
    pause: Path | None = None

    def ask(self) -> dict[str, Any]:
        """Has the clone made; its task, once it is under way."""
        task: dict[str, Any] = self.server.request("POST", f"vms/{self.source}/clone", self.body).json
        if self.pause is not None:
            wait_until(self.pause.exists, 30, "a worker waits", lambda: self.server.log)
        return task

    def go_on(self) -> None:
        if self.pause is not None:
            self.pause.unlink()


class Tab:
    """A page of a browser that stands for one reader: `tab.page` is Playwright's.

    `allowed` are statuses, or errors of the network such as ERR_CONNECTION_REFUSED, which the browser tells in its
    console by itself; a test that brings them about says so.
    """

    def __init__(self, context: BrowserContext, server: Server) -> None:
        self.server = server
        self.allowed: set[str] = set()
        self.problems: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(TIMEOUT_MS)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        self.page.on("request", self._asked)

    def open(self, view: str = "guests") -> Page:
        """Show the page, logged in, and wait until it is live."""
        self.page.goto("about:blank")  # else what it is asking would be asked with the session that ends here
        self.log_in()
        return self.show(view)

    def show(self, view: str) -> Page:
        """Show the page with the session that there is, and wait until it is live."""
        self.page.goto(self.server.url(f"/#{view}"))
        self.page.locator(".connection.live").wait_for()
        return self.page

    def log_in(self) -> None:
        """Begin a session as the page's form does."""
        body = {"username": "admin", "password": TOKEN}
        self.page.request.post(self.server.url("/login"), data=body)

    def check(self) -> None:
        """Raises AssertionError for an error in the console and a request to another host."""
        assert not self.problems, self.problems

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        found = _FAILED.match(message.text)
        if not found or (found[1] or found[2]) not in self.allowed:
            self.problems.append(f"{message.type}: {message.text} ({message.location})")

    def _asked(self, request: Request) -> None:
        place = urlsplit(request.url)
        if place.scheme in ("http", "https", "ws", "wss") and place.hostname != "127.0.0.1":
            self.problems.append(f"asks {request.url}")


@cache
def _axe() -> str:
    """axe-core, which axe-playwright-python brings along."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")


def accessibility_problems(page: Page) -> list[str]:
    """What axe finds: rule, and the elements that break it."""
    page.evaluate(_axe())
    options: Mapping[str, Any] = {"resultTypes": ["violations"]}
    found: dict[str, Any] = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:200] + ' ' + node['failureSummary'] for node in rule['nodes']]}"
        for rule in found["violations"]
    ]


def base_path(server: Server) -> str:
    """Where the plugin is mounted."""
    return urlsplit(server.url("")).path.rstrip("/") or MOUNT_POINT
