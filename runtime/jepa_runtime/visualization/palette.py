"""The colors of all images, viewers and reports; each has one meaning everywhere.

The hues are those of Okabe and Ito (jfly.uni-koeln.de/color), which remain distinguishable with all common
forms of color vision deficiency. Their lightness is adapted to the background; a test checks contrast and
distances.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Color:
    """A color as ``#rrggbb``, for light and for dark backgrounds."""

    light: str
    dark: str

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The color for light backgrounds, each channel from 0 to 255."""
        return _rgb(self.light)

    @property
    def rgb_on_dark(self) -> tuple[int, int, int]:
        """The color for dark backgrounds, each channel from 0 to 255."""
        return _rgb(self.dark)


# Backgrounds, text and lines.
PAPER = Color("#ffffff", "#14191f")
TEXT = Color("#1c2430", "#e7ebf0")
SECONDARY_TEXT = Color("#566273", "#a0acbb")
FAINT = Color("#cdd3db", "#3d4754")
RULE = Color("#dde2e9", "#323b47")
CARD = Color("#f5f7fa", "#1c232c")

# Verdicts.
ALERT = Color("#b34700", "#f08c4f")
GOOD = Color("#007f5c", "#2fc49a")

# What was observed.
OBSERVED = Color("#0072b2", "#56b4e9")
# The candidate with the lowest and the one with the highest energy.
BEST = Color("#009e73", "#009e73")
WORST = Color("#c44e00", "#e8702a")
# The prediction for the executed actions, or the candidate nearest to them.
EXECUTED = Color("#cc79a7", "#e8b0d0")
# Error bounds and thresholds.
BOUND = Color("#d08f00", "#f0c030")
# Baselines and everything else that serves as a comparison.
BASELINE = Color("#5f6875", "#6f7a88")

# For series without one of these meanings, in this order.
SERIES = (OBSERVED, BOUND, BEST, EXECUTED, WORST, BASELINE)


def _rgb(text: str) -> tuple[int, int, int]:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
