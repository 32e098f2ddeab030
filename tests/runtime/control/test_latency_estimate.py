"""The latency that candidates state, and what is stopped because of it."""

from __future__ import annotations

import pytest

from jepa_runtime.control.controller import Controller
from jepa_runtime.control.latency_estimate import LatencyEstimate
from jepa_runtime.control.safety_monitor import StopCause
from tests.runtime.control.controllers import HORIZON, STEP_S, World


def test_estimate_follows_a_lasting_change_and_ignores_one_slow_image() -> None:
    estimate = LatencyEstimate()
    assert estimate.value_s == 0.0
    for latency_s in (0.1, 0.1, 0.1, 0.3):
        estimate.add(latency_s)
    assert estimate.value_s == pytest.approx(0.1)
    for _ in range(4):
        estimate.add(0.3)
    assert estimate.value_s == pytest.approx(0.3)


def test_controller_states_the_measured_latency(world: World) -> None:
    assert world.controller.delay_s == 0.0
    world.images(3, age_s=0.3)
    assert world.controller.delay_s == world.controller.latency_s == pytest.approx(0.3)


def test_controller_latency_includes_the_time_until_the_command_is_sent(world: World) -> None:
    def obey(command, stamp_ns):
        world.now_s += 0.05
        return World.obey(world, command, stamp_ns)

    world.obey = obey
    world.images(3, age_s=0.1)
    assert world.controller.delay_s == pytest.approx(0.15)


def test_controller_without_compensation_measures_but_states_none(world: World) -> None:
    model = world.controller._model
    world.controller = Controller(world.monitor, timeout_s=0.5, clock=world.clock, compensate_latency=False)
    world.controller.set_model(model)
    world.images(3, age_s=0.3)
    assert world.controller.delay_s == 0.0 and world.controller.latency_s == pytest.approx(0.3)


@pytest.mark.parametrize("age_s", [3600.0, -3600.0])
def test_controller_clock_jump_does_not_change_the_delay(world: World, age_s: float) -> None:
    world.images(5, age_s=0.1)
    world.images(7, age_s=age_s)
    assert StopCause.OLD in world.monitor.holds and world.decision.command is None
    assert world.controller.delay_s == pytest.approx(0.1)


def test_controller_holds_images_older_than_the_models_horizon(world: World) -> None:
    world.controller.timeout_s = 10.0
    horizon_s = HORIZON * STEP_S
    assert world.images(5, age_s=horizon_s - 0.01).command is not None
    assert world.images(5, age_s=horizon_s + 0.01).command is None
    assert StopCause.OLD in world.monitor.holds and world.controller.delay_s < horizon_s
