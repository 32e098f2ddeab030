"""Tables for notebooks are well-formed and escape all text."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from jepa_runtime.util.notebook_html import table


def test_table_escapes_text() -> None:
    html = table("<i>", {"<b>": "'&\""}, {"'/><script>": [1.0, 2.0]})
    result = ElementTree.fromstring(html)
    assert "".join(result.itertext()).startswith("<i><b>'&\"'/><script>")
    assert {element.tag for element in result.iter()} == {
        *("table", "caption", "b", "tbody", "tr", "th", "td", "svg", "path")
    }


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ([1.0], "M4.0 36.0L4.0 36.0"),
        ([1.0, 3.0], "M4.0 36.0L4.0 36.0L236.0 4.0"),
        ([2.0, 2.0], "M4.0 36.0L4.0 36.0L236.0 36.0"),
        ([0.0, math.nan, 1.0], "M4.0 36.0L4.0 36.0M236.0 4.0L236.0 4.0"),
        ([math.inf, math.nan], ""),
    ],
    ids=["one step", "rising", "constant", "gap", "not finite"],
)
def test_table_draws_curve(values: list[float], path: str) -> None:
    drawn = ElementTree.fromstring(table("", {}, {"energy": values})).find(".//path")
    assert drawn is not None and drawn.get("d") == path
