"""docs/OPERATIONS.md tells of what there is: the log's fields and the audit's actions."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

from cloner.context import Context
from cloner.control import sub_nodes

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
    of_the_audit = {"user", "address", "action", "target", "outcome", "task", "made"}
    assert of_every_line <= literals("server/logs.py")
    assert of_requests <= literals("server/requests.py")
    assert of_the_audit - {"task", "made"} <= literals("control/audit.py")
    assert {"task", "made"} <= literals("control/tasks.py")
    known = {field.name for field in fields(Context)}
    assert set(first_cells("fields")) == known | of_every_line | of_requests | of_the_audit


def test_every_action_is_documented_and_no_other() -> None:
    of_routes = {route.action for controller in sub_nodes.values() for route in controller.routes} - {None}
    beside = {"log-in", "log-out", "forget"}
    assert beside <= literals("server/root.py") | literals("control/tasks.py")
    assert set(first_cells("actions")) == of_routes | beside
