"""Rules for every run of the tests; pyproject.toml loads this file with `-p`."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from support import nursery


def pytest_configure() -> None:
    """Servers and commands start at once. They hear SIGINT, also where a shell's `&` has the tests themselves not."""
    nursery.is_open = True
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The root is a plain folder: as a package pytest would import it a second time, by the name of the folder."""
    return pytest.Dir.from_parent(parent, path=path) if path == parent.config.rootpath else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no worker is alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.hookimpl(wrapper=True)  # changes the report before anybody else sees it
def pytest_runtest_logreport(report: pytest.CollectReport | pytest.TestReport) -> Generator[None]:
    """In CI nothing is skipped, and nothing may be expected to fail."""
    if os.environ.get("CI") and report.skipped:
        reason = vars(report).pop("wasxfail", "") or report.longreprtext
        report.outcome = "failed"
        report.longrepr = f"not in CI: {reason}"
    return (yield)


pytest_collectreport = pytest_runtest_logreport  # the same for a module that skips itself as a whole
