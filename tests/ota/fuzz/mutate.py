"""Mutations of valid documents, determined by a seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

# Values that have broken readers of JSON and of times before.
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1,
    2**64, 10**400, float("nan"), float("inf"), "", " ", "\0", "\ud800", "\u202e", "\u0661", "..",
    "../../etc/passwd", "/etc/passwd", "a/../b", "a//b", "C:\\x", ".", "a" * 300, "a" * 70_000, "0" * 64,
    "f" * 64, "F" * 64, "NaN", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-14:00", "2026-02-30T00:00:00Z", "2026-03-01T12:00:00", "+999999-01-01T00:00:00Z",
    "2026-03-01T24:00:00Z", "PT1S", [], {}, [[]], [None], {"": 0}, [0] * 2000, {"a": {"a": {"a": {}}}},
)  # fmt: skip
_TEXTS = (
    b"", b"null", b"[]", b"{}", b"1", b'"', b"{", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"[" * 100_000,
    b'{"a":' * 50_000, b"1" * 100_000, b"-" + b"9" * 5000, b'{"a":1,"a":2}', b'"\\ud800"', b"1e999999999",
    b"\0" * 4096,
)  # fmt: skip


def mutated(chance: Random, seeds: Sequence[bytes], *, is_json: bool) -> bytes:
    """Return one of ``seeds`` with a few changes: of its tokens if it is JSON, otherwise of its bytes."""
    data = chance.choice(seeds)
    if not is_json:
        return _bytes(chance, data, seeds)
    drawn = chance.random()
    if drawn < 0.01:
        return chance.choice(_TEXTS)
    if drawn < 0.25:
        return _bytes(chance, data, seeds)
    return _tokens(chance, json.loads(data), seeds)


def _tokens(chance: Random, tree: Any, seeds: Sequence[bytes]) -> bytes:
    holder = [tree]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        places = list(_places(holder))
        inside, key = chance.choice(places)
        match chance.randrange(8):
            case 0 | 1 | 2:
                inside[key] = deepcopy(chance.choice(_ODD))
            case 3 if inside is not holder:
                del inside[key]
            case 4:
                other, name = chance.choice(places)
                inside[key] = deepcopy(other[name])
            case 5 if isinstance(inside, dict):
                inside[chance.choice((key.upper(), key + "\0", "", "__class__", "x" * 300))] = deepcopy(
                    inside[key]
                )
            case 6 if isinstance(inside[key], (int, float)):
                inside[key] = inside[key] * chance.choice((-1, 2, 1000))
            case 6 if isinstance(inside[key], str):
                text, at = inside[key], chance.randint(0, len(inside[key]))
                inside[key] = (
                    text[:at] + chance.choice(("", "\0", "/", "..", "é", "\ud800", text)) + text[at + 1 :]
                )
            case _:
                donor = [json.loads(chance.choice(seeds))]
                other, name = chance.choice(list(_places(donor)))
                inside[key] = other[name]
    text = json.dumps(holder[0], ensure_ascii=chance.random() < 0.9, indent=chance.choice((None, None, 1)))
    data = text.encode("utf-8", "surrogatepass")
    if chance.random() < 0.02 and (at := data.find(b'": ')) > 0:
        # A duplicate key.
        first = data.rindex(b'"', 0, at)
        data = data[:first] + data[first : at + 2] + b" 0, " + data[first:]
    return data


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Return every place in a tree: its container and its key."""
    result: list[tuple[Any, Any]] = []
    left = [node]
    while left:
        inside = left.pop()
        keys = list(inside) if isinstance(inside, dict) else range(min(len(inside), 50))
        for key in keys:
            result.append((inside, key))
            if isinstance(inside[key], (dict, list)):
                left.append(inside[key])
    return result


def _bytes(chance: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        start = chance.randint(0, len(content))
        end = min(len(content), start + chance.choice((0, 1, 1, 2, 4, 8, 64, 1024, 1 << 30)))
        length = min(end - start, 4096)
        content[start:end] = chance.choice(
            (
                b"",
                content[start:end] * 2,
                chance.randbytes(length),
                bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF))]) * length,
                bytes(byte ^ 1 << chance.randrange(8) for byte in content[start : start + length]),
                chance.choice((b"\xff" * 8, bytes(8), b"\0\0\0\x80", b"\xff" * 7 + b"\x7f")),
                _piece(chance, seeds),
            )
        )
    return bytes(content)


def _piece(chance: Random, seeds: Sequence[bytes]) -> bytes:
    seed = chance.choice(seeds)
    start = chance.randint(0, len(seed))
    return seed[start : start + chance.choice((1, 8, 64, 512))]
