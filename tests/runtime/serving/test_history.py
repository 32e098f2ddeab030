"""History: alignment by time, unknown actions, and bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.serving import history as histories
from jepa_runtime.serving.history import History, Reset

STEP_NS = 200_000_000
FRAME_NS = 33_333_333


def make(
    size: int = 1, actions: int = 2, tolerance_ns: int = 20_000_000, max_gap_ns: int = 400_000_000
) -> History:
    return History(size, STEP_NS, action_size=actions, tolerance_ns=tolerance_ns, max_gap_ns=max_gap_ns)


def latent(value: float) -> np.ndarray:
    return np.full((2, 3), value, np.float32)


def test_first_latent_starts_the_history_with_a_reason() -> None:
    history = make()
    assert history.add_latent(5, latent(1)) is Reset.FIRST
    assert history.add_latent(5 + FRAME_NS, latent(2)) is None
    assert history.resets == {
        Reset.FIRST: 1,
        Reset.GAP: 0,
        Reset.CLOCK_BACKWARDS: 0,
        Reset.MODEL: 0,
        Reset.FRAME: 0,
    }


def test_context_of_one_latent_needs_no_actions() -> None:
    history = make()
    history.add_latent(0, latent(7))
    context = history.context()
    assert context is not None
    assert context.latents.shape == (1, 2, 3)
    assert context.actions.shape == (0, 2)


def test_context_before_the_first_latent_is_none() -> None:
    assert make().context() is None
    assert make().previous() is None


def test_mean_action_weights_each_command_by_its_duration() -> None:
    history = make()
    history.add_action(0, np.array([1.0, 0.0]))
    history.add_action(50, np.array([0.0, 4.0]))
    mean = history.mean_action(0, 200)
    assert mean is not None
    np.testing.assert_allclose(mean, [0.25, 3.0])


def test_command_is_in_effect_until_the_next_one() -> None:
    history = make()
    history.add_action(0, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(history.mean_action(10**9, 2 * 10**9), [1.0, 2.0])


def test_mean_action_before_the_first_command_is_unknown() -> None:
    history = make()
    assert history.mean_action(0, 10) is None
    history.add_action(5, np.array([1.0, 1.0]))
    assert history.mean_action(0, 10) is None
    assert history.mean_action(5, 10) is not None


def test_model_without_actions_needs_none() -> None:
    history = make(size=2, actions=0)
    for index in range(13):
        history.add_latent(index * FRAME_NS, latent(index))
    context = history.context()
    assert context is not None
    assert context.actions.shape == (1, 0)


def test_previous_is_the_latent_one_step_ago_with_the_mean_action_since() -> None:
    history = make()
    history.add_action(0, np.array([1.0, 0.0]))
    for index in range(7):
        history.add_latent(index * FRAME_NS, latent(index))
    known = history.previous()
    assert known is not None
    context, action = known
    assert context.latents[0, 0, 0] == 0
    assert context.stamp_ns == 0
    np.testing.assert_allclose(action, [1.0, 0.0])


@pytest.mark.parametrize(("late_ns", "result"), [(20_000_000, True), (20_000_001, False)])
def test_previous_without_a_frame_one_step_ago_is_none(late_ns: int, result: bool) -> None:
    history = make()
    history.add_action(0, np.array([1.0, 0.0]))
    history.add_latent(0, latent(0))
    history.add_latent(STEP_NS + late_ns, latent(1))
    assert (history.previous() is not None) is result


def test_longer_context_has_latents_one_step_apart_and_the_actions_between() -> None:
    history = make(size=3)
    history.add_action(0, np.array([1.0, 0.0]))
    history.add_action(STEP_NS, np.array([2.0, 0.0]))
    for index in range(13):
        history.add_latent(index * FRAME_NS, latent(index))
    context = history.context()
    assert context is not None
    assert context.latents[:, 0, 0].tolist() == [0, 6, 12]
    np.testing.assert_allclose(context.actions[:, 0], [1.0, 2.0], atol=1e-6)


def test_gap_resets_the_history_but_keeps_the_commands() -> None:
    history = make()
    history.add_action(0, np.array([1.0, 0.0]))
    history.add_latent(0, latent(0))
    assert history.add_latent(400_000_001, latent(1)) is Reset.GAP
    assert len(history) == 1
    history.add_latent(600_000_001, latent(2))
    previous = history.previous()
    assert previous is not None and previous[0].latents[0, 0, 0] == 1


def test_clock_set_back_resets_the_history_with_the_command_in_effect() -> None:
    history = make()
    history.add_action(0, np.array([1.0, 0.0]))
    history.add_action(100, np.array([2.0, 0.0]))
    history.add_latent(100, latent(0))
    assert history.add_latent(50, latent(1)) is Reset.CLOCK_BACKWARDS
    assert history.mean_action(49, 60) is None, "the commands in effect belong to another timeline"
    np.testing.assert_array_equal(history.mean_action(50, 60), [2.0, 0.0])
    assert history.resets[Reset.CLOCK_BACKWARDS] == 1


def test_clock_set_back_before_the_first_command_has_no_command() -> None:
    history = make()
    history.add_latent(100, latent(0))
    assert history.add_latent(99, latent(1)) is Reset.CLOCK_BACKWARDS
    assert history.mean_action(99, 100) is None


def test_past_context_covers_the_steps_to_the_same_moment_at_any_rate() -> None:
    history = History(2, STEP_NS, action_size=1, tolerance_ns=STEP_NS // 8, max_gap_ns=2 * STEP_NS, reach=8)
    history.add_action(0, np.array([1.0]))
    for frame in range(60):
        history.add_latent(round(frame * 1e9 / 23), latent(frame))
    assert history.past_context(8) is not None


def test_past_context_reaches_back_over_any_number_of_frames_and_commands() -> None:
    step_ns = 1_000_000_000
    history = History(2, step_ns, action_size=1, tolerance_ns=step_ns // 8, max_gap_ns=2 * step_ns, reach=8)
    for millisecond in range(10_000):
        now = millisecond * 1_000_000
        history.add_action(now, np.array([float(millisecond % 2)]))
        if millisecond % 10 == 0:
            history.add_latent(now, latent(now / step_ns))
    result = history.past_context(8)
    assert result is not None and history.context() is not None
    np.testing.assert_allclose(result.actions, 0.5, atol=0.01)
    for step, arrived in enumerate(result.arrived):
        assert arrived is not None
        np.testing.assert_allclose(arrived, 9.99 - 7 + step, atol=0.02)


def test_equal_stamp_replaces_the_latent() -> None:
    history = make()
    for count, stamp_ns in enumerate((100, 100 + FRAME_NS), start=1):
        history.add_latent(stamp_ns, latent(0))
        assert history.add_latent(stamp_ns, latent(count)) is None
        context = history.context()
        assert len(history) == count
        assert context is not None and context.latents[0, 0, 0] == count


@pytest.mark.parametrize("action", [[1.0], [1.0, np.nan], [1.0, 2.0, 3.0], [np.inf, 0.0]])
def test_action_of_another_size_or_not_finite_is_rejected(action: list[float]) -> None:
    with pytest.raises(ValueError, match="2 finite numbers"):
        make().add_action(0, np.array(action))


def test_action_is_copied() -> None:
    history, action = make(), np.array([1.0, 0.0], np.float32)
    history.add_action(0, action)
    action[0] = 9.0
    np.testing.assert_array_equal(history.mean_action(0, 1), [1.0, 0.0])


@pytest.mark.parametrize(
    "change",
    [{"history_size": 0}, {"step_ns": 0}, {"action_size": -1}, {"tolerance_ns": STEP_NS}, {"max_gap_ns": 0}],
)
def test_invalid_settings_are_rejected(change: dict[str, int]) -> None:
    settings = {
        "history_size": 1,
        "step_ns": STEP_NS,
        "action_size": 2,
        "tolerance_ns": 1,
        "max_gap_ns": STEP_NS,
    }
    with pytest.raises(ValueError, match=next(iter(change))):
        History(**{**settings, **change})


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=80))
def test_context_never_spans_a_discontinuity_for_any_stamps(stamps: list[int]) -> None:
    history = make(size=2, actions=0)
    previous = None
    for stamp in stamps:
        reset = history.add_latent(stamp, latent(float(stamp % 1000)))
        if previous is None:
            assert reset is Reset.FIRST
        elif stamp < previous:
            assert reset is Reset.CLOCK_BACKWARDS
        else:
            assert (reset is Reset.GAP) == (stamp - previous > history.max_gap_ns)
        if reset is not None:
            assert history.context() is None
            assert history.previous() is None
        previous = stamp
    assert sum(history.resets.values()) >= 1


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(-5, 5, width=32)), min_size=1, max_size=30),
    st.integers(0, 1000),
    st.integers(1, 500),
)
def test_mean_action_is_the_integral_of_the_commands_in_effect(
    commands: list[tuple[int, float]], start: int, length: int
) -> None:
    history = make(actions=1)
    known: list[tuple[int, float]] = []
    for stamp, value in commands:
        history.add_action(stamp, np.array([value]))
        # Earlier entries with a later stamp belong to another timeline.
        known = [(earlier, value_then) for earlier, value_then in known if earlier < stamp] + [(stamp, value)]
    mean = history.mean_action(start, start + length)
    if known[0][0] > start:
        assert mean is None
        return
    in_effect = [
        next(value for stamp, value in reversed(known) if stamp <= moment)
        for moment in range(start, start + length)
    ]
    assert mean is not None
    np.testing.assert_allclose(mean[0], np.mean(in_effect), atol=1e-4)


@given(st.lists(st.integers(1, 60_000_000), min_size=1, max_size=1500), st.integers(1, 4))
def test_history_memory_is_bounded(periods: list[int], size: int) -> None:
    history = make(size=size)
    now = 0
    for period in periods:
        now += period
        history.add_action(now, np.zeros(2))
        history.add_latent(now, latent(0))
    assert len(history) <= 514
    oldest = now - size * STEP_NS - 2 * history.tolerance_ns
    assert history._stamps[0] >= oldest
    assert all(stamp > oldest for stamp in history._action_stamps[1:])


def test_history_memory_is_bounded_with_nearly_constant_time() -> None:
    history = make()
    for now in range(6000):
        history.add_action(now, np.zeros(2))
        history.add_latent(now, latent(now))
    assert len(history) == 2 and history._latents[-1][0, 0] == 5999
    for now in range(6000, 50_000):
        history.add_action(now, np.zeros(2))
    assert len(history._actions) <= 32768


def reaching(steps: int, size: int = 1) -> History:
    """Return a history with a frame every 0.1 s, numbered by its latent, and a command with that number."""
    history = History(
        size, STEP_NS, action_size=1, tolerance_ns=20_000_000, max_gap_ns=2 * STEP_NS, reach=steps
    )
    for frame in range(40):
        history.add_action(frame * STEP_NS // 2, np.array([float(frame)]))
        history.add_latent(frame * STEP_NS // 2, latent(frame))
    return history


@pytest.mark.parametrize("size", [1, 3])
def test_past_context_combines_earlier_latents_executed_actions_and_arrived_latents(size: int) -> None:
    result = reaching(4, size).past_context(4)
    assert result is not None
    assert result.context.stamp_ns == 31 * STEP_NS // 2
    assert result.context.latents[:, 0, 0].tolist() == [31.0 - 2 * back for back in range(size - 1, -1, -1)]
    assert result.actions.tolist() == [[31.5], [33.5], [35.5], [37.5]]
    assert [None if arrived is None else arrived[0, 0] for arrived in result.arrived] == [33, 35, 37, 39]


def test_past_context_beyond_the_reach_or_known_actions_is_none() -> None:
    assert reaching(4).past_context(5) is None
    unknown = History(1, STEP_NS, action_size=1, tolerance_ns=20_000_000, max_gap_ns=2 * STEP_NS, reach=2)
    assert unknown.past_context(1) is None
    for frame in range(10):
        unknown.add_latent(frame * STEP_NS, latent(frame))
    assert unknown.past_context(2) is None, "the executed action is unknown"


def test_past_context_lost_frame_is_none() -> None:
    history = History(1, STEP_NS, action_size=1, tolerance_ns=20_000_000, max_gap_ns=2 * STEP_NS, reach=3)
    history.add_action(0, np.array([1.0]))
    for step in (0, 1, 3):
        history.add_latent(step * STEP_NS, latent(step))
    result = history.past_context(3)
    assert result is not None
    assert [arrived is None for arrived in result.arrived] == [False, True, False]
    assert result.actions.tolist() == [[1.0]] * 3


def test_history_with_reach_is_bounded() -> None:
    history = reaching(4)
    assert len(history) == 9
    end_ns = 39 * STEP_NS // 2
    oldest_ns = end_ns - 4 * STEP_NS - 40_000_000
    assert history.mean_action(oldest_ns, end_ns) is not None
    assert history.mean_action(oldest_ns - STEP_NS // 2, end_ns) is None
    with pytest.raises(ValueError, match="reach must be at least 1"):
        reaching(0)


@pytest.mark.parametrize(("count", "kept_from"), [(6, 0), (8, 0), (20, 12)])
def test_history_with_too_many_actions_retains_the_latest(
    count: int, kept_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(histories, "_MAX_ACTIONS", 8)
    history = make()
    for number in range(count):
        history.add_action(10 * number, np.full(2, number, np.float32))
    assert history.mean_action(10 * kept_from - 1, 10 * count) is None
    np.testing.assert_allclose(
        history.mean_action(10 * kept_from, 10 * count), np.mean(range(kept_from, count))
    )


def test_mean_action_over_no_time_is_none() -> None:
    history = make()
    for stamp_ns in (0, 10, 20):
        history.add_action(stamp_ns, np.ones(2))
    assert history.mean_action(15, 15) is None and history.mean_action(15, 5) is None


def test_history_of_a_swapped_model_takes_the_actions_and_leaves_them_to_the_previous() -> None:
    before, after = make(), make()
    before.add_action(0, np.array([1.0, 0.0]))
    before.add_action(100, np.array([3.0, 0.0]))
    after.adopt_actions(before)
    after.add_action(200, np.array([5.0, 0.0]))
    assert after.add_latent(300, latent(1)) is Reset.MODEL
    for history, mean in ((after, [3, 0]), (before, [7 / 3, 0])):
        np.testing.assert_allclose(history.mean_action(0, 300), mean, rtol=1e-6)


def test_single_action_stays_in_effect_when_the_clock_is_set_back() -> None:
    history = make()
    history.add_action(0, np.array([1.0, 2.0]))
    history.add_latent(100, latent(1))
    assert history.add_latent(50, latent(2)) is Reset.CLOCK_BACKWARDS
    assert history.mean_action(40, 60) is None
    np.testing.assert_array_equal(history.mean_action(50, 60), [1.0, 2.0])


def test_magnitude_of_alternating_actions_is_not_that_of_their_mean() -> None:
    history = make()
    for index in range(8):
        history.add_action(index * STEP_NS // 4, np.array([(-1.0) ** index, 0.5], np.float32))
    history.add_latent(2 * STEP_NS, latent(1))
    assert history.mean_action(STEP_NS, 2 * STEP_NS) == pytest.approx([0.0, 0.5])
    assert history.mean_magnitude() == pytest.approx([1.0, 0.5])
    assert make().mean_magnitude() is None


def test_reset_history_drops_its_latents_and_states_the_reason() -> None:
    history = make()
    history.add_latent(0, latent(1))
    history.restart(Reset.FRAME)
    assert history.add_latent(FRAME_NS, latent(2)) is Reset.FRAME
    assert len(history) == 1 and history.resets[Reset.FRAME] == 1


def test_state_nearest_to_a_latent_is_part_of_the_context() -> None:
    history = History(1, 1000, action_size=0, tolerance_ns=100, max_gap_ns=2000, state_size=2)
    history.add_latent(0, np.zeros((1, 1), np.float32))
    assert history.context() is None
    for stamp_ns in (-101, -60, 50, 200):
        history.add_state(stamp_ns, np.full(2, stamp_ns))
    context = history.context()
    assert context is not None and context.states is not None
    assert context.states.tolist() == [[50.0, 50.0]]
    history.add_latent(1000, np.zeros((1, 1), np.float32))
    assert history.context() is None


def test_state_of_the_wrong_size_or_not_finite_is_rejected() -> None:
    history = History(1, 1000, action_size=0, tolerance_ns=100, max_gap_ns=2000, state_size=2)
    for state in (np.zeros(3), np.array([0.0, np.nan])):
        with pytest.raises(ValueError, match="state must be 2 finite numbers"):
            history.add_state(0, state)
