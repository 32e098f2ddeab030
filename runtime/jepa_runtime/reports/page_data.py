"""The data of a page: the numbers that its pictures draw, embedded as JSON in a ``<script>`` element.

The element has the type ``application/json`` and the id ``data``, so browsers do not execute it, and programs
find it. It holds an object whose ``report`` names the kind of page.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from jepa_runtime.errors import SourceError

_OPEN, _CLOSE = "<script type='application/json' id='data'>", "</script>"
# Characters with a meaning in markup.
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&"}


def json_data(value: Any) -> Any:
    """Convert dataclasses, arrays and pydantic models to JSON data; numbers that are not finite are None."""
    if isinstance(value, BaseModel):
        return json_data(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return json_data(value.value)
    if isinstance(value, Mapping):
        return {str(key): json_data(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_data(value.tolist())
    if isinstance(value, list | tuple):
        return [json_data(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def element(data: Mapping[str, Any]) -> str:
    """Return the element that embeds ``data`` in a page."""
    text = json.dumps(json_data(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPES.items():
        text = text.replace(character, escaped)
    return f"{_OPEN}{text}{_CLOSE}"


def read_page_data(page: Path) -> dict[str, Any]:
    """Return the data embedded in a page.

    Raises:
        SourceError: The file cannot be read, or is not a page of this package.
    """
    try:
        found = re.search(f"{_OPEN}(.*?){_CLOSE}", page.read_text(encoding="utf-8"), re.DOTALL)
        data = None if found is None else json.loads(found[1])
    except (OSError, ValueError) as error:
        raise SourceError(f"{page}: cannot be read: {error}", code="report.page_unreadable") from error
    if not isinstance(data, dict):
        raise SourceError(
            f"{page} has no embedded data: use a page that --html has written", code="report.no_page_data"
        )
    return data
