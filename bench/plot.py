"""The plot: `python -m bench.plot FOLDER < figures.json`, run by the peers' environment, which has matplotlib.

Reads a list of {name, cpu_us, least, greatest, is_ours}; writes performance.png and performance.svg.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "performance"

from matplotlib import pyplot  # noqa: E402

OURS, OTHERS = "#1f6f8b", "#b8b8b8"


def draw(folder: Path, bars: list[dict[str, object]]) -> None:
    bars = sorted(bars, key=lambda bar: float(str(bar["cpu_us"])), reverse=True)
    values = [float(str(bar["cpu_us"])) for bar in bars]
    below = [value - float(str(bar["least"])) for value, bar in zip(values, bars, strict=True)]
    above = [float(str(bar["greatest"])) - value for value, bar in zip(values, bars, strict=True)]
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(bars) + 1.2), layout="constrained")
    drawn = axes.barh(
        [str(bar["name"]) for bar in bars],
        values,
        xerr=[below, above],
        color=[OURS if bar["is_ours"] else OTHERS for bar in bars],
        ecolor="#555555",
        capsize=2,
    )
    axes.bar_label(drawn, labels=[f" {value:,.0f}" for value in values], padding=4)
    axes.set_xscale("log")
    axes.set_xlabel("CPU-microseconds a request (logarithmic; median, least and greatest run)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "performance.png", dpi=110)
    figure.savefig(folder / "performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), json.load(sys.stdin))
