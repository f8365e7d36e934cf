"""`/metrics`: what happened is counted once each, what there is is shown, and no path or name becomes a series."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from cloner.server.metrics import Metrics
from support.answers import at_once, cloned, refusal
from support.running import wait_until
from support.server import MOUNT_POINT, Response, Server

ROOT = Path(__file__).resolve().parents[2]
VOLUME = "storagepools/default/storagevolumes/web.qcow2"
P = MOUNT_POINT

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(server: Server, **options: object) -> Response:
    answer = server.request("GET", "/metrics", **options)  # type: ignore[arg-type]  # handed on
    assert answer.status == 200, answer.text
    return answer


def samples(server: Server) -> Samples:
    found = {}
    for family in parse(scrape(server).text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """A sample's value; 0 for a series that has not begun."""
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def total(found: Samples, name: str) -> float:
    return sum(amount for (series, _), amount in found.items() if series == name)


def wait_for(server: Server, is_so: Callable[[Samples], bool]) -> Samples:
    """What is counted, as soon as it is so: a task's end is counted after it can be seen."""
    found: Samples = {}

    def look() -> bool:
        found.clear()
        found.update(samples(server))
        return is_so(found)

    wait_until(look, 20, "it is counted", lambda: scrape(server).text)
    return found


# --- Clones ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(start: Callable[..., Server]) -> Server:
    return start()


def test_a_clone_is_counted_from_its_start_to_its_end(fresh: Server) -> None:
    tasks = [cloned(fresh, "vms/web") for _ in range(3)] + [cloned(fresh, VOLUME)]
    found = wait_for(fresh, lambda found: total(found, "cloner_clones_ended_total") == 4)
    for kind, count in (("domain", 3), ("volume", 1)):
        of = {"kind": kind, "method": "libvirt"}
        assert value(found, "cloner_clones_started_total", **of) == count
        assert value(found, "cloner_clones_ended_total", outcome="finished", **of) == count
        assert value(found, "cloner_clone_duration_seconds_count", **of) == count
        assert value(found, "cloner_clone_duration_seconds_sum", **of) > 0
        assert value(found, "cloner_clone_bytes_sum", **of) == sum(
            task["bytes_total"] for task in tasks if task["kind"] == kind
        )
    assert total(found, "cloner_clones_started_total") == total(found, "cloner_clones_ended_total")
    assert total(found, "cloner_clones_waiting") == total(found, "cloner_clones_running") == 0


def test_what_is_refused_is_not_counted_as_a_clone(fresh: Server) -> None:
    fresh.request("POST", "vms/mail/clone")
    fresh.request("POST", "vms/nope/clone")
    assert total(samples(fresh), "cloner_clones_started_total") == 0


def test_many_at_once_are_each_counted_once(fresh: Server) -> None:
    answers = at_once(60, lambda _: fresh.request("POST", "vms/web/clone"))
    assert {answer.status for answer in answers} == {202}
    found = wait_for(fresh, lambda found: total(found, "cloner_clones_ended_total") == 60)
    assert value(found, "cloner_clones_ended_total", kind="domain", method="libvirt", outcome="finished") == 60
    assert total(found, "cloner_clones_running") == 0


# --- HTTP ------------------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_route(fresh: Server) -> None:
    for name in ("web", "db", "nope"):
        fresh.request("GET", f"vms/{name}")
    fresh.request("POST", "vms/mail/clone")
    fresh.request("PUT", "vms/web")
    found = samples(fresh)
    route = f"{P}/vms/{{name}}"
    assert value(found, "cloner_http_requests_total", method="GET", route=route, status="200") == 2
    assert value(found, "cloner_http_requests_total", method="GET", route=route, status="404") == 1
    assert value(found, "cloner_http_requests_total", method="POST", route=f"{route}/clone", status="400") == 1
    assert value(found, "cloner_http_request_duration_seconds_count", method="GET", route=route) == 3


@pytest.mark.parametrize(("path", "route"), [("/", "/"), ("/livez", "/livez"), ("/metrics", "/metrics")])
def test_routes_outside_of_the_plugin_are_routes_too(fresh: Server, path: str, route: str) -> None:
    fresh.request("GET", path)
    assert value(samples(fresh), "cloner_http_requests_total", method="GET", route=route, status="200") >= 1


def test_no_path_name_or_method_from_outside_becomes_a_series(fresh: Server) -> None:
    samples(fresh)
    for number in range(30):
        fresh.request("GET", f"vms/guest-{number}")
        fresh.request("GET", f"nowhere/{number}")
        fresh.request("GET", f"/nowhere-{number}")
        fresh.request("GET", f"/ui/nowhere-{number}")
        fresh.request("GET", f"vms/{number}", anonymous=True)
        fresh.request(f"METHOD{number}", "vms")
    text = scrape(fresh).text
    assert "nowhere" not in text
    assert "guest-" not in text
    assert "METHOD" not in text
    routes = set(re.findall(r'cloner_http_requests_total\{.*?route="(.*?)"', text))
    assert routes == {f"{P}/vms/{{name}}", "(none)", "/metrics"}


@pytest.mark.parametrize(
    ("headers", "counted"),
    [({"Authorization": "Bearer wrong"}, 1), ({"Authorization": "Basic eDp5"}, 1), ({}, 0), ({"Cookie": "wok=x"}, 0)],
)
def test_log_ins_that_failed_are_counted(fresh: Server, headers: dict[str, str], counted: int) -> None:
    assert fresh.request("GET", "vms", headers=headers, anonymous=True).status == 401
    assert value(samples(fresh), "cloner_log_ins_failed_total") == counted


def test_a_wrong_password_on_the_page_is_counted(fresh: Server) -> None:
    for _ in range(4):
        fresh.request("POST", "/login", {"username": "admin", "password": "wrong"}, anonymous=True)
    assert value(samples(fresh), "cloner_log_ins_failed_total") == 4


# --- What there is ---------------------------------------------------------------------------------------------------


def test_the_state_of_the_server_is_shown(fresh: Server, tmp_path: Path) -> None:
    found = samples(fresh)
    assert value(found, "cloner_libvirt_connected") == 1
    files = [tmp_path / "journal.sqlite", tmp_path / "journal.sqlite-wal"]
    assert value(found, "cloner_journal_bytes") == sum(file.stat().st_size for file in files)
    assert value(found, "cloner_clones_to_undo") == 0
    assert ("cloner_event_streams", ()) in found
    assert value(found, "process_resident_memory_bytes") > 1 << 20
    assert value(found, "process_open_fds") > 5


def test_a_libvirt_that_is_away_is_shown(tmp_path: Path) -> None:
    with Server("qemu+unix:///session?socket=/nowhere", tmp_path) as server:
        assert value(samples(server), "cloner_libvirt_connected") == 0


def test_each_server_counts_for_itself() -> None:
    """Not in the library's own registry, which others in the process may use."""
    first, second = Metrics(), Metrics()
    first.name_skipped("domain")
    assert first.registry.get_sample_value("cloner_names_skipped_total", {"kind": "domain"}) == 1
    assert second.registry.get_sample_value("cloner_names_skipped_total", {"kind": "domain"}) is None


def test_streams_are_counted_while_they_are_open() -> None:
    metrics = Metrics()

    def streams() -> float | None:
        return metrics.registry.get_sample_value("cloner_event_streams")

    with metrics.event_stream(), metrics.event_stream():
        assert streams() == 2
    assert streams() == 0
    with pytest.raises(OSError, match="gone"), metrics.event_stream():
        raise OSError("the client is gone")
    assert streams() == 0


# --- Who may ask, and how --------------------------------------------------------------------------------------------


def test_a_log_in_is_asked_for(server: Server) -> None:
    assert refusal(server.request("GET", "/metrics", anonymous=True)) == (401, "WOKAUTH0002E")
    assert scrape(server, headers={"Authorization": f"Bearer {server.token}"}, anonymous=True)


def test_it_can_be_open(start: Callable[..., Server], tmp_path: Path) -> None:
    conf = tmp_path / "cloner.conf"
    conf.write_text("[server]\nmetrics_auth = none\n")
    server = start("--config", str(conf))
    assert "cloner_info" in scrape(server, headers={"Host": "10.1.2.3"}, anonymous=True).text
    assert server.request("GET", "vms", anonymous=True).status == 401


def test_the_format_is_what_prometheus_asks_for(server: Server) -> None:
    text = scrape(server)
    assert re.match("text/plain; ?version=", text.headers["Content-Type"])
    assert list(parse(text.text))
    accept = {"Accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
    openmetrics = scrape(server, headers=accept)
    assert re.match("application/openmetrics-text; ?version=1.0.0", openmetrics.headers["Content-Type"])
    assert list(parse_openmetrics(openmetrics.text))  # type: ignore[no-untyped-call]  # the library has no types for it


def test_names_and_types_are_as_they_should_be(server: Server) -> None:
    for family in parse(scrape(server).text):
        assert family.documentation
        assert not family.name.endswith("_created")
        if family.name.startswith("cloner_"):
            assert family.type in ("counter", "gauge", "histogram")


# --- Without the library ---------------------------------------------------------------------------------------------


@pytest.fixture
def without_it(tmp_path: Path, start: Callable[..., Server]) -> Server:
    """A server for which prometheus_client is not installed."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "prometheus_client.py").write_text("raise ImportError('it is not installed')")
    return start(env={"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)})


def test_without_the_library_there_are_no_metrics_and_nothing_else_is_amiss(without_it: Server) -> None:
    assert refusal(without_it.request("GET", "/metrics")) == (404, "CLNAPI0001E")
    assert cloned(without_it, "vms/web")
    assert "prometheus_client is not installed" in without_it.log


def imported(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_one_module_alone_needs_the_library() -> None:
    folders = [ROOT, *(path.parent for path in ROOT.glob("*/__init__.py"))]
    files = [file for folder in folders for file in folder.glob("*.py")]
    assert [file.name for file in files if any("prometheus" in name for name in imported(file))] == ["metrics.py"]
