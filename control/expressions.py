"""Regular expressions whose cost is bounded by the text's length: RE2's language and answers, for hosts without RE2.

An expression becomes a small program, all of whose threads go through the text side by side (Thompson, "Regular
Expression Search Algorithm", 1968): no text makes it go back. What cannot be run so, back references and looking
around, RE2 refuses too. Steps that were taken before are remembered, and all steps of one expression are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

MOST_REPEATS = 1000
MOST_INSTRUCTIONS = 4000
MOST_NESTED = 100
MOST_STEPS = 3_000_000
"""As many as a second or two take."""

_MOST_REMEMBERED = 20_000

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_DIGIT = frozenset("0123456789")
_SPACE = frozenset("\t\n\f\r ")
_CLASSES = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_ESCAPED = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEX = frozenset("0123456789abcdefABCDEF")

Test = Callable[[str], bool]
"""Whether a character is one of those that an expression has at a place."""

Assertion = Callable[[str, str], bool]
"""Whether a place is as an expression wants it, between two characters; one is empty at an end of the text."""


class NotUsable(ValueError):
    """An expression that is none, or that cannot be run in bounds; says why."""


def _is_boundary(before: str, after: str) -> bool:
    return (before in _WORD) != (after in _WORD)


_AT: dict[str, Assertion] = {
    "^": lambda before, _after: not before,
    "A": lambda before, _after: not before,
    "$": lambda _before, after: not after,
    "z": lambda _before, after: not after,
    "b": _is_boundary,
    "B": lambda before, after: not _is_boundary(before, after),
}


# --- What an expression says -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class One:
    """One character of those that pass."""

    passes: Test


@dataclass(frozen=True)
class At:
    """A place between characters."""

    holds: Assertion


@dataclass(frozen=True)
class Row:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Either:
    """One of them."""

    ways: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """`least` to `most` times; `most` is None where there is no end to it."""

    what: Node
    least: int
    most: int | None


Node = One | At | Row | Either | Repeat


class _Reader:
    """Reads an expression, a character at a time. Raises NotUsable."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._folds = False
        self._dot_is_all = False

    def read(self) -> Node:
        node = self._either()
        if self._at < len(self._text):
            raise NotUsable("unexpected ): there is no ( to it")
        return node

    def _peek(self, ahead: str) -> bool:
        return self._text.startswith(ahead, self._at)

    def _take(self, wanted: str) -> bool:
        found = self._peek(wanted)
        self._at += len(wanted) if found else 0
        return found

    def _next(self, missing: str) -> str:
        if self._at >= len(self._text):
            raise NotUsable(missing)
        self._at += 1
        return self._text[self._at - 1]

    def _either(self) -> Node:
        ways = [self._row()]
        while self._take("|"):
            ways.append(self._row())
        return Either(tuple(ways)) if len(ways) > 1 else ways[0]

    def _row(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._text) and not self._peek("|") and not self._peek(")"):
            parts.append(self._repeated(self._atom()))
        return Row(tuple(parts))

    def _repeated(self, node: Node) -> Node:
        times = self._times()
        if times is None:
            return node
        self._take("?")  # the shortest rather than the longest: of no matter where only a match's being there counts
        if self._times() is not None:
            raise NotUsable("a repetition is repeated")
        return Repeat(node, *times)

    def _times(self) -> tuple[int, int | None] | None:
        for sign, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return times
        closing = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : closing].partition(",")
        if not self._peek("{") or closing < 0 or not _is_number(least) or (most and not _is_number(most)):
            return None  # a { that counts nothing is a character
        self._at = closing + 1
        bounds = int(least), int(most) if most else (None if comma else int(least))
        if max(bound for bound in bounds if bound is not None) > MOST_REPEATS or bounds[0] > (bounds[1] or bounds[0]):
            raise NotUsable(f"a repetition must be of 0 to {MOST_REPEATS} times")
        return bounds

    def _refuse_times(self) -> None:
        if self._times() is not None:
            raise NotUsable("there is nothing before a repetition")

    def _atom(self) -> Node:
        self._refuse_times()
        sign = self._next("")
        if sign == "(":
            return self._group()
        if sign == "[":
            return One(self._set())
        if sign == ".":
            return One(_anything if self._dot_is_all else _anything_in_a_line)
        if sign in "^$":
            return At(_AT[sign])
        if sign == "\\":
            return self._escape()
        return One(self._among(sign))

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise NotUsable(f"it has more than {MOST_NESTED} groups in each other")
        outside = self._folds, self._dot_is_all
        if self._take("?") and not self._take(":") and not self._named() and self._flags():
            self._depth -= 1
            self._refuse_times()
            return Row(())  # for all that follows
        node = self._either()
        if not self._take(")"):
            raise NotUsable("missing )")
        self._folds, self._dot_is_all = outside
        self._depth -= 1
        return node

    def _named(self) -> bool:
        if not (self._take("P<") or (self._peek("<") and not self._peek("<=") and not self._peek("<!"))):
            return False
        self._take("<")
        name, found, _ = self._text[self._at :].partition(">")
        if not found or not name or not set(name) <= _WORD:
            raise NotUsable("the name of a group must be of letters, digits and _")
        self._at += len(name) + 1
        return True

    def _flags(self) -> bool:
        """`(?i)`, which is for all that follows in the group around it, or `(?i:...)`."""
        value = True
        while (flag := self._next("missing )")) not in ":)":
            if flag == "i":
                self._folds = value
            elif flag == "s":
                self._dot_is_all = value
            elif flag == "-":
                value = False
            else:
                raise NotUsable(f"(?{flag} is not possible")
        return flag == ")"

    def _among(self, *characters: str) -> Test:
        wanted = frozenset(characters)
        if self._folds:
            wanted = frozenset(form for one in wanted for form in (one, one.lower(), one.upper()))
        return wanted.__contains__

    def _escape(self) -> Node:
        sign = self._next("a \\ at the end")
        if sign in "AzbB":
            return At(_AT[sign])
        if sign.lower() in _CLASSES:
            return One(_class(sign))
        return One(self._among(self._character(sign)))

    def _character(self, sign: str) -> str:
        """The one character that follows a \\ as itself, by name, or by number."""
        if sign in _ESCAPED:
            return _ESCAPED[sign]
        if sign == "x":
            return self._by_number()
        if not sign.isascii() or sign.isalnum():
            raise NotUsable(f"\\{sign} is not possible")
        return sign

    def _by_number(self) -> str:
        if self._take("{"):
            digits, found, _ = self._text[self._at :].partition("}")
            is_number, length = bool(found) and len(digits) in range(1, 7), len(digits) + 1
        else:
            digits = self._text[self._at : self._at + 2]
            is_number, length = len(digits) == 2, 2  # noqa: PLR2004 - as of a byte
        if not is_number or not set(digits) <= _HEX or int(digits, 16) > sys.maxunicode:
            raise NotUsable("\\x wants two digits, or up to six between { and }")
        self._at += length
        return chr(int(digits, 16))

    def _set(self) -> Test:
        is_other = self._take("^")
        tests: list[Test] = []
        while True:
            sign = self._next("missing ]")
            if sign == "]" and tests:
                break
            tests.append(self._member(sign))
        inside = tuple(tests)
        return lambda one: any(test(one) for test in inside) != is_other

    def _member(self, sign: str) -> Test:
        if sign == "[" and self._peek(":"):
            raise NotUsable("a class such as [:alpha:] is not possible; write a-zA-Z")
        low = sign
        if sign == "\\":
            named = self._next("missing ]")
            if named.lower() in _CLASSES:
                return _class(named)
            low = self._character(named)
        if not self._peek("-") or self._peek("-]"):
            return self._among(low)
        self._take("-")
        high = self._next("missing ]")
        high = self._character(self._next("missing ]")) if high == "\\" else high
        if high < low:
            raise NotUsable(f"{low}-{high} is no range")
        return self._between(low, high)

    def _between(self, low: str, high: str) -> Test:
        if self._folds:
            return lambda one: any(low <= form <= high for form in (one, one.lower(), one.upper()))
        return lambda one: low <= one <= high


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4  # noqa: PLR2004 - as many as MOST_REPEATS has


def _anything(_one: str) -> bool:
    return True


def _anything_in_a_line(one: str) -> bool:
    return one != "\n"


def _class(sign: str) -> Test:
    found = _CLASSES[sign.lower()]
    return found.__contains__ if sign.islower() else lambda one: one not in found


# --- How it is run ---------------------------------------------------------------------------------------------------


@dataclass
class _Instruction:
    """A character that must pass, or a place that must hold, or neither; and where it goes on."""

    passes: Test | None = None
    holds: Assertion | None = None
    then: list[int] = field(default_factory=list)


class _Program:
    """The instructions of an expression; the first one is the end. Raises NotUsable for too many."""

    def __init__(self, node: Node) -> None:
        self.instructions = [_Instruction()]
        self._added = 0
        self.start = self._add(node, 0)

    def _put(self, instruction: _Instruction) -> int:
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def _add(self, node: Node, then: int) -> int:
        """Where a node begins that is followed by an instruction."""
        self._added += 1  # also what has no instruction of its own, such as an empty group
        if self._added > MOST_INSTRUCTIONS:
            raise NotUsable("it is too large")
        if isinstance(node, One):
            return self._put(_Instruction(passes=node.passes, then=[then]))
        if isinstance(node, At):
            return self._put(_Instruction(holds=node.holds, then=[then]))
        if isinstance(node, Row):
            for part in reversed(node.parts):
                then = self._add(part, then)
            return then
        if isinstance(node, Either):
            return self._put(_Instruction(then=[self._add(way, then) for way in node.ways]))
        return self._add_repeat(node, then)

    def _add_repeat(self, node: Repeat, then: int) -> int:
        if node.most is None:
            again = self._put(_Instruction(then=[then]))
            self.instructions[again].then.append(self._add(node.what, again))
            then = again
        else:
            end = then
            for _ in range(node.most - node.least):
                then = self._put(_Instruction(then=[self._add(node.what, then), end]))
        for _ in range(node.least):
            then = self._add(node.what, then)
        return then


_States = frozenset[int]


class Expression:
    """A regular expression. Raises NotUsable for what is none."""

    def __init__(self, text: str) -> None:
        program = _Program(_Reader(text).read())
        self._instructions = program.instructions
        self._start: _States = frozenset([program.start])
        self._steps_left = MOST_STEPS
        self._remembered: dict[tuple[_States, str, str], _States | None] = {}

    def matches_start(self, text: str) -> bool:
        """Whether it matches a part of the text that begins where that does.

        Raises NotUsable when all that it was asked together took too long.
        """
        states = self._start
        for before, after in zip(("", *text), (*text, ""), strict=True):
            reached = self._step(states, before, after)
            if not reached:
                return reached is None
            states = reached
        return False

    def _step(self, states: _States, before: str, after: str) -> _States | None:
        """Where the threads are after a character; None when one has come to the end, before it."""
        key = (states, before, after)
        if key in self._remembered:
            return self._remembered[key]
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        found = set(self._closure(states, before, after))
        instructions = [self._instructions[place] for place in found]
        passed = (item.then for item in instructions if item.passes and after and item.passes(after))
        reached = None if 0 in found else frozenset(place for then in passed for place in then)
        self._remembered[key] = reached
        return reached

    def _closure(self, states: Iterable[int], before: str, after: str) -> Iterator[int]:
        """Everywhere that threads get without a character."""
        seen = set(states)
        waiting = list(seen)
        while waiting:
            self._steps_left -= 1
            if self._steps_left < 0:
                raise NotUsable("it takes too long; make it simpler")
            place = waiting.pop()
            yield place
            instruction = self._instructions[place]
            if instruction.passes or (instruction.holds and not instruction.holds(before, after)):
                continue
            new = [then for then in instruction.then if then not in seen]
            seen.update(new)
            waiting += new
