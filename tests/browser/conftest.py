"""Fixtures for the page in a real browser, against real servers: on libvirt's test driver, and on a libvirtd."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from support.browser import TIMEOUT_MS, WIDE, Site, Slow, Tab, chromium
from support.guests import define_guest
from support.libvirtd import PrivateLibvirtd
from support.mortal import MortalServer
from support.server import Server
from support.storage import MiB, make_pool, make_raw, mounted, some_data

expect.set_options(timeout=TIMEOUT_MS)

_BEFORE_CREATE = 4
"""The point of support/crashing.py at which a clone is about to make its first volume."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One for all tests of the process; each has contexts of its own."""
    with chromium() as launched:
        yield launched


@pytest.fixture
def tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Open tabs: `tab(server)`, another of the same reader by `beside=first`. What each had to tell is looked at."""
    tabs: list[Tab] = []
    with ExitStack() as closing:

        def begin(server: Server, beside: Tab | None = None, **options: Any) -> Tab:
            settings = {"viewport": WIDE, "locale": "en-GB", "reduced_motion": "reduce", **options}
            context = beside.page.context if beside else browser.new_context(**settings)
            if beside is None:
                closing.callback(context.close)
            tabs.append(Tab(context, server))
            return tabs[-1]

        yield begin
        for each in tabs:
            each.check()


@pytest.fixture(scope="session")
def demo_site() -> Site:
    return Site(None, ("default", 1000), "web", {})


@pytest.fixture(scope="session")
def libvirt_site() -> Iterator[Site]:
    with mounted("ext4", 24 * MiB) as tight, PrivateLibvirtd() as daemon:
        conn = daemon.open()
        images = make_pool(conn, "default", daemon.folder / "images")
        make_pool(conn, "tight", tight / "pool")
        for name, size in (("web", 4 * MiB), ("slow", 24 * MiB), ("spoilt", 4 * MiB)):
            disk = make_raw(images, f"{name}.img", size, {0: some_data(size)})
            define_guest(conn, name, [disk], macs=["52:54:00:12:34:56"], title=f"The guest {name}")
        yield Site(daemon.uri, ("tight", 20), "slow", {"method": "copy", "bandwidth": 1}, conn)
        conn.close()


@pytest.fixture(scope="session", params=["demo", "libvirt"])
def site(request: pytest.FixtureRequest) -> Site:
    return request.getfixturevalue(f"{request.param}_site")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Server]:
    """Servers for many tests: for many streams, since one that was left is missed when there is something to tell."""

    def make(uri: str | None) -> Server:
        folder = tmp_path_factory.mktemp("shared")
        conf = folder / "cloner.conf"
        conf.write_text("[server]\nthreads = 200\nmax_streams = 100\n")
        return Server(uri, folder / "state", args=["--config", str(conf)])

    return make


@pytest.fixture(scope="session")
def shared(site: Site, serve: Callable[[str | None], Server]) -> Iterator[Server]:
    """A server that the tests of a site share."""
    with serve(site.uri) as server:
        yield server


@pytest.fixture(scope="session")
def demo(serve: Callable[[str | None], Server]) -> Iterator[Server]:
    """A server on the demo for what is the same on every host."""
    with serve(None) as server:
        yield server


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, which comes back at the same port when it is started again."""
    with Server(site.uri, tmp_path / "state", args=["--port", str(free_port())]) as server:
        yield server


@pytest.fixture
def slow(site: Site, tmp_path: Path) -> Iterator[Slow]:
    """A server of the test's own, on which a clone takes as long as it takes to look at it.

    libvirt's test driver copies nothing, so there a worker waits where it is about to make a volume.
    """
    args = ["--port", str(free_port())]
    if site.uri is not None:
        with Server(site.uri, tmp_path / "state", args=args) as server:
            yield Slow(server, site.slow_source, site.slow)
        return
    with MortalServer(None, tmp_path / "state", _BEFORE_CREATE, args=args, pauses=True) as server:
        yield Slow(server, site.slow_source, {}, server.pause)
        server.pause.unlink(missing_ok=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
