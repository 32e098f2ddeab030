"""Decisions of the hawkBit agent, without a server and a robot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jepa_runtime.errors import ReleaseRejectedError, StorageError
from jepa_runtime.ota.hawkbit import ddi_mapping, saved_state
from jepa_runtime.ota.hawkbit.ddi_messages import Deployment
from jepa_runtime.ota.hawkbit.saved_state import Answer, Order, SavedState
from jepa_runtime.ota.state import ChannelRelease, Installed, Phase, Rejection, State
from jepa_runtime.ota.state_machine import DROPPABLE
from tests.errors import code
from tests.ota.hawkbit.ddi_server import ATTRIBUTE
from tests.ota.robots import release, settings

ORDER = Order(action="5", version="2.0.0", fetch=True, switch=True, only_fetch=False, confirmed=True)
ANSWER = Answer(execution="closed", finished="success", details=("2.0.0 serves",))


def installed(version: str) -> Installed:
    return Installed(
        channel="stable", model_id="toy", version=version, release_seq=2, manifest_sha256="1" * 64
    )


def deployment(*names: str, update: str = "forced", window: str | None = None) -> Deployment:
    chunks = [{"name": name, "version": version} for name, version in (one.split() for one in names)]
    fields = {"download": "forced", "update": update, "chunks": chunks, "maintenanceWindow": window}
    return Deployment.model_validate(fields)


@pytest.mark.parametrize(
    ("update", "window", "switch", "only_fetch"),
    [
        ("forced", None, True, False),
        ("attempt", None, True, False),
        ("skip", None, False, True),
        ("skip", "unavailable", False, False),
        ("forced", "unavailable", False, False),
        ("attempt", "available", True, False),
    ],
)
def test_deployment_mode_determines_how_far_the_update_goes(
    update: str, window: str | None, switch: bool, only_fetch: bool
) -> None:
    request = deployment("toy 2.0.0", "camera 7", update=update, window=window)
    assert ddi_mapping.parse_order("5", request, "toy", confirmed=True) == replace(
        ORDER, switch=switch, only_fetch=only_fetch
    )


@pytest.mark.parametrize("names", [(), ("camera 7",), ("toy 2.0.0", "toy 3.0.0")])
def test_deployment_without_exactly_one_version_of_this_model_is_rejected(names: tuple[str, ...]) -> None:
    with pytest.raises(ReleaseRejectedError, check=code("hawkbit.ambiguous_deployment")):
        ddi_mapping.parse_order("5", deployment(*names), "toy", confirmed=True)


@given(
    phase=st.sampled_from(Phase),
    result=st.sampled_from(["none", "updated", "unchanged", "rejected", "failed", "rolled_back"]),
    current=st.sampled_from(["1.0.0", "2.0.0"]),
    good=st.sampled_from(["1.0.0", "2.0.0"]),
    repository_answered=st.booleans(),
    held=st.booleans(),
)
@example(
    phase=Phase.IDLE, result="failed", current="1.0.0", good="1.0.0", repository_answered=True, held=False
)
@example(
    phase=Phase.IDLE, result="failed", current="1.0.0", good="1.0.0", repository_answered=False, held=True
)
def test_deployment_succeeds_only_after_the_commit(
    phase: Phase, result: str, current: str, good: str, repository_answered: bool, held: bool
) -> None:
    state = State(
        phase=phase,
        result=result,  # type: ignore[arg-type]
        reason="too slow",
        current=installed(current),
        good=installed(good),
        rejections={
            "2" * 64: Rejection(reason="too slow" if held else "NaN", times=1, not_before=None),
            "3" * 64: Rejection(reason="too large", times=1, not_before=None),
        },
    )
    answer = ddi_mapping.conclude(ORDER, state, [], repository_answered=repository_answered)
    is_success = answer is not None and answer.finished == "success"
    assert is_success == (current == good == "2.0.0")
    assert (answer is None) == (not is_success and result == "failed" and not (repository_answered and held))


@given(
    phase=st.sampled_from(Phase),
    reason=st.text(max_size=2000),
    switch=st.booleans(),
    only_fetch=st.booleans(),
)
def test_feedback_during_an_update_is_never_final_and_respects_the_server_limits(
    phase: Phase, reason: str, switch: bool, only_fetch: bool
) -> None:
    order = replace(ORDER, switch=switch, only_fetch=only_fetch)
    execution, details = ddi_mapping.progress(order, State(phase=phase, reason=reason))
    assert execution in ("proceeding", "download", "downloaded", "scheduled")
    assert not (only_fetch and execution == "downloaded")
    assert details and all(0 < len(line) <= 512 for line in details)


@pytest.mark.parametrize("phase", Phase)
def test_cancellation_drops_the_update_or_lets_it_finish_or_finds_none(phase: Phase) -> None:
    state = State(phase=phase)
    assert ddi_mapping.can_drop(state) + ddi_mapping.must_finish(state) + (phase is Phase.IDLE) == 1
    assert ddi_mapping.can_drop(state) == (phase in DROPPABLE)
    assert ddi_mapping.is_ready(replace(ORDER, switch=False), state) == (phase is Phase.ARMED)
    assert not ddi_mapping.is_ready(ORDER, state)


def test_approval_applies_to_one_release() -> None:
    waits = State(phase=Phase.ARMED, candidate=ChannelRelease(channel="stable", release=release()))
    assert not ddi_mapping.is_approved(ORDER, waits)
    assert ddi_mapping.is_approved(ORDER, replace(waits, approved="1" * 64))
    assert not ddi_mapping.is_approved(replace(ORDER, version="3.0.0"), replace(waits, approved="1" * 64))
    assert not ddi_mapping.is_approved(ORDER, State())


@given(
    alarm=st.text(max_size=300), device=st.text(min_size=1, max_size=300).filter(lambda text: "," not in text)
)
def test_attributes_respect_the_server_limits(alarm: str, device: str) -> None:
    reported = ddi_mapping.attributes(
        settings(engine=device), State(alarm=alarm, good=installed("2.0.0")), "1.0"
    )
    assert all(ATTRIBUTE.fullmatch(key) and ATTRIBUTE.fullmatch(value) for key, value in reported.items())
    assert (reported["jepa.version"], reported["jepa.release_seq"]) == ("2.0.0", "2")
    assert (reported["jepa.alarm"] == "none") == (alarm in ("", "none"))


def test_answer_closes_its_own_order_and_only_the_last_answers_are_stored(tmp_path: Path) -> None:
    some = SavedState(order=ORDER)
    assert some.answered("4", ANSWER).order == ORDER
    assert some.answered("5", ANSWER).order is None
    for number in range(200):
        some = some.answered(str(number), ANSWER)
    assert len(some.answers) == 16 and "199" in some.answers
    saved_state.save(tmp_path / "kept", some)
    assert saved_state.load(tmp_path / "kept") == some
    assert saved_state.load(tmp_path / "nothing") == SavedState()


def test_stored_order_of_a_later_version_with_extra_fields_is_read(tmp_path: Path) -> None:
    path, some = tmp_path / "kept", SavedState(order=ORDER)
    saved_state.save(path, some)
    fields = json.loads(path.read_text())
    fields["later"] = fields["order"]["later"] = 1
    path.write_text(json.dumps(fields))
    assert saved_state.load(path) == some


@given(content=st.binary(max_size=200))
def test_stored_orders_round_trip_or_are_discarded(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("kept") / "hawkbit.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, check=code("hawkbit.state_damaged")):
        saved_state.load(path)
