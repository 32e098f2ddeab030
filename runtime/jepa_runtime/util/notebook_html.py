"""Small tables with curves for notebooks: what ``_repr_html_`` of the public classes returns.

Lines and text take the color of the notebook, light or dark. Text is escaped: a bundle chooses its names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _MARGIN = 240, 40, 4
_LEFT = "style='text-align: left'"


def table(title: str, rows: Mapping[str, object], curves: Mapping[str, Sequence[float]] | None = None) -> str:
    """Return a table as HTML.

    Args:
        title: The title.
        rows: Values by name.
        curves: Values of each step by name, each drawn as a curve between its first and its last value.
    """
    cells = {name: escape(str(value)) for name, value in rows.items()}
    cells |= {name: _curve(values, name) for name, values in (curves or {}).items()}
    body = "".join(
        f"<tr><th {_LEFT}>{escape(name)}</th><td {_LEFT}>{cell}</td></tr>" for name, cell in cells.items()
    )
    return f"<table><caption {_LEFT}><b>{escape(title)}</b></caption><tbody>{body}</tbody></table>"


def _curve(values: Sequence[float], name: str) -> str:
    """Draw values, at least one; those that are not finite are gaps."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    x_step = (_WIDTH - 2 * _MARGIN) / max(len(values) - 1, 1)
    y_scale = (_HEIGHT - 2 * _MARGIN) / (high - low or 1.0)
    path, connected = "", False
    for index, value in enumerate(values):
        if math.isfinite(value):
            point = f"{_MARGIN + index * x_step:.1f} {_HEIGHT - _MARGIN - (value - low) * y_scale:.1f}"
            # A line of no length is drawn as a point.
            path += f"L{point}" if connected else f"M{point}L{point}"
        connected = math.isfinite(value)
    return (
        f"{values[0]:.4g} <svg role='img' aria-label='{escape(name)}' width='{_WIDTH}' height='{_HEIGHT}' "
        f"style='vertical-align: middle'><path d='{path}' fill='none' stroke='currentColor' "
        f"stroke-width='2' stroke-linecap='round'/></svg> {values[-1]:.4g}"
    )
