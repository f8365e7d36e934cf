"""What the client writes: lines for programs, JSON as it came, tables and bars that fit; no commands to a terminal."""

from __future__ import annotations

import io
import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cloner.client.bars import Bars, chosen, picture
from cloner.client.display import Lines
from cloner.client.render import COLUMNS, document, line, show, size
from cloner.client.table import fit
from cloner.errors import printable

GUEST = {"name": "web", "state": "shutoff", "cpu_info": {"vcpus": 2}, "memory": {"current": 2048}, "title": None}
COMMAND = "\x1b]0;owned\x07\x9b2J"


def task(number: int, status: str = "running", progress: float = 0, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "status": status, "progress": progress, "name": f"clone-{number}", "message": ""} | more


# --- For programs ----------------------------------------------------------------------------------------------------


def test_a_line_has_each_value_as_it_is_between_tabs() -> None:
    assert line("guests", GUEST) == "web\tshutoff\t2\t2048\t"


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_line_has_all_its_fields_whatever_the_server_left_out(kind: str) -> None:
    assert line(kind, {}).count("\t") == len(COLUMNS[kind]) - 1


@pytest.mark.parametrize("name", ["two\tfields", "two\nlines", COMMAND, "\u202eright to left", "\u2028"])
def test_a_name_neither_ends_its_field_nor_commands_the_terminal(name: str) -> None:
    written = line("guests", GUEST | {"name": name})
    assert written.count("\t") == 4
    assert printable(written.replace("\t", "")) == written.replace("\t", "")


def test_a_name_of_letters_and_signs_stays_as_it_is() -> None:
    assert line("guests", GUEST | {"name": "Tür <1> & 'co' 測試"}).startswith("Tür <1> & 'co' 測試\t")


def test_a_list_is_one_field() -> None:
    assert line("volumes", {"used_by": ["a", "b"]}).split("\t")[4] == "a,b"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_is_the_servers_with_nothing_in_it_that_a_terminal_obeys(content: Any) -> None:
    sent = json.dumps(content, ensure_ascii=False)
    written = document(sent)
    assert json.loads(written) == content
    assert printable(written) == written


def test_json_is_left_as_it_came() -> None:
    assert document('{"name":"Tür","bytes":1.50}\n') == '{"name":"Tür","bytes":1.50}'


def test_what_only_looks_like_json_is_escaped_too() -> None:
    assert "\x1b" not in document(f'{{"name": "{COMMAND}"}}')


def test_what_is_no_terminal_gets_lines() -> None:
    stream = io.StringIO()
    show("guests", [GUEST, GUEST], stream)
    assert stream.getvalue() == "web\tshutoff\t2\t2048\t\n" * 2


def test_a_change_is_a_line_and_what_is_none_is_not() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for percent in (0, 0, 4, 12, 15, 20):
        lines.show(task(1, progress=percent))
    lines.show(task(1, "failed", 20, message="X0000E: no"))
    assert stream.getvalue().splitlines() == [
        "clone-1\trunning\t0\t",
        "clone-1\trunning\t12\t",
        "clone-1\trunning\t20\t",
        "clone-1\tfailed\t20\tX0000E: no",
    ]


# --- For people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (269484032, "257 MiB"),
        (20 << 30, "20.0 GiB"),
        (3 << 50, "3072 TiB"),
        (None, ""),
    ],
)
def test_sizes_are_readable(number: int | None, text: str) -> None:
    assert size(number) == text


class Screen(io.StringIO):
    """A terminal of 60 columns, by what it says of itself; io.StringIO says it is none."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    return Screen()


def test_a_table_is_no_wider_than_the_terminal_and_says_where_it_is_cut(screen: Screen) -> None:
    show("guests", [GUEST | {"name": "n" * 80, "title": "t" * 80}], screen)
    head, row = screen.getvalue().splitlines()
    assert "NAME" in head
    assert len(row) <= 60
    assert row.count("…") == 2


def test_a_table_has_no_column_with_nothing_in_it(screen: Screen) -> None:
    show("guests", [GUEST], screen)
    assert "TITLE" not in screen.getvalue()


def test_a_table_takes_no_name_for_markup_or_a_command(screen: Screen) -> None:
    show("guests", [GUEST | {"name": "[red]a[/red]:smile:" + COMMAND}], screen)
    assert "[red]a[/red]:smile:�]0;owned��2J" in screen.getvalue()


def test_nothing_is_a_table_without_rows(screen: Screen) -> None:
    show("guests", [], screen)
    assert screen.getvalue() == ""


def test_a_dumb_terminal_gets_lines(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    show("guests", [GUEST], screen)
    assert screen.getvalue() == "web\tshutoff\t2\t2048\t\n"


@pytest.mark.parametrize(
    ("natural", "least", "room", "widths"),
    [
        ([10, 10], [8, 8], 30, [10, 10]),
        ([20, 20], [8, 8], 30, [20, 8]),
        ([20, 20], [8, 8], 20, [10, 8]),
        ([20, 20], [20, 8], 25, [20]),
        ([20, 20], [20, 20], 30, [20]),
        ([20], [20], 10, [10]),
    ],
)
def test_what_comes_first_keeps_its_width(natural: list[int], least: list[int], room: int, widths: list[int]) -> None:
    assert fit(natural, least, room) == widths


# --- Bars ------------------------------------------------------------------------------------------------------------


def drawn(tasks: list[dict[str, Any]], height: int = 20) -> list[str]:
    """The lines of the picture, on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO(), color_system=None, force_terminal=True, markup=False)
    console.print(picture(tasks, height))
    text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    return [row.rstrip() for row in text.splitlines()]


def test_each_clone_has_a_bar_and_all_have_one() -> None:
    rows = drawn([task(1, progress=50, eta_seconds=75), task(2, "finished", 100), task(3, "failed", 10, message="no")])
    assert [row.split()[0] for row in rows] == ["clone-1", "clone-2", "clone-3", "all"]
    assert "50 %, 0:01:15 left" in rows[0]
    assert rows[1].endswith("done")
    assert rows[2].endswith("no")
    assert rows[3].endswith("2 of 3")


def test_one_clone_needs_no_bar_of_all() -> None:
    assert len(drawn([task(1)])) == 1


def test_of_many_those_are_shown_that_most_is_to_be_seen_of() -> None:
    many = [task(1), task(2, "finished", 100), task(3, "failed", 5), task(4, progress=30), task(5, "finished", 100)]
    assert [shown["id"] for shown in chosen(many, 1)] == ["4"]
    assert [shown["id"] for shown in chosen(many, 2)] == ["3", "4"]
    assert [shown["id"] for shown in chosen(many, 4)] == ["2", "3", "4", "5"]
    assert len(drawn(many, height=2)) == 3


def test_a_thousand_clones_fit() -> None:
    assert len(drawn([task(number) for number in range(1000)], height=22)) == 23


def test_who_is_told_to_stop_before_the_bars_are_drawn_sees_the_cursor_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    bars = Bars([], terminal := Terminal())
    ended = mock.patch.object(bars._live.console, "push_render_hook", side_effect=SystemExit(143))
    with ended, pytest.raises(SystemExit):
        bars.__enter__()
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
