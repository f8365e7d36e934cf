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
    with ExitStack() as closing:

        def begin(**settings: Any) -> Wok:
            own = Wok(tmp_path, **{"connect": demo_uri(), **settings})
            closing.enter_context(own)
            return own

        yield begin
