"""What `make bench` makes of what it measures: turns, medians, ratios, tables. The measuring itself is run by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.naming import take_many
from bench.page import text
from bench.report import Aim, Column, Result, aims, as_json, faster, more, number, table
from bench.rounds import Contender, Measured, Rounds, Summary, summary, take_turns
from bench.scale import FULL, QUICK, Scale
from cloner.engine.journal import Journal


def logged(log: list[str], name: str) -> Callable[[], Measured]:
    def measure() -> Measured:
        log.append(name)
        return {name: [float(len(log))]}

    return measure


def test_contenders_take_turns_and_none_is_always_first() -> None:
    log: list[str] = []
    take_turns("test", [Contender(logged(log, name)) for name in "abc"], 3)
    assert "".join(log) == "abccbaabc"


def test_what_takes_long_takes_part_in_some_rounds() -> None:
    log: list[str] = []
    rounds = take_turns("test", [Contender(logged(log, "fast")), Contender(logged(log, "slow"), every=2)], 4)
    assert (log.count("fast"), log.count("slow")) == (4, 2)
    assert len(rounds.samples("slow")) == 2


def test_what_goes_on_tells_stderr_and_not_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    take_turns("copying", [Contender(lambda: {})], 1)
    said = capsys.readouterr()
    assert said.out == ""
    assert "copying: round 1 of 1" in said.err


def test_a_summary_is_the_median_with_its_quartiles() -> None:
    assert summary([5.0, 1.0, 4.0, 2.0, 3.0]) == Summary(3.0, 2.0, 4.0, 5)
    assert summary([7.0]) == Summary(7.0, 7.0, 7.0, 1)


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine became ten times slower after the first round: of that a ratio shows nothing."""
    rounds = Rounds([{"ours": [1.0], "theirs": [2.0]}, *[{"ours": [10.0], "theirs": [20.0]}] * 2])
    assert rounds.times_as_fast("ours", "theirs") == Summary(2.0, 2.0, 2.0, 3)


def test_a_ratio_takes_the_rounds_that_have_both() -> None:
    rounds = Rounds([{"ours": [1.0], "theirs": [50.0]}, {"ours": [100.0]}, {"ours": [1.0], "theirs": [70.0]}])
    assert rounds.times_as_fast("ours", "theirs") == Summary(60.0, 55.0, 65.0, 2)


def test_many_samples_of_one_round_count_as_their_median() -> None:
    rounds = Rounds([{"ours": [1.0, 1.0, 99.0], "theirs": [3.0]}])
    assert rounds.times_as_fast("ours", "theirs").median == 3.0


def result() -> Result:
    rounds = Rounds([{"ours": [8.0], "theirs": [1200.0]}, {"ours": [10.0]}, {"ours": [12.0], "theirs": [1200.0]}])
    relations = [faster(rounds, "ours", "theirs", "≥ 50"), more(rounds, "theirs", "ours", "ms")]
    return Result("key", "A title", "ms a clone", rounds, ["ours", "theirs"], relations, ["A note."], rate="clones/s")


def test_a_table_shows_medians_spread_and_ratios_with_their_aims() -> None:
    title, heads, ours, theirs, empty, ratio, difference, note = table(result()).splitlines()
    assert (title, empty, note) == ("A title", "", "  A note.")
    assert heads.split() == ["ms", "a", "clone", "quartiles", "samples", "clones/s"]
    assert ours.split() == ["ours", "10.0", "9.00", "–", "11.0", "3", "100"]
    assert theirs.split() == ["theirs", "1,200", "1,200", "–", "1,200", "2", "0.83"]
    assert " ".join(ratio.split()) == "ours : theirs 125 (112 – 138) times as fast aim: ≥ 50"
    assert difference.split()[:4] == ["theirs", "−", "ours", "1,190"]  # noqa: RUF001 - a minus


def test_a_tail_is_shown_where_there_are_samples_enough() -> None:
    rounds = Rounds([{"ours": [float(number) for number in range(1, 102)]}])
    _, heads, ours = table(Result("key", "A title", "ms", rounds, ["ours"])).splitlines()
    assert heads.split()[-1] == "p99"
    assert ours.split()[-1] == "100"


def test_json_has_every_sample() -> None:
    content = json.loads(json.dumps(as_json(result())))
    assert content["rows"]["ours"]["samples"] == [8.0, 10.0, 12.0]
    assert content["rows"]["theirs"]["median"] == 1200.0
    assert content["relations"][0]["aim"] == "≥ 50"
    assert content["aims"] == [
        {"what": "ours : theirs", "figure": 125.0, "unit": "times as fast", "aim": "≥ 50", "is_met": True}
    ]


@pytest.mark.parametrize(
    ("aim", "figure", "is_met"),
    [
        ("≥ 0.5", 0.5, True),
        ("≥ 0.5", 0.49, False),
        ("≤ 80", 80.0, True),
        ("≤ 80", 80.1, False),
        ("0.9 – 1.1", 1.0, True),
        ("0.9 – 1.1", 0.8, False),
        ("0.9 – 1.1", 1.2, False),
        ("≥ 600/s", 599.0, False),
    ],
)
def test_an_aim_is_met_by_its_numbers(aim: str, figure: float, is_met: bool) -> None:
    assert Aim("what", figure, "ms", aim).is_met == is_met


def test_an_aim_of_a_row_is_of_its_unit_or_of_its_rate() -> None:
    rounds = Rounds([{"few": [8.0], "many": [5.0]}])
    found = aims(
        Result(
            "key", "A title", "ms", rounds, ["few", "many"], rate="clones/s", aims={"few": "≤ 10", "many": "≥ 300/s"}
        )
    )
    assert [(aim.what, aim.figure, aim.unit, aim.is_met) for aim in found] == [
        ("few", 8.0, "ms", True),
        ("many", 200.0, "clones/s", False),
    ]


def test_a_table_has_what_else_was_counted() -> None:
    rounds = Rounds([{"ours": [8.0], "made": [3], "took": [1.5]}, {"ours": [8.0], "made": [4], "took": [2.5]}])
    columns = [Column("made", {"ours": "made"}, sum), Column("took", {"ours": "took"}), Column("no", {})]
    _, heads, ours = table(Result("key", "A title", "ms", rounds, ["ours"], columns=columns)).splitlines()
    assert heads.split()[-3:] == ["made", "took", "no"]
    assert ours.split()[-2:] == ["7", "2.00"]


def test_what_is_small_keeps_the_digits_that_count() -> None:
    assert [number(value) for value in (0.0, 0.0012, 0.12, 1.234, 12.34, 1234.5)] == [
        "0.00",
        "0.0012",
        "0.12",
        "1.23",
        "12.3",
        "1,234",
    ]


def test_a_page_has_the_machine_every_aim_every_row_and_the_pictures() -> None:
    page = "\n".join(text({"date": "today"}, [result()], {"key": "img/bench-key.svg"}))
    assert "| date | today |" in page
    assert "| [A title](#a-title) | ours : theirs | 125 times as fast | ≥ 50 | met |" in page
    assert "| ours | 10.0 | 9.00 – 11.0 | 3 | 100 |" in page
    assert "![A title](img/bench-key.svg)" in page
    assert "A note." in page


def test_what_is_missed_is_said() -> None:
    slow = Rounds([{"ours": [10.0], "theirs": [5.0]}])
    missed = Result("key", "A title", "ms", slow, ["ours"], [faster(slow, "ours", "theirs", "≥ 1")])
    assert "| 0.50 times as fast | ≥ 1 | **missed** |" in "\n".join(text({}, [missed], {}))


def test_names_of_the_journal_are_told_with_their_time(tmp_path: Path) -> None:
    journal = Journal(f"sqlite:///{tmp_path / 'journal.sqlite'}")
    begun, ended, names = take_many(journal, 4, 10)
    journal.close()
    assert begun <= ended
    assert len(set(names)) == 10


@pytest.mark.parametrize("scale", [FULL, QUICK])
def test_a_scale_has_something_to_compare(scale: Scale) -> None:
    """Each that grows has a least and a most, or nothing could be said of the growth."""
    for grown in (scale.sizes, scale.hosts, scale.batches, scale.extents, scale.disk_sizes, scale.namers):
        assert len(grown) > 1
        assert list(grown) == sorted(grown)
