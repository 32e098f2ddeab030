"""Assertions on errors: their stable codes, not their wording."""

from __future__ import annotations

from collections.abc import Callable

from jepa_runtime.errors import CodedError


def code(expected: str) -> Callable[[CodedError], bool]:
    """Return a check for :func:`pytest.raises` that an error has the code ``expected``."""

    def check(error: CodedError) -> bool:
        assert error.code == expected, f"{error.code}: {error}"
        return True

    return check
