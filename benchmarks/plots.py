"""``python -m benchmarks.plots``, by the interpreter of .venv-bench: docs/throughput.svg and docs/latency.svg from the results.

The same results give the same bytes. Colours are between light and dark, on no ground of their own, so that both pages show
them well.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import DIRECTORY, Cell, read_all

DOCS = Path(__file__).parents[1] / "docs"
_TEXT = "#7d8590"
_GRID = "#7d859055"
_OURS, _CEILING, _OTHERS = "#3b82f6", "#9aa4b2", ("#e08a3c", "#c0679b", "#5aa469", "#a08bd6")
_STYLE = {
    "svg.hashsalt": "larder",
    "font.size": 10,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _GRID,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def main() -> int:
    """Draw what there are results for."""
    results = read_all(DIRECTORY)
    with mpl.rc_context(_STYLE):
        if "reads" in results:
            rows = [row for row in results["reads"].rows if row["workload"] == "GET" and row["requests/s"] is not None]
            _save(throughput(rows), "throughput")
        if "latency" in results:
            _save(latency([row for row in results["latency"].rows if _curve(row)]), "latency")
    return 0


def throughput(rows: Sequence[Mapping[str, Cell]]) -> Figure:
    """Draw bars: the median of each contender, with the least and the most of its rounds."""
    rows = sorted(rows, key=lambda row: _number(row["requests/s"]))
    rates = [_number(row["requests/s"]) for row in rows]
    spread = [
        [rate - _number(row["least"]) for rate, row in zip(rates, rows, strict=True)],
        [_number(row["most"]) - rate for rate, row in zip(rates, rows, strict=True)],
    ]
    figure = Figure(figsize=(8.4, 0.5 * len(rows) + 1.1), layout="constrained")
    axes = figure.add_subplot()
    labels = [str(row["contender"]) for row in rows]
    axes.barh(labels, rates, color=[_colour(label, 0) for label in labels], xerr=spread, ecolor=_TEXT, capsize=3, height=0.62)
    for place, (rate, row) in enumerate(zip(rates, rows, strict=True)):
        axes.annotate(f"{rate:,.0f}", (max(rate, _number(row["most"])), place), (6, 0), textcoords="offset points", va="center")
    axes.set_xlabel("cached GET, requests per second (median of the rounds, least to most)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlim(0, max(_number(row["most"]) for row in rows) * 1.14)
    axes.xaxis.grid(visible=True)
    axes.set_axisbelow(True)
    return figure


def latency(rows: Sequence[Mapping[str, Cell]]) -> Figure:
    """Draw curves: milliseconds by percentile; each nine takes as much room as the one before."""
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    ticks = (50.0, 90.0, 99.0, 99.9, 99.99)
    for number, row in enumerate(rows):
        points = [(percent, ms) for percent, ms in _curve(row) if ticks[0] <= percent <= ticks[-1]]
        label = str(row["contender"])
        axes.plot(
            [100 / (100 - percent) for percent, _ in points],
            [ms for _, ms in points],
            color=_colour(label, number),
            label=f"{label}, at {_number(row['rate_per_s']):,.0f}/s",
            linewidth=2,
            marker="o",
            markersize=3.5,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([100 / (100 - tick) for tick in ticks], [f"{tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("share of the answers")
    axes.set_ylabel("come within so many milliseconds")
    axes.grid(visible=True)
    axes.legend()
    return figure


def _curve(row: Mapping[str, Cell]) -> list[tuple[float, float]]:
    points: Any = row.get("percentiles") or row.get("curve") or []
    return [(float(percent), float(ms)) for percent, ms in points]


def _colour(label: str, number: int) -> str:
    if label.startswith("Larder"):
        return _OURS
    return _CEILING if label.startswith("bare") else _OTHERS[number % len(_OTHERS)]


def _number(value: Cell) -> float:
    assert isinstance(value, int | float)  # noqa: S101 - a column of figures
    return float(value)


def _save(figure: Figure, name: str) -> None:
    path = DOCS / f"{name}.svg"
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    # matplotlib leaves blanks at the ends of lines.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    print(f"-> {path}")


if __name__ == "__main__":
    sys.exit(main())
