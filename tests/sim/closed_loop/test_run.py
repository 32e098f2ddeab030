"""Closed-loop evaluation: every variant and baseline has the same episodes, in turns."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError, BundleError, WorldError
from jepa_sim.closed_loop.episodes import Driver, Policy, episode_seeds
from jepa_sim.closed_loop.run import ClosedLoop, Plan, closed_loop, progress
from jepa_sim.worlds import TwoRooms
from jepa_sim.worlds.interface import World
from tests.bundles import HORIZON, make_bundle
from tests.errors import code
from tests.sim.closed_loop.planes import MappedPlane, Plane

BRIEF = Plan(seeds=(0, 3), episodes=2, films=1)


@pytest.fixture(scope="module")
def plane() -> MappedPlane:
    return MappedPlane()


@pytest.fixture(scope="module")
def evaluated(toy_bundle: Path, plane: MappedPlane) -> ClosedLoop:
    return closed_loop(Bundle.open(toy_bundle), plane, BRIEF)


def test_every_precision_and_baseline_drives_the_same_episodes_in_turn(
    evaluated: ClosedLoop, plane: MappedPlane
) -> None:
    assert list(evaluated.drives) == ["fp32", "fp16", "straight_line", "random"]
    seeds = episode_seeds((0, 3), 2)
    for drive in evaluated.drives.values():
        assert [episode.seed for episode in drive.episodes] == seeds
    assert plane.resets[1:] == [seed for seed in seeds for _ in evaluated.drives]


def test_first_episodes_are_stored_with_every_decided_frame(evaluated: ClosedLoop) -> None:
    for drive in evaluated.drives.values():
        (film,) = drive.films
        assert film.episode == drive.episodes[0]
        assert len(film.frames) == len(film.episode.plan_ms)
        assert film.goal.shape == film.frames[0].shape


def test_variants_are_compared_with_the_first_and_written_to_json(evaluated: ClosedLoop) -> None:
    report = json.loads(json.dumps(evaluated.as_dict(), allow_nan=False))
    assert list(report["scores"]) == list(evaluated.drives) and report["against"] == "fp32"
    assert list(report["differences"]) == ["fp16", "straight_line", "random"]
    assert report["scores"]["random"]["outcomes"].keys() == {"reached", "wrong_place", "timeout"}
    assert report["scores"]["fp32"]["plan_ms_p50"] > 0 and len(report["sha256"]) == 64
    assert report["engines"].keys() == {"openvino:CPU"} and report["machine"]["cpu"]["model"]
    assert report["planner"]["search"]["horizon"] == HORIZON


def test_equal_seeds_have_equal_outcomes(evaluated: ClosedLoop, toy_bundle: Path) -> None:
    again = closed_loop(Bundle.open(toy_bundle), MappedPlane(), BRIEF)
    assert again.goals == evaluated.goals
    assert [each.distance for each in again.drives["fp16"].episodes] == [
        each.distance for each in evaluated.drives["fp16"].episodes
    ]


def test_engines_are_named_if_there_are_several_and_fp32_is_first(toy_bundle: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra dev)")
    plan = Plan(engines=("openvino:CPU", "onnxruntime:CPU"), seeds=(0,), episodes=1, baselines=False)
    evaluated = closed_loop(Bundle.open(toy_bundle), Plane(max_steps=1), plan)
    assert list(evaluated.drives) == ["openvino:CPU fp32", "onnxruntime:CPU fp32", "openvino:CPU fp16"]
    assert evaluated.engines.keys() == {"openvino:CPU", "onnxruntime:CPU"}


def test_additional_drivers_are_compared_and_every_episode_is_reported(toy_bundle: Path) -> None:
    def at_once(_world: World, _seed: int) -> Policy:
        return lambda _frame: None

    messages: list[tuple[str, bool]] = []
    plan = Plan(precisions=("fp32",), seeds=(0,), episodes=2, baselines=False)
    evaluated = closed_loop(
        Bundle.open(toy_bundle),
        Plane(),
        plan,
        peers={"at_once": Driver(at_once)},
        tick=lambda *message: messages.append(message),
    )
    assert [name for name, _ in messages] == ["fp32", "at_once"] * 2
    assert evaluated.goals["at_once"].outcomes == {"reached": 0, "wrong_place": 2, "timeout": 0}


def test_shipped_model_reaches_goals_that_random_actions_do_not(two_rooms_bundle: Path) -> None:
    plan = Plan(precisions=("int8",), seeds=(0,), episodes=5)
    evaluated = closed_loop(Bundle.open(two_rooms_bundle), TwoRooms(seed=0), plan).goals
    assert evaluated["int8"].successes >= 4 > evaluated["random"].successes


def test_model_that_cannot_act_in_the_world_is_rejected_before_opening(toy_bundle: Path) -> None:
    world = Plane(tick_s=0.3)
    with pytest.raises(WorldError, check=code("sim.model_mismatch")):
        closed_loop(Bundle.open(toy_bundle), world, Plan(engines=("nowhere:CPU",)))
    assert world.resets == [0]


def test_missing_engines_and_precisions_are_reported(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    with pytest.raises(BackendError, check=code("backend.engine_unknown")):
        closed_loop(bundle, Plane(), Plan(engines=("nowhere:CPU",)))
    with pytest.raises(BundleError, check=code("bundle.variant_missing")):
        closed_loop(bundle, Plane(), Plan(precisions=("int8",)))
    untrained = make_bundle(tmp_path / "untrained", trained=False)
    with pytest.raises(BundleError, check=code("bundle.untrained")):
        closed_loop(untrained, Plane(), Plan())


def test_progress_bars_are_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2, Console()) as tick:
        tick("fp32", True)
        tick("fp32", False)
    assert capsys.readouterr().out.strip() == ""


def test_progress_bars_count_episodes_and_goals() -> None:
    shown = io.StringIO()
    with progress(3, Console(file=shown, force_terminal=True, width=120)) as tick:
        for reached in (True, False, True):
            tick("fp32", reached)
    assert "3/3" in shown.getvalue() and "2 reached" in shown.getvalue()
