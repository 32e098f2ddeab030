"""A robot of a fleet, its server, and its repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.ota import state
from jepa_runtime.ota.hawkbit.agent import HawkbitAgent
from jepa_runtime.ota.hawkbit.settings import Hawkbit
from jepa_runtime.ota.state import State
from tests.ota.hawkbit.ddi_server import DdiServer
from tests.ota.robots import Serving, Site


class Server(Protocol):
    """Return the hawkBit config of a robot, with its token."""

    @property
    def url(self) -> str: ...

    @property
    def target_token(self) -> str: ...


class Robot(Site):
    """A robot of a fleet with the active model 1.0.0.

    Attributes:
        lines: Its log.
        on_alive: Called at every heartbeat.
    """

    serving: Serving

    def __init__(self, root: Path, bundle: Bundle, server: Server, **fields: Any) -> None:
        super().__init__(root, bundle, hawkbit=Hawkbit(url=server.url), **fields)
        self.serving = Serving()
        self.serving.serves = bundle
        self.lines: list[str] = []
        self.on_alive: Callable[[], None] = lambda: None
        token = root / "hawkbit.token"
        token.write_text(server.target_token + "\n", encoding="ascii")
        token.chmod(0o600)
        self.restart()

    def restart(self) -> None:
        """Continue in another process."""
        self.fleet = HawkbitAgent(
            self.root,
            lambda **more: self.opened(**more),
            log=lambda _, line: self.lines.append(line),
            clock=self.clock,
            now=self.clock.now,
        )

    def round(self) -> float:
        return self.fleet(lambda: self.on_alive())

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.clock.sleep(self.round())

    @property
    def state(self) -> State:
        return state.load(self.root / "state.json")


@pytest.fixture
def ddi() -> Iterator[DdiServer]:
    with DdiServer() as server:
        yield server


@pytest.fixture
def fleet_robot(tmp_path: Path, bundles: list[Bundle], ddi: DdiServer) -> Robot:
    return Robot(tmp_path / "robot", bundles[0], ddi)
