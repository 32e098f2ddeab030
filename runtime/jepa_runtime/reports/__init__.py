"""Reports as self-contained HTML pages, on one page template and one chart module."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.reports.html import (
        Html,
        Section,
        block,
        bullets,
        card,
        escape,
        facts,
        figure,
        note,
        numbers,
        page,
        section,
        words,
    )
    from jepa_runtime.reports.latency_charts import timeline
    from jepa_runtime.reports.latency_page import LatencyReport, render_latency
    from jepa_runtime.reports.page_data import read_page_data
    from jepa_runtime.reports.profile_page import render_profile
    from jepa_runtime.reports.route_page import render_route
    from jepa_runtime.reports.run_figure import draw_run
    from jepa_runtime.reports.run_page import render_run
    from jepa_runtime.reports.svg_plot import Plot, empty, line, nice, rect, text
    from jepa_runtime.reports.whatif_page import render_whatif
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "html": [
                "Html",
                "Section",
                "block",
                "bullets",
                "card",
                "escape",
                "facts",
                "figure",
                "note",
                "numbers",
                "page",
                "section",
                "words",
            ],
            "latency_charts": ["timeline"],
            "latency_page": ["LatencyReport", "render_latency"],
            "page_data": ["read_page_data"],
            "profile_page": ["render_profile"],
            "route_page": ["render_route"],
            "run_figure": ["draw_run"],
            "run_page": ["render_run"],
            "svg_plot": ["Plot", "empty", "line", "nice", "rect", "text"],
            "whatif_page": ["render_whatif"],
        },
    )

__all__ = [
    "Html",
    "LatencyReport",
    "Plot",
    "Section",
    "block",
    "bullets",
    "card",
    "draw_run",
    "empty",
    "escape",
    "facts",
    "figure",
    "line",
    "nice",
    "note",
    "numbers",
    "page",
    "read_page_data",
    "rect",
    "render_latency",
    "render_profile",
    "render_route",
    "render_run",
    "render_whatif",
    "section",
    "text",
    "timeline",
    "words",
]
