"""docs/OPERATIONS.md tells of what there is: metrics, the log's fields, the audit's actions."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

from cloner.context import Context
from cloner.control import sub_nodes
from cloner.engine.executor import LANES
from cloner.engine.reach import COPY, LIBVIRT, LINKED, REFLINK
from cloner.server.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text("utf-8")


def first_cells(marker: str) -> list[str]:
    """The names in the first column of the table after a marker."""
    table = OPERATIONS.partition(f"<!-- {marker}:")[2].partition("\n|---")[2].partition("\n\n")[0]
    cells = [row.split(" | ")[0] for row in table.splitlines()[1:]]
    names = [name for cell in cells for name in re.findall("`([^`]+)`", cell)]
    assert names
    return names


def literals(module: str) -> set[str]:
    """Every text in a module that stands for itself."""
    tree = ast.parse((ROOT / module).read_text("utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_field_of_the_log_is_documented_and_no_other() -> None:
    of_every_line = {"time", "level", "logger", "message", "exception"}
    of_requests = {"status", "duration_ms", "code"}
    of_the_audit = {"user", "address", "action", "target", "outcome", "task", "made", "batch", "count"}
    assert of_every_line <= literals("server/logs.py")
    assert of_requests <= literals("server/requests.py")
    assert of_the_audit - {"task", "made", "batch", "count"} <= literals("control/audit.py")
    assert {"task", "made", "batch", "count"} <= literals("control/cloning.py")
    known = {field.name for field in fields(Context)}
    assert set(first_cells("fields")) == known | of_every_line | of_requests | of_the_audit


def test_every_action_is_documented_and_no_other() -> None:
    of_routes = {route.action for controller in sub_nodes.values() for route in controller.routes} - {None}
    beside = {"log-in", "log-out", "forget"}
    assert beside <= literals("server/root.py") | literals("control/tasks.py")
    assert set(first_cells("actions")) == of_routes | beside


def sources() -> list[Path]:
    return [file for init in ROOT.glob("*/__init__.py") for file in init.parent.glob("*.py")] + [*ROOT.glob("*.py")]


def warnings(source: str) -> set[str]:
    """The messages that a module logs from `warning` on, with `…` for what differs."""
    levels = {"warning", "error", "exception", "critical"}
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    logged = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in levels]
    found = [call.args[0] for call in logged if isinstance(call.func, ast.Attribute) and _is_log(call.func.value)]
    assert all(isinstance(message, ast.Constant) for message in found), source[:80]
    return {re.sub("%[sd]", "…", str(message.value)) for message in found if isinstance(message, ast.Constant)}


def _is_log(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "log"


def test_what_every_message_means_is_documented() -> None:
    found = set().union(*(warnings(file.read_text("utf-8")) for file in sources()))
    assert len(found) > 20
    assert found - set(first_cells("messages")) == set()


# --- Metrics ---------------------------------------------------------------------------------------------------------


def counted() -> dict[str, set[str]]:
    """Our metrics that happen, with their labels."""
    metrics = Metrics()
    metrics.started("domain", "copy")
    metrics.ended("domain", "copy", "finished", 1.0, 1)
    metrics.recovered("failed")
    metrics.name_skipped("domain")
    metrics.answered("GET", "/x", 200, 0.1)
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples if name.startswith("cloner_") else ():
            found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    return found


def looked_at() -> dict[str, set[str]]:
    """Our metrics that there are, with their labels, by their source's text."""
    source = (ROOT / "server/metrics.py").read_text("utf-8").partition("class _State")[2]
    lanes = {name: {"lane"} for name in re.findall(r'GaugeMetricFamily\("(\w+)".*labels=\["lane"\]', source)}
    return lanes | {name: set() for name in re.findall(r'_gauge\("(\w+)"', source)}


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    table = OPERATIONS.partition("<!-- metrics:")[2].partition("\n|---")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines()[1:]]
    documented = {row[0].strip("| `"): set(re.findall("`(.+?)`", row[1])) for row in rows}
    assert documented == counted() | looked_at()


def test_the_alerts_are_about_metrics_that_there_are() -> None:
    alerts = OPERATIONS.partition("Alerts worth having")[2].partition("\n## ")[0]
    named = set(re.findall(r"\bcloner_\w+", alerts))
    assert named
    assert named <= (counted() | looked_at()).keys()


def test_the_words_for_methods_and_lanes_are_documented() -> None:
    paragraph = OPERATIONS.partition("`kind` is `domain`")[2].partition("\n\n")[0]
    assert {REFLINK, COPY, LINKED, LIBVIRT, "mixed", "none", *LANES} <= set(re.findall("`(.+?)`", paragraph))
