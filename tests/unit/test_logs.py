"""The log: a line for each thing that happened, whatever comes from outside, and always with what is known of it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloner import context
from cloner.context import NOBODY, Context
from cloner.server.logs import JSONLine, TextLine

NASTY = 'a\nb\r\nc\x00\x1b[2J\x7f\x85\x9b\u2028\u2029\u202e\ud800"\\ü日本{}%s'
LONGEST_OF_THE_JOURNAL = 48 * 1024  # LineMax= in journald.conf(5)
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def record(message: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("cloner.test", level, __file__, 1, message, args, None)
    made.fields = fields
    return made


def failed(message: str, error: ValueError) -> logging.LogRecord:
    """What log.exception makes of an error."""
    made = record(message, level=logging.ERROR)
    try:
        raise error
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JSONLine().format(made)
    assert re.fullmatch("[ -~]+", line)
    found: dict[str, Any] = json.loads(line)
    return found


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_a_line_has_time_level_logger_and_message() -> None:
    found = as_json(record("%s is done", "it", level=logging.WARNING))
    assert re.fullmatch(TIME, found.pop("time"))
    assert found == {"level": "warning", "logger": "cloner.test", "message": "it is done"}


def test_a_line_has_what_is_known_of_the_work_at_hand_and_fields_of_its_own() -> None:
    known = Context("r-1", "ann", "10.0.0.1", "GET", "/x", 7)
    with context.use(known):
        found = as_json(record("m", status=200, duration_ms=1.5))
    assert found.items() >= {**vars(known), "status": 200, "duration_ms": 1.5}.items()


def test_an_error_has_its_stack() -> None:
    found = as_json(failed("it broke", ValueError("because")))
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: because")


@given(st.text(), st.text(), st.text())
def test_nothing_breaks_a_line(message: str, user: str, path: str) -> None:
    with context.use(Context(user=user, path=path)):
        found = as_json(record("%s", message, more=message))
    assert (found["message"], found["more"]) == (message.strip()[:8000], message)
    assert (found.get("user", ""), found.get("path", "")) == (user, path)


@pytest.mark.parametrize("character", ["x", "\x00", "\n", "ü", "日", "\U0001f600"])
def test_a_line_is_never_so_long_that_it_is_cut(character: str) -> None:
    made = failed(character * 100_000, ValueError(character * 100_000))
    made.fields = {"path": character * 500}
    assert len(JSONLine().format(made)) < LONGEST_OF_THE_JOURNAL


# --- Text ------------------------------------------------------------------------------------------------------------


def test_a_text_line_says_the_same() -> None:
    with context.use(Context("r-1", task=7)):
        line = TextLine().format(record("hello", level=logging.WARNING, status=200))
    assert re.fullmatch(rf"{TIME} WARNING cloner\.test: hello \[request_id=r-1 task=7 status=200\]", line)


@given(st.text(), st.text())
def test_nothing_breaks_a_text_line(message: str, user: str) -> None:
    with context.use(Context(user=user)):
        line = TextLine().format(record("%s", message))
    assert line.isprintable()


def test_the_lines_of_a_stack_cannot_be_taken_for_others() -> None:
    forged = "2026-01-01T00:00:00.000Z INFO cloner.audit: all is well"
    first, *rest = (
        TextLine().format(failed("it broke", ValueError(f"a\n{forged}\u2028{forged}\x0b{forged}"))).split("\n")
    )
    assert first.endswith("ERROR cloner.test: it broke")
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert sum(forged in line for line in rest) == 3


# --- The context -----------------------------------------------------------------------------------------------------


def test_a_context_ends_with_its_block_whatever_was_learnt_in_it() -> None:
    with context.within(request_id="a"):
        context.learn(user="ann")
        with context.within(task=1):
            context.learn(user="bob")
            assert context.current() == Context("a", "bob", task=1)
        assert context.current() == Context("a", "ann")
    assert context.current() == NOBODY


def test_a_context_is_its_threads_own() -> None:
    seen = []
    with context.within(request_id="a"):
        thread = threading.Thread(target=lambda: seen.append(context.current()))
        thread.start()
        thread.join()
    assert seen == [NOBODY]


def test_a_task_is_under_the_id_and_the_user_of_the_request_that_asked_for_it() -> None:
    assert Context("a", "ann", "10.0.0.1", "POST", "/x").of_task(3) == Context("a", "ann", task=3)


@pytest.mark.parametrize(
    "given_id", ["a", "Z9", "7b7d1c1e-2f4f-4a9e-8b7e-0c0f2d3e4f50", "1-67a:b/c+d=e@f~g_h.i", "x" * 128]
)
def test_a_request_id_that_is_sane_is_taken(given_id: str) -> None:
    assert context.request_id(given_id) == given_id


@pytest.mark.parametrize(
    "given_id", ["", " ", "a b", "a\nb", "-a", "ü", "a\x7f", '"', "a,b", "{}", "<b>", "x" * 129, NASTY]
)
def test_another_is_replaced(given_id: str) -> None:
    made = {context.request_id(given_id) for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


# --- Who else would write to stderr ----------------------------------------------------------------------------------

PROGRAM = """
import logging, sys, threading, warnings
from cloner.server import logs
logs.configure("json")
logging.getLogger("x").info("hello")
"""
CHERRYPY = """
import cherrypy
from cloner.server import http
http._adopt_logs()
"""
ACTS = {
    "a thread that dies": ("threading.Thread(target=lambda: 1 / 0).start()", "ZeroDivisionError"),
    "a program that dies": ("raise RuntimeError('the end')", "the end"),
    "a warning": ("warnings.warn('careful')", "careful"),
    "an error in a destructor": (
        "class A:\n    def __del__(self): raise OSError('nobody catches')\nA()",
        "nobody catches",
    ),
    "CherryPy": (CHERRYPY + "cherrypy.log('one\\ntwo', severity=40)", "one\ntwo"),
    "cheroot": (
        CHERRYPY + "try: 1 / 0\nexcept ArithmeticError: cherrypy.engine.log('it stumbled', 40, traceback=True)",
        "ZeroDivisionError",
    ),
}


@pytest.mark.parametrize(("act", "words"), ACTS.values(), ids=ACTS)
def test_whoever_writes_to_stderr_writes_lines_of_the_log(act: str, words: str) -> None:
    argv = [sys.executable, "-c", PROGRAM + act]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines[:1]] == ["hello"]
    assert len(lines) == 2
    assert words in lines[1]["message"] + lines[1].get("exception", "")
    assert not lines[1]["message"].startswith("[")
