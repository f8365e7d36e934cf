"""Fixtures on a real `cloner serve --demo`: libvirt's in-process test driver behind real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.server import Server


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of the session share: it gains clones, and keeps what the demo began with as it was."""
    with Server(None, tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture(scope="session")
def server(shared: Server) -> Server:
    """The same, for files whose tests need none of their own."""
    return shared


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers of the test's own, on one state directory unless told another: `start("--auth", "none")`."""
    servers: list[Server] = []
    with ExitStack() as closing:

        def begin(*args: str, folder: Path = tmp_path, **options: Any) -> Server:
            servers.append(closing.enter_context(Server(None, folder, args=args, **options)))
            return servers[-1]

        yield begin
        for server in servers:
            if server.running:
                server.kill()  # an orderly end takes longer, and has tests of its own
