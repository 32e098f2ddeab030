"""Draw success against the latency of images, from the committed results of time_charged.py.

Writes docs/time_charged.png: one chart per world, with 95 % intervals. Dashed lines are without latency
compensation, gray ones predict nothing. The orange line is the goal of the benchmark.

usage: python benchmarks/time_charged_picture.py [--output FILE.png]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from readme_tables.models import charged_worlds
from time_charged import GOAL, PLAIN, ratios

from jepa_runtime.util import write_file
from jepa_runtime.visualization.palette import BASELINE, BEST, BOUND, OBSERVED, RULE, TEXT

ROOT = Path(__file__).resolve().parent.parent
_DPI = 110
# Colors by what plans; everything else is a baseline.
_COLORS = {"steering": OBSERVED, "CEM": BEST}
_BASELINE_STYLES = (":", "-.")


def draw(reports: Sequence[dict[str, Any]]) -> bytes:
    """Return the picture of some reports as PNG."""
    with plt.rc_context({"text.color": TEXT.light, "axes.labelcolor": TEXT.light, "font.size": 9}):
        drawing, axes = plt.subplots(
            1,
            len(reports),
            figsize=(4.6 * len(reports), 3.9),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, report in zip(axes[0], reports, strict=True):
            _draw_world(axis, report)
        axes[0][0].set_ylabel("goals reached [%]")
        names = {line.get_label(): line for axis in axes[0] for line in axis.containers}
        columns = min(3, 1 + len(reports))
        drawing.legend(names.values(), names.keys(), loc="outside lower center", ncols=columns, frameon=False)
        drawn = BytesIO()
        drawing.savefig(drawn, dpi=_DPI, format="png")
        plt.close(drawing)
    return drawn.getvalue()


def _draw_world(axis: Any, report: dict[str, Any]) -> None:
    late = [row for row in report["rows"] if row["kind"] == "late"]
    late.sort(key=lambda row: float(row["latency"]))
    baselines = 0
    for name in dict.fromkeys(row["driver"] for row in late):
        rows = [row for row in late if row["driver"] == name]
        planner = name.partition(",")[0] if "," in name else "CEM"
        if "compensated" in name:
            color, style = _COLORS[planner].light, "--" if name.endswith(PLAIN) else "-"
        else:
            color, style = BASELINE.light, _BASELINE_STYLES[baselines % len(_BASELINE_STYLES)]
            baselines += 1
        rates = [100 * row["rate"] for row in rows]
        # At 0 % and 100 %, rounding can put the rate outside its interval.
        below = [max(0.0, rate - 100 * row["interval"][0]) for rate, row in zip(rates, rows, strict=True)]
        above = [max(0.0, 100 * row["interval"][1] - rate) for rate, row in zip(rates, rows, strict=True)]
        axis.errorbar(
            [float(row["latency"]) for row in rows], rates, yerr=[below, above], label=name, color=color,
            linestyle=style, marker="o", markersize=3, elinewidth=0.7, capsize=2,
        )  # fmt: skip
    for judged in list(ratios(report["rows"]))[:1]:
        on_time = next(row["rate"] for row in late if (row["latency"], row["driver"]) == ("0", judged))
        axis.axhline(100 * GOAL * on_time, color=BOUND.light, linewidth=1, zorder=0)
    axis.set_title(report["world"].partition(":")[0].partition(", random")[0], fontsize=10)
    axis.set_xlabel("latency of the images [ms]")
    axis.set_ylim(-3, 103)
    axis.grid(color=RULE.light, linewidth=0.6)
    for side in axis.spines.values():
        side.set_color(RULE.light)


def main() -> int:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "time_charged.png", metavar="FILE")
    write_file(parser.parse_args().output, draw(charged_worlds()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
