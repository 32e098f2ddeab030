"""A machine too busy to evaluate a candidate: undecided, and retried soon."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.update import _STATUS
from jepa_runtime.commands.update_view import summary
from jepa_runtime.ota import daemon
from jepa_runtime.ota.health.serving_interface import Health
from jepa_runtime.ota.state import Phase
from tests.ota.robots import Serving, Site

SLOW = {"latency_p99_ms": 20.0}


@pytest.fixture
def busy(tmp_path: Path, bundles: list[Bundle]) -> Site:
    site = Site(tmp_path / "robot", bundles[0])
    site.serving = Serving()
    site.serving.serves = bundles[0]
    site.gate.busy = True
    site.repository.publish(bundles[1], 2, budgets=SLOW)
    return site


def test_candidate_that_cannot_be_evaluated_is_undecided_and_not_rejected(
    busy: Site, bundles: list[Bundle]
) -> None:
    state = busy.update()
    assert (state.result, state.phase, state.alarm) == ("undecided", Phase.IDLE, "")
    assert busy.version == "1.0.0" and busy.slots == 2, "the downloaded files remain for the next attempt"
    assert _STATUS[state.result] == 4 and summary(state).startswith("undecided; active model: toy 1.0.0")
    assert daemon.pause_s(state, 3600.0) == 300.0
    (refusal,) = state.rejections.values()
    assert (refusal.times, refusal.undecided) == (0, 1)


def test_undecided_candidate_is_retried_after_minutes_and_installed_on_a_quieter_machine(busy: Site) -> None:
    busy.update()
    calls = list(busy.gate.calls)
    waits = busy.update()
    assert waits.result == "undecided" and "is undecided until 2026-03-01 12:05 UTC" in waits.reason
    assert busy.gate.calls == calls, "not before the scheduled time"
    busy.clock.sleep(301)
    busy.gate.busy = False
    fetched = list(busy.repository.fetched)
    state = busy.update()
    assert (state.result, busy.version, state.rejections) == ("updated", "2.0.0", {})
    assert busy.repository.fetched == fetched


def test_undecided_candidate_retry_delay_doubles_up_to_an_hour(busy: Site) -> None:
    pauses = []
    for _ in range(7):
        (refusal,) = busy.update().rejections.values()
        assert refusal.not_before is not None
        pauses.append((refusal.not_before - busy.clock.now()) / timedelta(minutes=1))
        busy.clock.sleep(pauses[-1] * 60 + 1)
    assert pauses == [5, 10, 20, 40, 60, 60, 60]


def test_undecided_candidate_is_retried_immediately_on_request(busy: Site) -> None:
    busy.update()
    busy.gate.busy = False
    assert busy.update(retry_rejected=True).result == "updated"


def test_undecided_retry_of_a_model_rolled_back_by_hand_leaves_it_rejected(busy: Site) -> None:
    busy.gate.busy = False
    assert busy.update().result == "updated"
    with busy.opened() as client:
        client.rollback("it drifts")
    busy.gate.busy = True
    assert busy.update(retry_rejected=True).result == "undecided"
    busy.gate.busy = False
    busy.clock.sleep(7200)
    state = busy.update()
    assert (state.result, busy.version) == ("rejected", "1.0.0"), "installed again without a request"
    assert "was rejected: it drifts" in state.reason


def test_rejection_after_undecided_attempts_counts_as_the_first(busy: Site) -> None:
    busy.update()
    busy.clock.sleep(301)
    busy.gate.busy, busy.gate.bad = False, {"2.0.0": "probe"}
    state = busy.update()
    (refusal,) = state.rejections.values()
    assert (state.result, refusal.times, refusal.undecided) == ("rejected", 1, 0)


def test_candidate_is_timed_next_to_the_active_model(busy: Site, bundles: list[Bundle]) -> None:
    busy.update()
    ((budgets, active),) = busy.gate.probed
    assert budgets.latency_p99_ms == 20.0
    assert active is not None and Bundle.open(active).manifest.version == "1.0.0"


def test_candidate_without_a_server_has_its_latency_checked_once_before_the_switch(
    tmp_path: Path, bundles: list[Bundle]
) -> None:
    site = Site(tmp_path / "robot", None)
    site.serving = Serving()
    site.serving.health = lambda: Health()  # type: ignore[method-assign]
    site.repository.publish(bundles[1], 2, budgets=SLOW)
    assert site.update().result == "updated"
    assert [(one.latency_p99_ms, active) for one, active in site.gate.probed] == [(20.0, None), (None, None)]
