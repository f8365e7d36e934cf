"""Regular expressions without RE2 have the answers that RE2 gives: the two side by side."""

from __future__ import annotations

import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloner.control.expressions import Expression, NotUsable

PIECES = [*"ab-_/.|()[]^$*+?{},:1", "\\", "\\d", "\\w", "\\W", "\\s", "\\b", "\\B", "\\A", "\\z", "\\x61", "\\x{62}"]
PIECES += [
    "(?:",
    "(?P<n>",
    "(?i)",
    "(?s:",
    "(?-i:",
    "{2}",
    "{1,}",
    "{0,3}",
    "[^a]",
    "[a-c]",
    "[]a]",
    "[\\d-]",
    "é",
    "A",
]
TEXTS = ["", "a", "b", "ab", "ba", "aab", "A", "é", "a-b", "/a/b.c", "1", "12a", "a\nb", "_", "]", "{,}", "-", " "]


def by_re2(expression: str, text: str) -> bool | None:
    """Whether it matches from the start; None for an expression that is none."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(expression, options).match(text) is not None
    except re2.error:
        return None


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))
@example("(?i:a)b|(?-i)A")
@example("a{,3}")
@example("x{2}{3}")
@example("[a-]")
@example("(a|b)*?b$")
def test_what_is_usable_says_what_re2_says(expression: str) -> None:
    try:
        ours = Expression(expression)
    except NotUsable:
        return
    assert {text: ours.matches_start(text) for text in TEXTS} == {text: by_re2(expression, text) for text in TEXTS}
