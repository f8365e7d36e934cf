"""The page's texts: each is in the catalogue of each language, with the places that it has, and no other is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

UI = Path(__file__).parents[2] / "ui"
LANGUAGES = sorted(path.stem for path in (UI / "po").glob("*.po"))
TEXT = r'"(?:[^"\\]|\\.)*"'
ONE = re.compile(rf"\b(?:t|nodes)\(\s*({TEXT})")
MANY = re.compile(rf"\bn\(\s*({TEXT}),\s*({TEXT})")
ANY_CALL = re.compile(r"(?<!\w)(?<!\w\.)(t|n|nodes)\((?!text\b|one\b|n\()")
ENTRY = re.compile(rf"(msgid|msgid_plural|msgstr(?:\[\d\])?) ({TEXT}(?:\n{TEXT})*)")


def sources() -> list[str]:
    """The page's modules, without the one that defines the functions for texts."""
    return [path.read_text("utf-8") for path in UI.glob("*.js") if path.name not in ("docs.js", "i18n.js")]


def texts() -> dict[str, str]:
    """The texts in the code, each with what it is for many, or ''."""
    found: dict[str, str] = {}
    for source in sources():
        found |= {json.loads(text): "" for text in ONE.findall(source)}
        found |= {json.loads(one): json.loads(many) for one, many in MANY.findall(source)}
    return found


def catalogue(language: str) -> dict[str, dict[str, str]]:
    """The entries of a catalogue by their English text, without the one about itself."""
    content = (UI / "po" / f"{language}.po").read_text("utf-8")
    entries = []
    for block in re.split(r"\n\n+", content):
        lines = {key: "".join(map(json.loads, value.split("\n"))) for key, value in ENTRY.findall(block)}
        entries.append(lines)
    return {entry["msgid"]: entry for entry in entries if entry["msgid"]}


def places(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))


def test_there_is_a_language_beside_english() -> None:
    listed = re.search(r"const LANGUAGES = (\[.*\]);", (UI / "i18n.js").read_text("utf-8"))
    assert listed
    assert json.loads(listed[1]) == LANGUAGES
    assert LANGUAGES


def test_every_text_is_found() -> None:
    """A text that is put together where it is asked for is in no catalogue."""
    calls = sum(len(ANY_CALL.findall(source)) for source in sources())
    assert calls == sum(len(ONE.findall(source)) + len(MANY.findall(source)) for source in sources())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalogue_has_every_text_and_no_other(language: str) -> None:
    assert {text: entry.get("msgid_plural", "") for text, entry in catalogue(language).items()} == texts()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_with_its_places(language: str) -> None:
    for text, entry in catalogue(language).items():
        translations = [value for key, value in entry.items() if key.startswith("msgstr")]
        assert len(translations) == (2 if "msgid_plural" in entry else 1), text
        for translation in translations:
            assert translation, text
            assert places(translation) <= places(entry.get("msgid_plural", text)) | places(text)
        assert places(text) <= set.union(*map(places, translations))
