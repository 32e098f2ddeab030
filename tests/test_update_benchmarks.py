"""The benchmarks of updates: swaps of the active model, and the verdicts of the gate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jepa_runtime.ota.gate.sequential_test import GOOD, WORSE
from jepa_runtime.profiling.profile import Run
from jepa_runtime.telemetry.measurements import Reading
from tests.scripts import load, skip_without_ros

gate, gate_latency, gate_power = load("gate"), load("gate_latency"), load("gate_power")
update_metadata = load("update_metadata")


def end(reason: str = GOOD, *, candidate: float = 0.22, goals: tuple[int, ...] = (1,)) -> Any:
    return gate.End(reason, 1200, 0.2, candidate, list(goals))


def row(ends: list[Any], *, harmless: bool | None = True, itself: list[Any] | None = None) -> dict[str, Any]:
    ends_by_model = {"itself": itself or [end() for _ in ends], "other": ends}
    return gate.row(gate.Kind("other", harmless, lambda *_: None), ends_by_model, len(ends))


def test_row_counts_verdicts_errors_and_lost_goals_in_the_same_worlds() -> None:
    lost = [end(WORSE, candidate=0.3, goals=(0,)) for _ in range(10)]
    counted = row([*lost, *(end() for _ in range(30))])
    assert (counted["accepted"], counted["shown_worse"], counted["trials"]) == (30, 10, 40)
    assert counted["error_ratio"]["most"] == pytest.approx(1.5)
    assert (counted["goals"], counted["episodes"], counted["goals_lost"]) == (30, 40, 0.25)
    low, high = counted["goals_lost_interval"]
    assert 0 <= low < 0.25 < high < 0.6


def test_gate_test_is_run_as_shipped() -> None:
    good = gate_power.simulate((0.0, ("as good", 0.0)), runs=3)
    assert (good["accepted"], good["median_frames"]) == (3, 1200)
    worse = gate_power.simulate((0.0, ("worse", 2.0)), runs=3)
    assert (worse["rejected"], worse["accepted"]) == (3, 0)
    low, high = worse["intervals"]["accepted"]
    assert low < 0.01 and 0.4 < high < 0.8


def test_harmless_candidate_may_rarely_be_rejected() -> None:
    assert gate.failures(row([end() for _ in range(100)]), 0.01) == []
    assert gate.failures(row([end("too few")] + [end() for _ in range(99)]), 0.01) == []
    (fault,) = gate.failures(row([end(WORSE)] * 5 + [end() for _ in range(95)]), 0.01)
    assert fault == "other is not accepted in 5 of 100 trials, more than 1.0% of them"


def test_costly_candidate_must_cost_goals_and_be_rejected() -> None:
    costly = [end(WORSE, goals=(0,)) for _ in range(100)]
    assert gate.failures(row(costly, harmless=False), 0.01) == []
    (accepted,) = gate.failures(row([end(goals=(0,)) for _ in range(100)], harmless=False), 0.01)
    assert "accepted in 100 of 100" in accepted
    (cheap,) = gate.failures(row([end(WORSE) for _ in range(100)], harmless=False), 0.01)
    assert "not shown to cost" in cheap


def test_candidate_that_costs_goals_is_not_called_harmless() -> None:
    (fault,) = gate.failures(row([end(goals=(0,)) for _ in range(100)]), 0.01)
    assert "not harmless" in fault


def test_intermediate_noise_has_no_verdict() -> None:
    assert gate.failures(row([end(WORSE) for _ in range(100)], harmless=None), 0.01) == []


class Model:
    """Record the calls of a model."""

    manifest = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, frame: Any) -> Any:
        self.asked.append("encode")
        return frame + 1

    def surprise(self, *known: Any, **states: Any) -> float:
        self.asked.append("surprise")
        return float(known[-1].sum())


def test_comparisons_on_the_same_frames_share_computations() -> None:
    model = Model()
    shared = gate.CachedModel(model)
    for value in range(3):
        frame = np.full(2, value)
        for _ in range(4):
            assert shared.surprise("what was known", shared.encode(frame)) == 2 * (value + 1)
    assert model.asked == ["encode", "surprise"] * 3


def test_comparison_with_the_same_encoder_computes_only_predictions() -> None:
    model = Model()
    shared, frame = gate.CachedModel(model, gate.CachedModel(Model())), np.zeros(2)
    assert shared.surprise(shared.encode(frame)) == 2
    assert model.asked == ["surprise"]


def test_trials_resume_after_a_stop(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[int, str]] = []
    stops_at = 1

    def trial(number: int, _: Any, kinds: list[Any], *__: Any) -> dict[str, Any]:
        if number == stops_at:
            raise OSError("the power went")
        ran.extend((number, kind.name) for kind in kinds)
        return {kind.name: end() for kind in kinds}

    monkeypatch.setattr(gate, "trial", trial)
    monkeypatch.setattr(gate, "RETRAIN", tmp_path / "nothing")
    out = tmp_path / "new" / "gate.json"
    arguments = ["--bundle", str(toy_bundle), "--json", str(out)]
    arguments += ["--harmless", "0.1", "--between", "--costly"]
    assert gate.main([*arguments, "--trials", "3"]) == 2
    stops_at = 99
    assert gate.main([*arguments, "--trials", "3"]) == 0
    assert ran == [(number, name) for number in range(3) for name in ("itself", "int8", "noise 0.1")]
    assert [row["trials"] for row in json.loads(out.read_text())["rows"]] == [3, 3, 3]
    assert "noise 0.1" in capsys.readouterr().out
    assert gate.main([*arguments, "--episodes", "9"]) == 2
    assert "belongs to other models or settings" in capsys.readouterr().err


@pytest.fixture(scope="module")
def swaps() -> ModuleType:
    """Import swaps.py, which needs ROS."""
    skip_without_ros()
    return load("swaps")


def measured(
    swaps: ModuleType, latency_ms: np.ndarray, *, dropped_s: tuple[float, ...] = (), grown: float = 0.0
):
    """Return a minute at 10 Hz, with a swap of one second in every ten."""
    due = [round(0.1 * index, 1) for index in range(600) if round(0.1 * index, 1) not in dropped_s]
    run = Run(
        rate_hz=10.0, deadline_ms=100.0, duration_s=60.0, scheduled_s=due,
        latency_ms=latency_ms[: len(due)].tolist(), stages_ms={}, dropped_s=list(dropped_s),
    )  # fmt: skip
    times = list(range(60))
    readings = [
        Reading(name="rss", unit="MB", times_s=times, values=[200 + grown * second / 60 for second in times]),
        Reading(name="descriptors", unit="count", times_s=times, values=[30.0] * 60),
    ]
    return swaps.Measured(run, readings, [(10.0 * index + 5, 10.0 * index + 7) for index in range(6)])


@pytest.mark.ros
def test_image_belongs_to_a_swap_from_one_period_before_it_to_its_end(swaps: ModuleType) -> None:
    _, _, inside = swaps.split(measured(swaps, np.ones(600)))
    due = np.arange(600) / 10
    assert due[inside][:21].tolist() == pytest.approx((np.arange(21) / 10 + 5.0).tolist())
    assert inside.sum() == 6 * 21


@pytest.mark.ros
@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"dropped_s": (6.0,)}, ["images during swaps"]),
        ({"dropped_s": (1.0, 2.0, 3.0, 4.0, 6.0)}, []),
        ({"grown": 9.0}, ["of rss"]),
    ],
)
def test_swaps_may_cost_no_image_and_no_memory(
    swaps: ModuleType, changed: dict[str, Any], missed: list[str]
) -> None:
    failures, figures = swaps.check_limits(measured(swaps, np.ones(600), **changed))
    late = [limit.metric for limit in failures if not limit.met and limit.check != "latency"]
    assert late == missed
    lost = len([second for second in changed.get("dropped_s", ()) if second >= 5])
    assert figures["during_swaps"]["lost"] == lost


@pytest.mark.ros
@pytest.mark.parametrize(("factor", "met"), [(1.4, True), (1.6, False)])
def test_p99_during_swaps_is_compared_with_that_between_them(
    swaps: ModuleType, factor: float, met: bool
) -> None:
    latency = np.full(600, 10.0)
    latency[swaps.split(measured(swaps, latency))[2]] *= factor
    failures, _ = swaps.check_limits(measured(swaps, latency))
    (ratio,) = [limit for limit in failures if limit.metric == "p99 during swaps / p99 between swaps"]
    assert ratio.value == pytest.approx(factor) and ratio.met is met


@pytest.mark.ros
def test_rejected_swap_ends_the_benchmark_with_the_reason(swaps: ModuleType) -> None:
    clients = SimpleNamespace(create_client=lambda *_: None)
    requests = swaps.SwapRequests(clients, [Path("a"), Path("b")], 1.0)
    answer = SimpleNamespace(success=False, message="not a bundle")
    requests._swapped(SimpleNamespace(result=lambda: answer))
    assert requests.failure == "swap 1: not a bundle" and requests.spans_ns == []


@pytest.mark.ros
@pytest.mark.slow
def test_models_are_swapped_in_a_running_node(swaps: ModuleType, toy_bundle: Path, tmp_path: Path) -> None:
    from tests.bundles import make_bundle
    from tests.test_benchmarks import script

    other = make_bundle(tmp_path / "other", seed=1)
    out = tmp_path / "new" / "swaps.json"
    done = script(
        "swaps", "--bundle", str(toy_bundle), "--other", str(other.path), "--swaps", "30", "--pause", "0.2",
        "--rate", "120", "--json", str(out),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(out.read_text())
    assert done.returncode == (0 if all(limit["met"] for limit in report["limits"]) else 1)
    assert report["swaps"] == report["swap_ms"]["n"] == 30
    assert report["during_swaps"]["n"] >= 100 and report["between_swaps"]["n"] >= 400
    assert "growth" in done.stdout


@pytest.mark.ros
def test_impossible_swap_exits_with_status_2(
    swaps: ModuleType, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(swaps, "prepare_environment", lambda **_: None)
    out = tmp_path / "out.json"
    arguments = ["--bundle", str(tmp_path / "nowhere"), "--json", str(out)]
    assert swaps.main(arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("swaps: ") and "nowhere" in stderr and not out.exists()


def test_metadata_of_a_rollout_step_excludes_the_file_list(toy_bundle: Path) -> None:
    report = update_metadata.measure(toy_bundle, [2, 4])
    assert [row["releases"] for row in report["rows"]] == [2, 4]
    for row in report["rows"]:
        files, step = row["plain"]["new_release"], row["plain"]["rollout_step"]
        assert step < files / 2 and row["gzip"]["rollout_step"] < step
        assert row["plain"]["idle_check"] < step


def test_latency_gate_row_counts_wrong_verdicts_per_candidate_kind() -> None:
    def trial(compared: bool | None) -> Any:
        return gate_latency.Trial(2.0, 90.0, 0.9, 1.0, {"compared": compared, "alone": None, "clock": False})

    good = gate_latency.row(2, 1.0, [trial(True)] * 18 + [trial(False), trial(None)])
    assert good["verdicts"]["compared"]["errors"] == 1 and good["verdicts"]["compared"]["passed"] == 18
    assert (good["verdicts"]["alone"]["undecided"], good["verdicts"]["alone"]["errors"]) == (20, 0)
    assert good["verdicts"]["clock"]["errors"] == 20
    slow = gate_latency.row(2, 2.0, [trial(True)] * 3 + [trial(False)] * 17)
    assert (slow["verdicts"]["compared"]["errors"], slow["verdicts"]["clock"]["errors"]) == (3, 0)


def test_slower_model_takes_the_specified_multiple_of_processor_time() -> None:
    class Computes:
        bundle = manifest = num_samples = None

        def encode(self, _: object) -> None:
            ends = time.thread_time() + 0.01
            while time.thread_time() < ends:
                pass

        predict = encode

    slower = gate_latency.Slower(Computes(), 2.0)
    began = time.thread_time()
    slower.encode(None)
    assert time.thread_time() - began == pytest.approx(0.02, rel=0.2)
