"""Colors are readable on their background and distinguishable with color vision deficiencies."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from jepa_runtime.visualization import palette

# Simulation of dichromacy in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
_VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "tritanopia": np.array([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
}
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE = np.array([0.9505, 1.0, 1.089])


def linear(rgb: tuple[int, int, int]) -> NDArray[np.float64]:
    values = np.array(rgb) / 255
    result: NDArray[np.float64] = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    return result


def lab(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB of linear RGB."""
    ratios = _TO_XYZ @ values / _WHITE
    x, y, z = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colors(theme: str) -> list[tuple[int, int, int]]:
    return [color.rgb if theme == "light" else color.rgb_on_dark for color in palette.SERIES]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_series_colors_have_contrast_with_their_background(theme: str) -> None:
    paper = palette.PAPER.rgb if theme == "light" else palette.PAPER.rgb_on_dark
    for color in colors(theme):
        low, high = sorted(float(_TO_XYZ[1] @ linear(each)) for each in (color, paper))
        assert (high + 0.05) / (low + 0.05) > 2.7, color


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", _VISION)
def test_series_colors_are_distinguishable(theme: str, vision: str) -> None:
    seen = [lab(np.clip(_VISION[vision] @ linear(color), 0, 1)) for color in colors(theme)]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 12
