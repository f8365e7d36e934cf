"""Regular expressions without RE2: what they match, what is refused, and that none takes long."""

from __future__ import annotations

import pytest

from cloner.control.expressions import MOST_INSTRUCTIONS, MOST_STEPS, Expression, NotUsable

CLONES = "^/plugins/kimchi/vms/.+/clone"
VOLUMES = "^/plugins/kimchi/storagepools/.+/storagevolumes/.+/clone"


@pytest.mark.parametrize(
    ("expression", "text", "is_match"),
    [
        (CLONES, "/plugins/kimchi/vms/web-clone-1/clone", True),
        (CLONES, "/plugins/kimchi/vms/web-clone-1", False),
        (CLONES, "/plugins/cloner/vms/web-clone-1/clone", False),
        (VOLUMES, "/plugins/kimchi/storagepools/default/storagevolumes/a-clone-1.qcow2/clone", True),
        ("running", "running", True),
        ("run", "running", True),
        ("un", "running", False),
        ("(running|finished)$", "finished", True),
        ("web-[0-9]{2}$", "web-07", True),
        ("web-[0-9]{2}$", "web-7", False),
        ("(?i)WEB", "web", True),
        ("", "anything", True),
        ("^((/|[a-z-])+)+X$", "/aa", False),
    ],
)
def test_an_expression_matches_from_the_start(expression: str, text: str, is_match: bool) -> None:
    assert Expression(expression).matches_start(text) is is_match


@pytest.mark.parametrize(
    ("expression", "cause"),
    [
        ("(", "missing )"),
        (")", "unexpected )"),
        ("[a", "missing ]"),
        ("*", "nothing before a repetition"),
        ("a|{2}", "nothing before a repetition"),
        ("a**", "a repetition is repeated"),
        ("a{1001}", "a repetition must be of"),
        ("a{3,2}", "a repetition must be of"),
        ("(a)\\1", "\\1 is not possible"),
        ("(?=a)", "(?= is not possible"),
        ("(?<!a)", "(?< is not possible"),
        ("\\", "a \\ at the end"),
        ("[b-a]", "b-a is no range"),
        ("\\xq", "\\x wants two digits"),
        ("(" * 300 + ")" * 300, "groups in each other"),
        ("((a{100}){100}){100}", "it is too large"),
        ("(((){1000}){1000}){1000}", "it is too large"),
        ("(?i)*", "nothing before a repetition"),
        ("[[:alpha:]]", "write a-zA-Z"),
        ("\\é", "\\é is not possible"),
    ],
)
def test_what_is_not_usable_says_why(expression: str, cause: str) -> None:
    with pytest.raises(NotUsable) as caught:
        Expression(expression)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    ["^((/|[a-z-])+)+X$", "(a*)*b", "(a|a)*b", "(a|aa)+$", "(.*)(.*)(.*)(.*)(.*)b", "(a?){500}a{500}b"],
)
def test_no_text_makes_an_expression_go_back(expression: str) -> None:
    """The steps are counted, so that a slow machine changes nothing: each place of the program once a character."""
    compiled = Expression(expression)
    text = "a" * 500
    compiled.matches_start(text)
    assert MOST_STEPS - compiled._steps_left <= MOST_INSTRUCTIONS * (len(text) + 1)


def test_many_texts_that_take_long_together_are_given_up() -> None:
    compiled = Expression("(.{0,30}a){0,30}[bc]{3}$")
    texts = (f"{number:b}".translate({48: "a", 49: "x"}) * 30 for number in range(100_000))
    with pytest.raises(NotUsable, match="takes too long"):
        any(compiled.matches_start(text) for text in texts)


def test_what_was_looked_at_before_costs_nothing() -> None:
    compiled = Expression(CLONES)
    compiled.matches_start("/plugins/kimchi/vms/web-clone-1/clone")
    left = compiled._steps_left
    compiled.matches_start("/plugins/kimchi/vms/web-clone-1/clone")
    assert compiled._steps_left == left
