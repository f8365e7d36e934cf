"""Asks the questions one after the other, and prints and writes what comes of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from . import accepting, copies, machine, memory, reflinks
from .report import Result, as_json, table
from .scale import FULL, QUICK, Scale

QUESTIONS: Mapping[str, Callable[[Scale], Iterator[Result]]] = {
    "accept": accepting.results,
    "reflink": reflinks.results,
    "copy": copies.results,
    "sparse": copies.sparse,
    "memory": memory.results,
}


def main() -> None:
    options = _options()
    scale = QUICK if options.quick else FULL
    facts = dict(machine.facts())
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    found = []
    for name in options.only or QUESTIONS:
        for result in QUESTIONS[name](scale):
            print(f"\n{table(result)}", flush=True)
            found.append(result)
    facts["load at the end"] = machine.load()
    print(f"\nload at the end: {facts['load at the end']}")
    if options.json:
        content = {"machine": facts, "quick": options.quick, "results": [as_json(result) for result in found]}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False), "utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measures cloner beside the alternatives.")
    parser.add_argument("--quick", action="store_true", help="less of everything: some two minutes instead of ten")
    parser.add_argument("--only", action="append", choices=QUESTIONS, help="one question alone; can be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
