"""The name of a clone is new: whatever the source is called, whatever is there, and whatever the clock does."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloner import utils
from cloner.clock import ProcessStamps, StampSource
from cloner.utils import MAX_NAME_BYTES, byte_length, compose, few, get_next_clone_name

NOON = 1_795_429_330_539_756  # µs since 1970
HOUR = 3_600_000_000
FORKING = multiprocessing.get_context("fork")
PATIENCE = 60  # seconds for what takes a moment, until a child is taken to hang

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=40)  # lone surrogates too
ENDINGS = st.sampled_from(["", ".qcow2", ".img", "(.raw", "-clone-", "-clone-7", "7", "+", "\\d", "é", "\U0001f40e"])
CHARACTERS = {
    "one byte": "x",
    "two bytes": "é",
    "three bytes": "漢",
    "four bytes": "\U0001f40e",
    "an accent of its own": "e\u0301",
    "two accents": "o\u0302\u0323",
    "decomposed Hangul": "\u1112\u1161\u11ab",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a skin tone": "\U0001f44d\U0001f3fd",
    "a heart in red": "❤\ufe0f",
    "a flag": "\U0001f1e9\U0001f1ea",
    "the flag of a region": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "half of a character": "\udcff",
}


def noon() -> int:
    """A clock that stands still."""
    return NOON


def an_hour_earlier() -> int:
    """The same clock, set back."""
    return NOON - HOUR


def number_of(name: str, base: str = "web", suffix: str = "") -> int:
    """The number in a name, which must have the form that is promised."""
    found = re.fullmatch(f"{re.escape(base)}-clone-([0-9]+){re.escape(suffix)}", name, re.DOTALL)
    assert found, name
    return int(found[1])


def is_increasing(names: Iterable[str]) -> bool:
    return all(number_of(one) < number_of(next_one) for one, next_one in pairwise(names))


@pytest.fixture(autouse=True)
def stamps(monkeypatch: pytest.MonkeyPatch) -> ProcessStamps:
    """The process's stamps, as in a process that has given out none."""
    stamps = ProcessStamps()
    monkeypatch.setattr(utils, "process_stamps", stamps)
    return stamps


# --- Without a stamp -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "foo-clone-1.img"),
        (["foo.img", "bar-clone-4.img"], "foo-clone-1.img"),
        (["foo-clone-1.img"], "foo-clone-2.img"),
        (["foo-clone-9.img", "foo-clone-10.img", "foo-clone-2.img"], "foo-clone-11.img"),
        (["foo-clone-0.img"], "foo-clone-1.img"),
        (["foo-clone-007.img"], "foo-clone-8.img"),
        (["foo-clone-99999999999999999999999999.img"], "foo-clone-100000000000000000000000000.img"),
    ],
)
def test_the_number_is_one_more_than_the_highest(taken: list[str], expected: str) -> None:
    assert get_next_clone_name(taken, "foo", ".img") == expected


@pytest.mark.parametrize(
    "name",
    [
        "foo-clone-7.img.bak",
        "my-foo-clone-7.img",
        "foo-clone-7xyz.img",
        "foo-clone-.img",
        "foo-clone--7.img",
        "foo-clone-+7.img",
        "foo-clone- 7.img",
        "foo-clone-7_0.img",
        "foo-clone-7.0.img",
        "foo-clone-7ximg",
        "foo-clone-7.IMG",
        "foo-clone-7.img\n",
        "FOO-clone-7.img",
        "foo-clone-0x7.img",
        "foo-clone-1-clone-7.img",
        "foo-clone-7",
        "foo-clone-\N{ARABIC-INDIC DIGIT SEVEN}.img",
        "foo-clone-\N{FULLWIDTH DIGIT SEVEN}.img",
        "foo-clone-²7.img",
        "foo-clone-Ⅶ.img",
        "",
        ".img",
        "-clone-7.img",
    ],
)
def test_a_name_of_another_form_does_not_count(name: str) -> None:
    assert get_next_clone_name([name], "foo", ".img") == "foo-clone-1.img"


@pytest.mark.parametrize("suffix", ["", ".qcow2", "(.qcow2", "+", "[1]", "$", "-clone-", "-clone-5", "3"])
@pytest.mark.parametrize("base", ["", "open(", "a+b", "x[1]", "a.b", "a|b", "\\d", "^$", "a\nb", "a-clone-3", "-clone"])
def test_special_characters_are_plain_text(base: str, suffix: str) -> None:
    assert get_next_clone_name([f"{base}-clone-3{suffix}"], base, suffix) == f"{base}-clone-4{suffix}"


@pytest.mark.parametrize(
    ("base", "other"), [("a+b", "aab-clone-7"), ("x[1]", "x1-clone-7"), ("a.b", "axb-clone-7"), ("a|b", "a-clone-7")]
)
def test_special_characters_match_nothing_else(base: str, other: str) -> None:
    assert get_next_clone_name([other], base) == f"{base}-clone-1"


def test_a_clone_of_a_clone_counts_by_itself() -> None:
    taken = ["web-clone-8", "web-clone-8-clone-2"]
    assert get_next_clone_name(taken, "web-clone-8") == "web-clone-8-clone-3"
    assert get_next_clone_name(taken, "web") == "web-clone-9"


@pytest.mark.parametrize("listing", [list, tuple, set, frozenset, iter, dict.fromkeys])
def test_any_iterable_of_names_will_do(listing: Callable[[list[str]], Iterable[str]]) -> None:
    assert get_next_clone_name(listing(["web-clone-1", "web-clone-2"]), "web") == "web-clone-3"
    assert get_next_clone_name(listing([f"web-clone-{NOON}"]), "web", ts=True, clock=noon) == f"web-clone-{NOON + 1}"


def test_counting_needs_names_that_can_be_read() -> None:
    with pytest.raises(TypeError, match="ts=True"):
        get_next_clone_name(Asked(), "web")


@pytest.mark.parametrize("digits", range(225, 260))
def test_a_number_too_long_for_any_name_does_not_count(digits: int) -> None:
    """Anyone can put a file into a pool; its name must not stop the clones of others."""
    taken = [f"another-clone-{'9' * digits}", f"web-clone-{'9' * digits}.img"]
    assert get_next_clone_name(taken, "web") == "web-clone-1"


@given(base=ANYTHING, suffix=ENDINGS, numbers=st.sets(st.integers(0, 10**30)), strays=st.lists(ANYTHING))
@settings(deadline=None)
def test_the_number_is_higher_than_any(base: str, suffix: str, numbers: set[int], strays: list[str]) -> None:
    listing = [f"{base}-clone-{number}{suffix}" for number in numbers] + strays
    name = get_next_clone_name(listing, base, suffix)
    assert name not in listing
    assert number_of(name, base, suffix) == max(numbers, default=0) + 1
    assert number_of(get_next_clone_name([*listing, name], base, suffix), base, suffix) == max(numbers, default=0) + 2


@given(base=ANYTHING, suffix=ENDINGS, middle=ANYTHING, tail=ANYTHING)
@settings(deadline=None)
def test_what_only_looks_like_a_number_is_none(base: str, suffix: str, middle: str, tail: str) -> None:
    stray = f"{base}-clone-{middle}{suffix}{tail}"
    found = re.fullmatch(f"{re.escape(base)}-clone-([0-9]+){re.escape(suffix)}", stray)
    assert number_of(get_next_clone_name([stray], base, suffix), base, suffix) == (int(found[1]) if found else 0) + 1


# --- With a stamp ----------------------------------------------------------------------------------------------------


class Asked:
    """Names that can be asked for and not read, such as those of a host; it keeps what it was asked."""

    def __init__(self, *taken: str) -> None:
        self.taken = taken
        self.questions: list[object] = []

    def __contains__(self, name: object) -> bool:
        self.questions.append(name)
        return name in self.taken


class AskedSet(Asked, set[str]):
    """A set that keeps what it was asked. Its copy would not."""

    def __init__(self, *taken: str) -> None:
        super().__init__(*taken)
        self.update(taken)


class AskedView(Asked, Set[str]):
    """Not a `set`, but able to do the same; big, so nobody may go through it."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("the names were read")

    def __len__(self) -> int:
        return len(self.taken)


class Dictated(StampSource):
    """Gives out the stamps that it was told to."""

    def __init__(self, *stamps: int) -> None:
        self._stamps = iter(stamps)

    def stamp(self) -> int:
        return next(self._stamps)


def next_name(clock: Callable[[], int] = noon) -> str:
    return get_next_clone_name(frozenset(), "web", ts=True, clock=clock)


def test_the_stamp_is_the_time_in_microseconds() -> None:
    before = time.time()
    name = get_next_clone_name([], "web", ".qcow2", ts=True)
    assert before <= number_of(name, suffix=".qcow2") / 1e6 <= time.time()


def test_a_clock_that_stands_still_repeats_no_name() -> None:
    assert [next_name() for _ in range(3)] == [f"web-clone-{NOON + more}" for more in range(3)]


def test_a_clock_that_is_set_back_repeats_no_name() -> None:
    names = [next_name(noon), next_name(an_hour_earlier), next_name(noon), next_name(lambda: 0)]
    assert names == [f"web-clone-{NOON + more}" for more in range(4)]


def test_a_clock_that_goes_on_is_followed() -> None:
    assert [next_name(noon), next_name(lambda: NOON + HOUR)] == [f"web-clone-{NOON}", f"web-clone-{NOON + HOUR}"]


def test_stamps_are_distinct_over_all_basenames() -> None:
    """So that the disks of two guests that are cloned into one pool are too."""
    names = [get_next_clone_name([], base, suffix, True, noon) for base in "ab" for suffix in ("", ".img")]
    assert names == [f"a-clone-{NOON}", f"a-clone-{NOON + 1}.img", f"b-clone-{NOON + 2}", f"b-clone-{NOON + 3}.img"]


@pytest.mark.parametrize("listing", [list, set, iter, dict.fromkeys, lambda names: Asked(*names)])
def test_a_name_that_is_taken_is_skipped(listing: Callable[[list[str]], Iterable[str]]) -> None:
    taken = [f"web-clone-{NOON + more}" for more in (2, 1, 0)]
    assert get_next_clone_name(listing(taken), "web", ts=True, clock=noon) == f"web-clone-{NOON + 3}"


@pytest.mark.parametrize("kind", [Asked, AskedSet, AskedView])
def test_names_that_can_be_asked_for_are_not_copied(kind: type[Asked]) -> None:
    names = kind(f"web-clone-{NOON}")
    get_next_clone_name(names, "web", ts=True, clock=noon)
    assert names.questions == [f"web-clone-{NOON}", f"web-clone-{NOON + 1}"]


def test_the_stamps_of_a_source_are_taken_as_they_are() -> None:
    next_name()
    source = Dictated(7, 5, 7)
    names = [get_next_clone_name([], "web", ts=True, clock=source) for _ in range(3)]
    assert names == ["web-clone-7", "web-clone-5", "web-clone-7"]
    assert next_name() == f"web-clone-{NOON + 1}"


def test_a_stamp_of_a_source_whose_name_is_taken_is_skipped() -> None:
    taken = {"web-clone-5", "web-clone-6"}
    assert get_next_clone_name(taken, "web", ts=True, clock=Dictated(5, 6, 9)) == "web-clone-9"


@pytest.mark.parametrize("time", [-1, -HOUR, 1 << 63, 10**30])
def test_a_clock_out_of_range_is_refused(time: int) -> None:
    with pytest.raises(ValueError, match=f"not {time}"):
        next_name(lambda: time)
    assert next_name() == f"web-clone-{NOON}"


def test_the_last_microsecond_of_the_range_repeats_no_name() -> None:
    last = (1 << 63) - 1
    assert [next_name(lambda: last) for _ in range(2)] == [f"web-clone-{last}", f"web-clone-{last + 1}"]


@given(base=ANYTHING, suffix=ENDINGS, taken=st.sets(st.integers(0, 20)), strays=st.sets(ANYTHING))
@settings(deadline=None)
def test_a_stamped_name_is_new(base: str, suffix: str, taken: set[int], strays: set[str]) -> None:
    first = number_of(get_next_clone_name((), base, suffix, ts=True, clock=noon), base, suffix) + 1
    listing = {f"{base}-clone-{first + number}{suffix}" for number in taken} | strays
    name = get_next_clone_name(listing, base, suffix, ts=True, clock=noon)
    assert name not in listing
    assert number_of(name, base, suffix) == first + min(set(range(22)) - taken)


# --- From many threads and processes ---------------------------------------------------------------------------------


def give_out(count: int, clock: Callable[[], int] = noon) -> list[str]:
    return [next_name(clock) for _ in range(count)]


@contextmanager
def restless_threads() -> Iterator[None]:
    """Lets threads take turns in the middle of everything: Python seldom does, which hides what has no lock."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def from_threads(threads: int, work: Callable[[], list[str]]) -> list[list[str]]:
    """What each of some threads gives out that start as one."""
    barrier = threading.Barrier(threads)

    def run(_: int) -> list[str]:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(threads) as pool, restless_threads():
        return list(pool.map(run, range(threads)))


class Child:
    """A forked child that works at once, or when it is told to `go`, and tells what it gave out."""

    def __init__(self, work: Callable[[], list[str]], go: Callable[[], object] = lambda: None) -> None:
        def run() -> None:
            go()
            end.send(work())

        self._pipe, end = FORKING.Pipe()
        self.process = FORKING.Process(target=run)
        self.process.start()
        end.close()

    def result(self) -> list[str]:
        assert self._pipe.poll(PATIENCE), "the child hangs"
        names: list[str] = self._pipe.recv()
        self.process.join()
        return names


@pytest.fixture
def children() -> Iterator[list[Child]]:
    """Children of this test; whoever hangs is killed."""
    children: list[Child] = []
    yield children
    for child in children:
        child.process.kill()
        child.process.join()


def test_64_threads_get_128000_names() -> None:
    lists = from_threads(64, lambda: give_out(2000))
    assert {name for names in lists for name in names} == {f"web-clone-{NOON + n}" for n in range(128_000)}
    assert all(is_increasing(names) for names in lists)


def test_threads_that_see_the_clock_set_back_repeat_no_name() -> None:
    before = from_threads(16, lambda: give_out(200))
    after = from_threads(16, lambda: give_out(200, an_hour_earlier))
    assert len({name for names in before + after for name in names}) == 2 * 16 * 200
    assert all(is_increasing(one + other) for one in before for other in after)


def test_a_child_repeats_no_name_of_its_parent(children: list[Child]) -> None:
    before = give_out(3)
    children.append(Child(lambda: give_out(3)))
    assert before + children[0].result() + give_out(3) == [f"web-clone-{NOON + more}" for more in range(9)]


def test_a_grandchild_repeats_no_name_of_its_relations(children: list[Child]) -> None:
    children.append(Child(lambda: give_out(2) + Child(lambda: give_out(2)).result() + give_out(2)))
    assert give_out(0) + children[0].result() + give_out(2) == [f"web-clone-{NOON + more}" for more in range(8)]


def test_children_and_their_parent_repeat_no_name_at_the_same_time(children: list[Child]) -> None:
    barrier = FORKING.Barrier(5)
    children += [Child(lambda: give_out(2000), go=barrier.wait) for _ in range(4)]
    barrier.wait()
    lists = [*from_threads(4, lambda: give_out(500)), *(child.result() for child in children)]
    assert {name for names in lists for name in names} == {f"web-clone-{NOON + n}" for n in range(5 * 2000)}
    assert all(is_increasing(names) for names in lists)


def test_a_child_that_is_forked_in_the_middle_of_a_stamp_goes_on(children: list[Child]) -> None:
    """It has the lock that another thread held, and not the thread that would release it."""
    enough = threading.Event()
    names: list[str] = []

    def run() -> None:
        while not enough.is_set():
            names.append(next_name())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        children += [Child(lambda: give_out(5)) for _ in range(20)]
        names += [name for child in children for name in child.result()]
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert len(set(names)) == len(names)


class Deadly(int):
    """A time on which the process dies in the middle of its stamp, when the time is compared with the last."""

    def __gt__(self, other: int) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return NotImplemented


def test_a_child_killed_in_the_middle_of_a_stamp_holds_up_nobody(children: list[Child]) -> None:
    children.append(Child(lambda: give_out(1, lambda: Deadly(NOON))))
    children[0].process.join(PATIENCE)
    assert children[0].process.exitcode == -signal.SIGKILL
    children.append(Child(lambda: give_out(1)))
    assert children[1].result() == [f"web-clone-{NOON}"]


def test_threads_stay_apart_in_a_daemon_that_closed_every_descriptor(children: list[Child]) -> None:
    def close_those_of_the_stamps() -> None:
        for link in Path("/proc/self/fd").iterdir():
            if link.is_symlink() and "cloner-stamp" in str(link.readlink()):
                os.close(int(link.name))

    def work() -> list[str]:
        return [name for names in from_threads(8, lambda: give_out(100)) for name in names]

    children.append(Child(work, go=close_those_of_the_stamps))
    assert set(children[0].result()) == {f"web-clone-{NOON + n}" for n in range(800)}


# --- The length ------------------------------------------------------------------------------------------------------


def test_a_name_that_fits_is_not_touched() -> None:
    base = "x" * (MAX_NAME_BYTES - len("-clone-1.img"))
    assert get_next_clone_name([], base, ".img") == f"{base}-clone-1.img"
    assert get_next_clone_name([], base + "x", ".img") == f"{base}-clone-1.img"


@pytest.mark.parametrize("character", CHARACTERS.values(), ids=CHARACTERS.keys())
def test_a_long_base_is_cut_between_characters(character: str) -> None:
    base, ending = f"a{character * 300}", f"-clone-{NOON}.img"
    for room in range(20, 20 + 2 * byte_length(character)):
        max_bytes = 1 + room + len(ending)
        name = get_next_clone_name([], base, ".img", ts=True, clock=Dictated(NOON), max_bytes=max_bytes)
        assert name == f"a{character * (room // byte_length(character))}{ending}"


def test_flags_are_not_cut_into_other_flags() -> None:
    """Letters of flags go in pairs from the first of a row, wherever the row begins."""
    for before in ("", "a", "\U0001f40e"):
        base = before + "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7"
        assert compose(base, ".", byte_length(base) - 3) == before + "\U0001f1e9\U0001f1ea."


def test_a_character_longer_than_the_room_is_cut_after_a_code_point() -> None:
    assert compose("a" + "\u0301" * 200, "-end", 20) == "a" + "\u0301" * 7 + "-end"


def test_names_that_were_shortened_are_counted() -> None:
    """The base gets shorter by one when the number gets longer by one."""
    listing: list[str] = []
    for _ in range(101):
        listing.append(get_next_clone_name(listing, "x" * 300, ".img"))
    assert len(set(listing)) == 101
    assert listing[8:10] == ["x" * 235 + "-clone-9.img", "x" * 234 + "-clone-10.img"]


@pytest.mark.parametrize(("character", "size"), [("x", 1), ("é", 2), ("漢", 3), ("\U0001f40e", 4), ("\udcff", 3)])
def test_lengths_are_in_bytes(character: str, size: int) -> None:
    assert byte_length(character * 5) == 5 * size


@pytest.mark.parametrize("room", [-30, -1, 0, 2])
@pytest.mark.parametrize("ts", [False, True])
def test_no_room_for_any_of_the_base_is_refused(ts: bool, room: int) -> None:
    ending = f"-clone-{NOON if ts else 1}.img"
    with pytest.raises(ValueError, match="no room for its base"):
        get_next_clone_name([], "漢字", ".img", ts=ts, clock=noon, max_bytes=len(ending) + room)


def test_an_empty_base_needs_no_room() -> None:
    assert get_next_clone_name([], "", max_bytes=8) == "-clone-1"
    with pytest.raises(ValueError, match="no room"):
        get_next_clone_name([], "", max_bytes=7)


@given(base=ANYTHING.map(lambda text: f"x{text * 10}"), suffix=ENDINGS, more=st.integers(1, 300))
@settings(deadline=None)
def test_neither_the_stamp_nor_the_suffix_is_ever_cut(base: str, suffix: str, more: int) -> None:
    ending = f"-clone-{NOON}{suffix}"
    name = get_next_clone_name([], base, suffix, ts=True, clock=Dictated(NOON), max_bytes=byte_length(ending) + more)
    kept = name.removesuffix(ending)
    assert name == kept + ending
    assert base.startswith(kept)
    assert kept
    assert byte_length(kept) <= more
    assert kept == base or byte_length(base) > more


# --- Many names in words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "words"), [(0, ""), (1, "n0"), (5, "n0, n1, n2, n3, n4"), (1000, "n0, n1, n2, n3, n4 and 995 more")]
)
def test_of_many_names_a_person_is_told_the_first_few(count: int, words: str) -> None:
    assert few([f"n{number}" for number in range(count)]) == words
