"""Fixtures on the plugin inside a stand-in for Wok, with libvirt's in-process test driver behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cloner.settings import demo_uri
from support.wok import Wok


@pytest.fixture(scope="session")
def wok(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wok]:
    """A Wok that the tests of the session share: it gains clones, and keeps what the demo began with as it was."""
    shared = Wok(tmp_path_factory.mktemp("wok"), connect=demo_uri())
    with shared:
        yield shared


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Wok]]:
    """Start a Wok of the test's own, with settings for the plugin and what else Wok takes: `start(workers=1)`."""
    woks: list[Wok] = []
    with ExitStack() as closing:

        def begin(**settings: Any) -> Wok:
            woks.append(closing.enter_context(Wok(tmp_path, **{"connect": demo_uri(), **settings})))
            return woks[-1]

        yield begin
        for wok in woks:
            if wok.running:
                wok.kill()  # an orderly end takes longer, and has a test of its own
