"""Errors: each has a code of its own and a text that holds, and nothing from outside can do harm in it."""

from __future__ import annotations

import inspect
import re
import string
import unicodedata
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloner import errors
from cloner.errors import ClonerError, plain

CLASSES = [
    member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, errors.ClonerError)
]
FOREIGN_CODES = {
    errors.DomainNotFound: "KCHVM0002E",
    errors.PoolNotFound: "KCHPOOL0002E",
    errors.VolumeNotFound: "KCHVOL0002E",
    errors.TaskNotFound: "WOKASYNC0001E",
    errors.DomainNotShutOff: "KCHVM0033E",
    errors.NoRoom: "KCHVM0034E",
    errors.MalformedJSON: "WOKAPI0006E",
    errors.WrongMediaType: "WOKAPI0007E",
    errors.NotLoggedIn: "WOKAUTH0002E",
    errors.WrongCredentials: "WOKAUTH0008E",
    errors.TooManyAttempts: "WOKAUTH0004E",
}
"""Codes that consumers of Kimchi know (contract.md)."""

each = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
HARMFUL = "<img src=x onerror=alert(1)>\x1b[2J\r\nSet-Cookie: a\u202eb\u2028c\u200d\x00\x9b\udcff{reference}{0}%s"


def fields_of(kind: type[ClonerError]) -> list[str]:
    """Names of the places in the text of a class."""
    return [field for _, field, _, _ in string.Formatter().parse(kind.text) if field is not None]


def made(kind: type[ClonerError], value: object) -> ClonerError:
    return kind(**dict.fromkeys(fields_of(kind), value))


def is_harmless(text: str) -> bool:
    return not re.search("[<>]", text) and not any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text
    )


def test_codes_are_distinct() -> None:
    codes = [kind.code for kind in CLASSES]
    assert sorted(codes) == sorted(set(codes))


@each
def test_a_code_looks_like_one(kind: type[ClonerError]) -> None:
    assert re.fullmatch(r"(CLN|KCH|WOK)[A-Z]*[0-9]{4}E", kind.code)


@each
def test_a_class_has_a_code_and_a_text_of_its_own(kind: type[ClonerError]) -> None:
    assert {"code", "status", "text"} <= set(vars(kind))


@each
def test_only_codes_that_consumers_know_are_not_ours(kind: type[ClonerError]) -> None:
    assert kind.code == FOREIGN_CODES.get(kind, kind.code)
    assert kind.code.startswith("CLN") is (kind not in FOREIGN_CODES)


@each
def test_the_status_is_one_of_an_error(kind: type[ClonerError]) -> None:
    assert HTTPStatus(kind.status) >= HTTPStatus.BAD_REQUEST


@each
def test_what_may_pass_says_when_to_come_again(kind: type[ClonerError]) -> None:
    is_answer = kind is not errors.ServerStopped  # only ever the message of a task
    if kind.status == HTTPStatus.SERVICE_UNAVAILABLE and is_answer:
        assert kind.retry_after


def test_a_wait_that_is_known_only_when_it_happens_is_told() -> None:
    error = errors.TooManyAttempts(seconds=31)
    assert error.retry_after == 31
    assert "31 seconds" in error.reason


@each
def test_the_reason_is_the_code_and_the_text_with_its_data(kind: type[ClonerError]) -> None:
    error = made(kind, 4711)
    assert error.reason == str(error)
    assert error.reason.startswith(f"{kind.code}: ")
    assert error.reason.count("4711") == len(fields_of(kind))
    assert is_harmless(error.reason)
    assert "{}" in error.reason or not re.search("[{}]", error.reason)


@each
def test_a_text_is_a_sentence_without_its_full_stop_or_a_cause(kind: type[ClonerError]) -> None:
    assert kind.text == kind.text.strip()
    assert not kind.text.endswith(".")
    assert "  " not in kind.text


@each
def test_data_that_is_missing_is_noticed_where_it_is_missing(kind: type[ClonerError]) -> None:
    if fields_of(kind):
        with pytest.raises((KeyError, TypeError)):
            kind()


@each
def test_nothing_from_outside_can_do_harm(kind: type[ClonerError]) -> None:
    reason = made(kind, HARMFUL).reason
    assert is_harmless(reason)
    assert reason.encode("utf-8")
    assert not fields_of(kind) or "{reference}{0}%s" in reason


def test_outside_text_is_still_told() -> None:
    assert plain("<a>\x1b") == "‹a›�"
    assert plain("it has an invalid size\nits size must be") == "it has an invalid size its size must be"
    assert plain("it's “ünïcode” 漢字 \U0001f40e & co") == "it's “ünïcode” 漢字 \U0001f40e & co"
    assert errors.DomainNotFound(name="<b>").reason == "KCHVM0002E: Virtual machine ‹b› does not exist"


def test_an_exception_can_be_a_cause() -> None:
    reason = errors.LibvirtFailed(act="look", cause=OSError(28, "No space left on <device>")).reason
    assert reason == "CLNVIRT0002E: libvirt could not look: [Errno 28] No space left on ‹device›"


@given(text=st.text(st.characters(exclude_categories=())))
@settings(deadline=None)
def test_any_text_becomes_harmless_once_and_for_all(text: str) -> None:
    assert is_harmless(plain(text))
    assert plain(plain(text)) == plain(text)
    assert len(plain(text)) == len(text)
