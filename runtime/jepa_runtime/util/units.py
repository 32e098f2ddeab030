"""Units of actions in their various spellings: ``m/s``, ``meters per second``, ``m s^-1``."""

from __future__ import annotations

import re
from collections import Counter

# The units of REP 103, spelled out.
_SYMBOLS = {
    "meter": "m", "metre": "m", "second": "s", "sec": "s", "radian": "rad", "degree": "deg", "newton": "N",
    "kilogram": "kg", "ampere": "A", "volt": "V", "hertz": "Hz",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁻¹²³", "-123")
_OPERATOR = re.compile(r"\s*(/|[*·.]|\bper\b|\s)\s*")
_FACTOR = re.compile(r"([a-zA-Z]+)\^?(-?\d+)?")


def normalize_unit(unit: str) -> str:
    """Return ``unit`` as a product of powers, the same for all spellings, or unchanged if it is none."""
    spelled = unit.strip().translate(_SUPERSCRIPTS).replace("**", "^").replace("Nm", "N m")
    first, *rest = _OPERATOR.split(spelled)
    powers: Counter[str] = Counter()
    for operator, factor in [("*", first), *zip(rest[::2], rest[1::2], strict=True)]:
        found = _FACTOR.fullmatch(factor)
        if found is None:
            return unit
        word, power = found[1], int(found[2] or 1)
        symbol = _SYMBOLS.get(word.lower().removesuffix("s"), word)
        powers[symbol] += -power if operator in ("/", "per") else power
    return " ".join(f"{symbol}^{power}" for symbol, power in sorted(powers.items()))
