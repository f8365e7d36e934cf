"""The report as a page, docs/BENCHMARKS.md, with its pictures: all of it comes from one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .report import Result, aims, markdown, number

PAGE, PICTURES = "BENCHMARKS.md", "img"

_PREFACE = """\
`make bench` wrote this page: every figure is of one run, on the machine below. What is compared was measured in turn,
in every other round from the last to the first, so that what disturbs one disturbs all. A figure is a median, with the
quartiles of its samples. A ratio, *A : B … times as fast*, is taken within each round, so above 1 A is the faster one,
and below it the slower. All samples are in [benchmarks.json](benchmarks.json)."""


def write(folder: Path, facts: Mapping[str, str], results: Sequence[Result]) -> Path:
    """Writes the page and its pictures into a folder; the page's path."""
    from . import plots  # noqa: PLC0415 - matplotlib is there for the bench alone, the page's text is tested without it

    folder.mkdir(parents=True, exist_ok=True)
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    plotted = {result.key: f"bench-{result.key}.svg" for result in results if result.plot}
    for result in results:
        if result.plot:
            plots.draw(result, result.plot, caption(facts), pictures / plotted[result.key])
    page = folder / PAGE
    names = {key: f"{PICTURES}/{name}" for key, name in plotted.items()}
    page.write_text("\n".join(text(facts, results, names)) + "\n", "utf-8")
    return page


def caption(facts: Mapping[str, str]) -> str:
    """What a picture says of where it comes from."""
    told = [facts[name] for name in ("date", "processors", "system") if name in facts]
    return " · ".join([f"cloner {facts.get('cloner', '')}".strip(), f"libvirt {facts.get('libvirt', '')}", *told])


def text(facts: Mapping[str, str], results: Sequence[Result], pictures: Mapping[str, str]) -> Iterator[str]:
    """The page, line by line."""
    yield from ("# Benchmarks", "", _PREFACE, "", "## The run", "", "| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in facts.items())
    yield from ("", "## What was aimed at", "", "| | | figure | aim | |", "|---|---|---:|---|---|")
    for result in results:
        where = f"[{result.title}](#{_anchor(result.title)})"
        for aim in aims(result):
            said = "met" if aim.is_met else "**missed**"
            yield f"| {where} | {aim.what} | {number(aim.figure)} {aim.unit} | {aim.aim} | {said} |"
            where = ""
    for result in results:
        yield from ("", f"## {result.title}", "")
        if result.key in pictures:
            yield from (f"![{result.title}]({pictures[result.key]})", "")
        yield from markdown(result)


def _anchor(title: str) -> str:
    """The name that GitHub gives to a heading."""
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")
