"""Our errors as Wok's: what its answers and its activity log make of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from cloner import errors, plugin
from cloner.bridge import activity, wok

TEXTS = {
    "KCHVM0002E": "Virtual machine %(name)s does not exist",
    "KCHVM0033E": "Virtual machine '%(name)s' must be stopped before cloning it.",
    "KCHVM0034E": "Insufficient disk space to clone virtual machine '%(name)s'",
    "KCHPOOL0002E": "Storage pool %(name)s does not exist",
    "KCHVOL0002E": "Storage volume %(name)s does not exist in storage pool %(pool)s",
    "WOKASYNC0001E": "Task id '%(id)s' does not exist",
}
"""Kimchi's i18n.py and src/wok/i18n.py: what is filled in of codes that are theirs too."""

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, errors.ClonerError)]
SPECIAL = {
    errors.TooManyAttempts: errors.TooManyAttempts(5),
    errors.TooManyBytes: errors.TooManyBytes(5, 3, 7),
}


class WokException(Exception):
    """src/wok/exception.py."""

    code: str
    params: Mapping[str, str]

    def getHttpStatusCode(self) -> int:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def woks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wok, "module", lambda name: {"exception": SimpleNamespace(WokException=WokException)}[name])


def an_error(kind: type[errors.ClonerError]) -> errors.ClonerError:
    return SPECIAL.get(kind) or kind(**{name: f"a {name}" for name in re.findall(r"\{(\w+)\}", kind.text)})


def in_woks_words(error: errors.ClonerError) -> WokException:
    found = wok.exception(error, "web")
    assert isinstance(found, WokException)
    return found


@pytest.mark.parametrize("kind", CLASSES)
def test_it_has_a_status_that_wok_answers_in_json(kind: type[errors.ClonerError]) -> None:
    """src/wok/root.py, Root; of others CherryPy makes a page, of which Kimchi's page reads nothing."""
    found = in_woks_words(an_error(kind))
    assert found.getHttpStatusCode() in (400, 401, 403, 404, 405, 406, 415, 500)
    assert found.getHttpStatusCode() // 100 == kind.status // 100
    assert str(found).startswith(f"{kind.code}: ")


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind.code in TEXTS])
def test_what_wok_has_a_text_for_itself_has_all_that_the_text_wants(kind: type[errors.ClonerError]) -> None:
    found = in_woks_words(an_error(kind))
    assert "%(" not in TEXTS[found.code] % found.params
    wanted = {"KCHPOOL0002E": "a pool", "KCHVM0034E": "web"}
    assert wanted.get(kind.code, "a ") in TEXTS[found.code] % found.params


def test_no_word_of_it_ends_an_attribute() -> None:
    """Wok's page of its activity log puts a message between quotation marks (ui/js/wok.bootgrid.js)."""
    found = in_woks_words(errors.DomainNotFound(name='" onmouseover="alert(1)'))
    assert '"' not in TEXTS[found.code] % found.params


def test_nor_does_any_text_of_ours() -> None:
    assert not [code for code, text in activity.messages(plugin._texts()).items() if set(text) & set('<>"')]
