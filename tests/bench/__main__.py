"""Asks the questions one after the other, and prints and writes what comes of them."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from . import accepting, connections, copies, costs, growth, machine, memory, names, neighbours, page, reflinks, sizes
from .report import Result, as_json, table
from .rounds import say
from .scale import FULL, QUICK, Scale

QUESTIONS: Mapping[str, Callable[[Scale], Iterator[Result]]] = {
    "names": names.results,
    "accept": accepting.results,
    "connections": connections.results,
    "reflink": reflinks.results,
    "sizes": sizes.results,
    "copy": copies.results,
    "sparse": copies.sparse,
    "growth": growth.results,
    "cost": costs.results,
    "memory": memory.results,
    "neighbours": neighbours.results,
}
_ROOT = Path(__file__).parents[2]


def main() -> None:
    options = _options()
    scale = QUICK if options.quick else FULL
    facts = dict(machine.facts())
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    found, begun = [], time.monotonic()
    for name in options.only or QUESTIONS:
        asked = time.monotonic()
        for result in QUESTIONS[name](scale):
            print(f"\n{table(result)}", flush=True)
            found.append(result)
        say(f"{name} took {time.monotonic() - asked:.0f} s")
    facts["load at the end"] = machine.load()
    facts["run"] = f"{'QUICK=1, ' if options.quick else ''}{time.monotonic() - begun:.0f} s"
    print(f"\nload at the end: {facts['load at the end']}")
    _write(facts, found, options)


def _write(facts: Mapping[str, str], found: list[Result], options: argparse.Namespace) -> None:
    """The report, and all samples beside it: in docs those of a whole run alone."""
    is_whole = not options.quick and not options.only
    folder = options.report or (_ROOT / "docs" if is_whole else _ROOT / "build" / "bench")
    content = {"machine": facts, "quick": options.quick, "results": [as_json(result) for result in found]}
    for file in filter(None, (folder / "benchmarks.json", options.json)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
    print(f"written: {page.write(folder, facts, found)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures cloner beside the alternatives.")
    parser.add_argument("--quick", action="store_true", help="less of everything: some two minutes instead of ten")
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="one question alone; can be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there as well")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="where the report goes: otherwise docs, or build/bench when less than everything is measured",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
