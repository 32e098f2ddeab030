"""A strict JSON reader: UTF-8, no duplicate keys, no NaN or infinity, bounded nesting.

Each reader of a file or message catches :class:`StrictJsonError` at its own edge and raises the error of its
package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from pydantic import TypeAdapter, ValidationError

from jepa_runtime.errors import StrictJsonError

_T = TypeVar("_T")
# Return the message for an unknown field, given its location in the document.
UnknownField = Callable[[tuple[str | int, ...]], str]

_MAX_PROBLEMS = 5
# Arrays and objects. Python's own limit differs between versions.
_MAX_NESTING = 100
# A string, which may be unterminated, or a bracket.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
# The error types of pydantic models and of pydantic dataclasses.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def parse_json(data: bytes, where: str) -> Any:
    """Parse strict JSON: UTF-8, no duplicate keys, no NaN or infinity, at most 100 levels of nesting.

    Args:
        data: The document.
        where: The name of the document in error messages.

    Raises:
        StrictJsonError: The document violates one of these rules.
    """
    try:
        text = data.decode("utf-8")
        if _nesting(text) > _MAX_NESTING:
            raise StrictJsonError(
                f"{where}: nested too deeply (more than {_MAX_NESTING} levels)",
                code="json.nested_too_deeply",
            )
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise StrictJsonError(
            f"{where}: not UTF-8 (byte {error.start}): the file is damaged", code="json.not_utf8"
        ) from error
    except ValueError as error:
        raise StrictJsonError(f"{where}: not strict JSON: {error}", code="json.invalid") from error


def parse_json_as(
    model: type[_T] | TypeAdapter[_T], data: bytes, where: str, unknown: UnknownField | None = None
) -> _T:
    """Parse strict JSON into a pydantic model or dataclass.

    Args:
        model: The type, or an adapter of it.
        data: The document.
        where: The name of the document in error messages.
        unknown: Returns the message for an unknown field.

    Raises:
        StrictJsonError: The document is not strict JSON, or a field is missing, unknown or invalid.
    """
    parse_json(data, where)
    return validate_json(model, data, where, unknown)


def validate_json(
    model: type[_T] | TypeAdapter[_T], data: bytes, where: str, unknown: UnknownField | None = None
) -> _T:
    """Convert a document that :func:`parse_json` has accepted to a pydantic model or dataclass.

    Args:
        model: The type, or an adapter of it.
        data: The document.
        where: The name of the document in error messages.
        unknown: Returns the message for an unknown field.

    Raises:
        StrictJsonError: A field is missing, unknown or invalid.
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise StrictJsonError(
            f"{where}: {describe_problems(error, unknown)}", code="json.field_invalid"
        ) from error


def describe_problems(error: ValidationError, unknown: UnknownField | None = None) -> str:
    """Return the invalid fields and the reasons, in one line.

    Args:
        error: What pydantic raised.
        unknown: Returns the message for an unknown field.
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


def shorten(value: object, *, quote: bool = True) -> str:
    """Return the value as text of at most 80 characters."""
    text = repr(value) if quote else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _nesting(text: str) -> int:
    depth = deepest = 0
    for token in _TOKEN.findall(text):
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


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
        raise ValueError(f"{shorten(text, quote=False)} exceeds the range of a float")
    return value
