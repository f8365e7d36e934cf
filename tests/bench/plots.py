"""Results as pictures: medians over what grows, with their quartiles, or how samples are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .report import Curve, Plot, Result
from .rounds import Rounds, summary

_STYLE: Any = {  # to mypy, its keys are literals
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: small, and it can be read out
    "svg.hashsalt": "bench",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.grid": True,
    "grid.color": "#e3e5e8",
    "grid.linewidth": 0.8,
    "text.color": "#24292f",
    "axes.labelcolor": "#24292f",
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
}
_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#57606a", "#1b7c83", "#bf3989", "#953800")
_MARKERS = "os^Dv<>pX"
_MANY_CURVES = 4
_SIZE = (9.0, 5.0)  # inches


def draw(result: Result, plot: Plot, caption: str, path: Path) -> None:
    """Writes an SVG file."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        figure.suptitle(plot.title or result.title, x=0.01, ha="left", fontsize=11)
        axes.set_xlabel(plot.x)
        axes.set_ylabel(plot.y)
        if plot.curves:
            _curves(axes, plot.curves, result.rounds)
        else:
            _distributions(axes, result.rows, result.rounds)
        if len(plot.curves) > _MANY_CURVES:
            figure.legend(loc="outside right upper", frameon=False)
        else:
            axes.legend(loc="best", framealpha=0.8, edgecolor="#e3e5e8")
        figure.supxlabel(caption, fontsize=7, color="#57606a", x=0.01, ha="left")
        figure.savefig(path, format="svg", metadata={"Date": None, "Description": caption})


def _curves(axes: Axes, curves: Sequence[Curve], rounds: Rounds) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, curve in enumerate(curves):
        xs = [x for x, _ in curve.points]
        figures = [summary(rounds.samples(row)) for _, row in curve.points]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        medians = [figure.median for figure in figures]
        width = 2.4 if curve.label.startswith("cloner") else 1.3
        axes.plot(xs, medians, label=curve.label, color=colour, marker=marker, markersize=5, linewidth=width)
        low, high = [figure.low for figure in figures], [figure.high for figure in figures]
        axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
    ticks = sorted({x for curve in curves for x, _ in curve.points})
    axes.set_xticks(ticks, [f"{tick:,g}" if tick < 10_000 else f"{tick:,.0f}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain(axes)


def _distributions(axes: Axes, rows: Sequence[str], rounds: Rounds) -> None:
    axes.set_xscale("log")
    for number, row in enumerate(rows):
        samples = sorted(rounds.samples(row))
        shares = [(place + 1) / len(samples) for place in range(len(samples))]
        axes.step(samples, shares, where="post", label=row, color=_COLOURS[number % len(_COLOURS)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))


def _plain(axes: Axes) -> None:
    """Numbers as they are, and so many that there are some within less than a decade."""
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
