"""Strict JSON: UTF-8, no duplicate keys, no NaN or infinity, bounded nesting."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from pydantic import ValidationError

from jepa_runtime.errors import BundleError

_MAX_PROBLEMS = 5
# Of arrays and objects. Python's own limit differs between its versions.
_MAX_NESTING = 100
# A string, also one without an end, or a bracket.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
# Of a model, and of a dataclass.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def parse_json(data: bytes, where: str) -> Any:
    """Read JSON as it is defined: UTF-8, no key twice, no NaN or infinity, at most 100 levels of nesting.

    Raises:
        BundleError: it is not.
    """
    try:
        text = data.decode("utf-8")
        if _nesting(text) > _MAX_NESTING:
            raise BundleError(f"{where}: nested too deeply (more than {_MAX_NESTING} levels)")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise BundleError(f"{where}: not UTF-8 (byte {error.start}): the file is damaged") from error
    except ValueError as error:
        raise BundleError(f"{where}: not strict JSON: {error}") from error


def _nesting(text: str) -> int:
    depth = deepest = 0
    for token in _TOKEN.findall(text):
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def describe(error: ValidationError, unknown: Callable[[tuple[str | int, ...]], str] | None = None) -> str:
    """What is wrong with which fields, in one line.

    Args:
        unknown: says of a field that there is none, given where it stands.
    """
    problems = []
    found = error.errors(include_url=False, include_input=False, include_context=False)
    for problem in found[:_MAX_PROBLEMS]:
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if unknown is not None and problem["type"] in _UNKNOWN:
            message = unknown(problem["loc"])
        problems.append(f"{shorten(place, quote=False)}: {message}" if place else message)
    more = len(found) - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {shorten(key)} appears twice in one object")
            seen.add(key)
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{shorten(text, quote=False)} is beyond what a float can hold")
    return value


def shorten(value: object, *, quote: bool = True) -> str:
    text = repr(value) if quote else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
