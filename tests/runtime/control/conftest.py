"""Fixtures of the tests of the controller."""

from __future__ import annotations

import pytest

from tests.runtime.control.controllers import World


@pytest.fixture
def world() -> World:
    return World()
