"""The strict JSON reader: each violation has its own code, and names the document and the field."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from jepa_runtime.errors import StrictJsonError
from jepa_runtime.util.strict_json import parse_json, parse_json_as, validate_json
from tests.errors import code


class Point(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    x: int
    y: int = 0


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b"", "json.invalid"),
        (b'{"x": 1', "json.invalid"),
        (b'{"x": 1, "x": 2}', "json.invalid"),
        (b'{"x": NaN}', "json.invalid"),
        (b'{"x": -Infinity}', "json.invalid"),
        (b'{"x": 1e999}', "json.invalid"),
        (b'{"x": "\xff"}', "json.not_utf8"),
        (b"[" * 101 + b"]" * 101, "json.nested_too_deeply"),
        (b"[" * 500_000, "json.nested_too_deeply"),
    ],
)
def test_parse_json_rejects_what_is_not_strict(document: bytes, expected: str) -> None:
    with pytest.raises(StrictJsonError, check=code(expected)) as caught:
        parse_json(document, "file.json")
    assert str(caught.value).startswith("file.json: ")


def test_parse_json_ignores_brackets_in_strings() -> None:
    text = "[" * 200
    assert parse_json(json.dumps([text]).encode(), "file.json") == [text]


@pytest.mark.parametrize("model", [Point, TypeAdapter(Point)])
def test_parse_json_as_returns_the_model(model: type[Point] | TypeAdapter[Point]) -> None:
    assert parse_json_as(model, b'{"x": 1}', "file.json") == Point(x=1)


@pytest.mark.parametrize(
    ("document", "named"), [(b'{"x": "1"}', "x: "), (b"{}", "x: "), (b'{"x": 1, "z": 2}', "z: ")]
)
def test_parse_json_as_names_the_invalid_field(document: bytes, named: str) -> None:
    with pytest.raises(StrictJsonError, check=code("json.field_invalid")) as caught:
        parse_json_as(Point, document, "file.json")
    assert f"file.json: {named}" in str(caught.value)


def test_validate_json_uses_the_message_for_unknown_fields() -> None:
    with pytest.raises(StrictJsonError, check=code("json.field_invalid")) as caught:
        validate_json(Point, b'{"x": 1, "yy": 2}', "file.json", lambda place: f"did you mean {place[-1]}?")
    assert "yy: did you mean yy?" in str(caught.value)


def test_many_invalid_fields_are_reported_in_one_short_line() -> None:
    document = json.dumps({f"field{number}": number for number in range(50)} | {"x": 1}).encode()
    with pytest.raises(StrictJsonError, check=code("json.field_invalid")) as caught:
        parse_json_as(Point, document, "file.json")
    assert str(caught.value).endswith("and 45 more")
