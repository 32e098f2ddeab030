"""Verdicts, effects and errors of the comparison of profiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.cli import main
from jepa_runtime.profiling.comparison import Comparison, common_measure, compare, differences
from jepa_runtime.profiling.profile import Parity, Profile, Run, write_profile
from jepa_runtime.telemetry.measurements import MAX_VALUE
from tests.runtime.profiles import make_profile, with_environment, with_run, with_subject


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(name: str, profile: Profile) -> str:
        write_profile(profile, tmp_path / name)
        return str(tmp_path / name)

    return save


def comparison_of(baseline: Profile, other: Profile, *, max_regression: float = 0.05) -> Comparison:
    return compare(
        baseline,
        other,
        measure=common_measure((baseline, other)),
        percentile="p99",
        max_regression=max_regression,
    )


def losing(run: Run, frames: Container[int]) -> dict[str, Any]:
    """Return the changes of a run that drop these processed frames."""
    stored = [index for index in range(len(run.scheduled_s)) if index not in frames]
    return {
        "scheduled_s": [run.scheduled_s[index] for index in stored],
        "latency_ms": [run.latency_ms[index] for index in stored],
        "stages_ms": {},
        "dropped_s": sorted(
            [*run.dropped_s, *(due for index, due in enumerate(run.scheduled_s) if index in frames)]
        ),
    }


@pytest.mark.parametrize(
    ("scale", "status", "verdict"), [(1.0, 0, "same"), (0.8, 0, "better"), (1.2, 3, "worse")]
)
def test_compare_exit_status_follows_the_verdict(
    saved: Any, capsys: pytest.CaptureFixture[str], scale: float, status: int, verdict: str
) -> None:
    files = [saved("a.json", make_profile()), saved("b.json", make_profile(seed=7, scale=scale))]
    assert main(["compare", *files]) == status
    assert f": {verdict}" in capsys.readouterr().out.replace("\n", "")


def test_rise_below_the_limit_is_not_worse(saved: Any) -> None:
    files = [saved("a.json", make_profile()), saved("b.json", make_profile(seed=7, scale=1.2))]
    assert main(["compare", *files, "--max-regression", "30%"]) == 0
    assert comparison_of(make_profile(), make_profile(), max_regression=0).verdict == "same"


def test_one_worse_profile_of_several_returns_3(saved: Any) -> None:
    files = [saved(f"{scale}.json", make_profile(seed=1, scale=scale)) for scale in (1.0, 0.9, 1.2)]
    assert main(["compare", *files]) == 3
    assert main(["compare", *files[:2]]) == 0


def test_effect_is_within_its_interval_and_near_the_truth() -> None:
    change = comparison_of(make_profile(), make_profile(seed=7, scale=1.1)).times["p50"]
    assert change.low <= change.point <= change.high
    assert change.low < 0.097 < change.high, "10 % of the inferences, which are 97 % of the latency"


def test_risen_tail_with_equal_median_is_worse() -> None:
    baseline, other = (with_run(make_profile(seed=seed), deadline_ms=None) for seed in (0, 7))
    rare = np.random.default_rng(0).random(len(other.run.latency_ms)) < 0.03
    slower = np.where(rare, 1.3, 1.0) * other.run.latency_ms
    result = comparison_of(baseline, with_run(other, latency_ms=slower.tolist()))
    assert (result.verdict, len(result.reasons)) == ("worse", 1)
    assert result.reasons[0].startswith("p99 rose by ")


def test_rise_within_noise_is_not_worse() -> None:
    few = make_profile(frames=400)
    result = comparison_of(few, make_profile(seed=3, frames=400, scale=1.005), max_regression=0.0)
    assert result.times["p99"].low < 0 < result.times["p99"].high
    assert not any(reason.startswith("p99") for reason in result.reasons)


def test_insignificant_rise_above_the_limit_is_not_judged(saved: Any) -> None:
    """One stall of two seconds more than doubles the p99."""
    baseline, other = make_profile(), make_profile(seed=7, scale=0.98)
    slower = np.asarray(other.run.latency_ms)
    slower[500:560] *= 3
    stalled = with_run(other, latency_ms=slower.tolist())
    result = comparison_of(baseline, stalled)
    assert result.times["p50"].high < 0 and result.times["p99"].point > 1 and result.times["p99"].low < 0
    assert result.verdict == "not judged"
    assert result.reasons == (
        "too few samples to distinguish a rise of p99 by 148.9% from chance; measure longer",
    )
    assert comparison_of(baseline, stalled, max_regression=3).verdict == "better"
    assert main(["compare", saved("a.json", baseline), saved("b.json", stalled)]) == 4


def test_limit_applies_to_the_effect_and_not_its_interval() -> None:
    baseline, other = make_profile(frames=400), make_profile(seed=7, frames=400, scale=1.2)
    rise = comparison_of(baseline, other).times["p50"]
    assert rise.low < rise.point
    for allowed, is_worse in (((rise.low + rise.point) / 2, True), (rise.point, False)):
        reasons = comparison_of(baseline, other, max_regression=allowed).reasons
        assert any(reason.startswith("p50") for reason in reasons) is is_worse


def test_equal_distributions_are_rarely_worse() -> None:
    """Two in a hundred frames are dropped at random. Lost frames and missed deadlines are the same frames
    here, so that one of forty is expected to raise an alarm.
    """

    def profile(seed: int) -> Profile:
        created = make_profile(seed=seed, frames=500)
        lost = np.flatnonzero(np.random.default_rng(seed).random(len(created.run.scheduled_s)) < 0.02)
        return with_run(created, **losing(created.run, set(lost.tolist())))

    runs = 80
    alarms = sum(
        comparison_of(profile(2 * seed), profile(2 * seed + 1)).verdict == "worse" for seed in range(runs)
    )
    assert alarms <= 0.075 * runs


def test_profile_without_rate_is_compared_by_latency() -> None:
    """A stall whose frames are dropped shows in the response only."""
    baseline, other = make_profile(), make_profile(seed=7)
    stalled = with_run(other, **losing(other.run, range(500, 1500)))
    assert comparison_of(baseline, stalled).times["p50"].point > 1
    closed = with_run(baseline, rate_hz=None)
    assert common_measure((closed, stalled)) == "latency"
    assert abs(comparison_of(closed, stalled).times["p50"].point) < 0.01


def test_risen_lost_frames_are_worse() -> None:
    baseline, other = make_profile(), make_profile(seed=7)
    other = with_run(other, **losing(other.run, range(0, 1790, 100)))
    result = comparison_of(baseline, other)
    assert result.verdict == "worse"
    assert result.lost is not None and result.lost.point == pytest.approx(18 / 1800)
    assert any("lost frames" in reason for reason in result.reasons)


def test_one_burst_of_drops_is_no_evidence() -> None:
    baseline, other = make_profile(), make_profile(seed=7)
    result = comparison_of(baseline, with_run(other, **losing(other.run, range(500, 512))))
    assert result.lost is not None and result.lost.low <= 0 < result.lost.point


def test_risen_missed_deadlines_are_worse() -> None:
    rng = np.random.default_rng(0)
    baseline, other = make_profile(), make_profile(seed=7)
    late = np.where(rng.random(len(other.run.latency_ms)) < 0.008, 40.0, other.run.latency_ms)
    result = comparison_of(baseline, with_run(other, latency_ms=late.tolist()))
    assert result.verdict == "worse"
    assert "missed deadlines" in result.reasons[-1]


def test_proportions_of_fewer_than_twenty_frames_are_not_compared() -> None:
    few, enough = (make_profile(frames=frames) for frames in (19, 20))
    assert comparison_of(few, enough).lost is None and comparison_of(enough, few).missed is None
    assert comparison_of(enough, enough).lost is not None


def test_misses_of_different_deadlines_are_not_compared() -> None:
    assert comparison_of(make_profile(), with_run(make_profile(seed=7), deadline_ms=13.0)).missed is None


def test_wrong_golden_outputs_are_worse() -> None:
    broken = Parity(graph="encoder", mean_cosine=0.5, worst_cosine=0.1, max_abs=9.0, ok=False)
    result = comparison_of(make_profile(), make_profile(seed=7, scale=0.5, parity=[broken]))
    assert result.verdict == "worse"
    assert "golden" in result.reasons[0]


UNLIKE = [
    (with_environment(make_profile(), cpu="Another Processor"), "CPU"),
    (with_environment(make_profile(), cores=8), "cores"),
    (with_environment(make_profile(), architecture="aarch64"), "architecture"),
    (with_environment(make_profile(), settings={"governor": "powersave"}), "setting governor"),
    (with_environment(make_profile(), settings={}), "setting governor"),
    (with_environment(make_profile(), settings={"governor": "performance", "gpu": "Orin"}), "setting gpu"),
    (with_environment(make_profile(), versions={"rmw": "rmw_cyclonedds_cpp"}), "middleware"),
    (with_subject(make_profile(), engine="onnxruntime"), "engine"),
    (with_subject(make_profile(), device="NPU"), "device"),
    (with_subject(make_profile(), precision="fp32"), "precision"),
    (with_subject(make_profile(), threads=2), "threads"),
    (with_subject(make_profile(), futures=16), "futures"),
    (with_subject(make_profile(), horizon=4), "horizon"),
    (with_subject(make_profile(), source="clip.mp4"), "source"),
    (with_subject(make_profile(), frame_size=(128, 128)), "frame size"),
    (with_run(make_profile(), rate_hz=60.0), "rate"),
    (with_run(make_profile(), deadline_ms=20.0), "deadline"),
    (make_profile(kind="ros"), "kind of measurement"),
]


@pytest.mark.parametrize(("other", "what"), UNLIKE)
def test_differences_names_different_conditions(other: Profile, what: str) -> None:
    result = differences(make_profile(), other)
    assert len(result) == 1
    assert result[0].startswith(f"{what}: ")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (with_subject(make_profile(), threads=None), "threads: 1 against unknown"),
        (with_subject(make_profile(), frame_size=None), "frame size: 640 x 480 against unknown"),
        (with_run(make_profile(), rate_hz=None), "rate: 30 Hz against unknown"),
        (with_run(make_profile(), deadline_ms=None), "deadline: 33.3333 ms against unknown"),
    ],
)
def test_differences_includes_unknown_values(other: Profile, message: str) -> None:
    assert differences(make_profile(), other) == (message,)


def test_differences_includes_stages_of_most_frames() -> None:
    """A model whose step does not fit the rate predicts nothing and is therefore fast."""
    baseline = make_profile()
    stages = baseline.run.stages_ms
    encoded = with_run(baseline, stages_ms={name: stages[name] for name in stages if name != "predict"})
    seldom = [took if index % 3 == 0 else 0.0 for index, took in enumerate(stages["predict"])]
    assert differences(baseline, encoded) == ("predict in most frames: yes against no",)
    assert differences(baseline, with_run(baseline, stages_ms=stages | {"predict": seldom})) == (
        "predict in most frames: yes against no",
    )


def test_differences_ignores_versions() -> None:
    newer = with_subject(make_profile(), model_version="2.0.0", sha256="1" * 64, engine_version="2027.0")
    assert differences(make_profile(), newer) == ()


def test_compare_different_conditions_fails_unless_allowed(
    saved: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = with_subject(with_environment(make_profile(seed=7), cores=8), precision="fp32")
    files = [saved("a.json", make_profile()), saved("b.json", other)]
    assert main(["compare", *files]) == 1
    output = capsys.readouterr()
    assert "cores: 2 against 8" in output.err and "precision: int8 against fp32" in output.err
    assert "--allow-different" in output.err and output.out == ""
    assert main(["compare", *files, "--allow-different"]) == 0
    assert "differs from the baseline: cores: 2 against 8" in capsys.readouterr().out.replace("\n", " ")


def test_compare_too_few_samples_returns_4(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(f"{seed}.json", make_profile(seed=seed, frames=150)) for seed in (0, 7)]
    assert main(["compare", *files]) == 4
    assert "measure longer" in capsys.readouterr().out.replace("\n", " ")
    assert main(["compare", *files, "--quantile", "p90"]) == 0


def test_percentile_with_too_few_samples_in_one_profile_is_not_judged() -> None:
    many, few = (
        with_run(make_profile(seed=frames, frames=frames), dropped_s=[], failed_s=[])
        for frames in (1800, 150)
    )
    for pair, whose in (((many, few), "the other profile"), ((few, many), "the baseline")):
        result = comparison_of(*pair)
        assert (result.verdict, list(result.times)) == ("not judged", ["p50"])
        assert len(result.reasons) == 1 and result.reasons[0].startswith(f"p99 of {whose}: ")


def test_profile_without_samples_is_not_judged() -> None:
    empty = with_run(make_profile(), rate_hz=None, scheduled_s=[], latency_ms=[], stages_ms={})
    result = comparison_of(make_profile(), empty)
    assert (result.verdict, result.times) == ("not judged", {})
    assert result.reasons == ("the other profile contains no samples",)


def test_compare_unreadable_profile_returns_1(
    saved: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = saved("a.json", make_profile())
    (tmp_path / "bad.json").write_text("{}")
    assert main(["compare", good, str(tmp_path / "bad.json")]) == 1
    assert main(["compare", good, str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["5", "0.05", "-5%", "five", "5%%"])
def test_max_regression_must_be_a_percentage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a.json", "b.json", f"--max-regression={text}"])
    assert stopped.value.code == 2
    assert "must be a percentage such as 5%" in capsys.readouterr().err


def test_compare_json_contains_statistics_and_effects(saved: Any, tmp_path: Path) -> None:
    files = [saved("a.json", make_profile()), saved("b.json", make_profile(seed=7, scale=1.2))]
    target, table = tmp_path / "out" / "compared.json", tmp_path / "table.md"
    assert main(["compare", *files, "--json", str(target), "--markdown", str(table)]) == 3
    baseline, other = json.loads(target.read_text())["profiles"]
    assert baseline["comparison"] is None
    assert other["comparison"]["verdict"] == "worse"
    assert 0.15 < other["comparison"]["times"]["p50"]["point"] < 0.25
    assert other["statistics"]["response"]["n"] == 1800
    assert table.read_text().startswith("| file |")


@pytest.mark.parametrize("option", ["--json", "--markdown"])
@pytest.mark.parametrize("read", [0, 1])
def test_compare_refuses_to_overwrite_its_input(
    saved: Any, option: str, read: int, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [saved(f"{seed}.json", make_profile(seed=seed)) for seed in (0, 1)]
    before = Path(paths[read]).read_bytes()
    assert main(["compare", *paths, option, paths[read]]) == 1
    assert "which is read: write into another file" in capsys.readouterr().err
    assert Path(paths[read]).read_bytes() == before


@pytest.mark.parametrize("field", ["scheduled_s", "latency_ms", "dropped_s"])
def test_profile_with_too_large_numbers_is_malformed(
    saved: Any, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = getattr(make_profile().run, field)
    plain, far, further = (
        saved(f"{value:g}.json", with_run(make_profile(), **{field: [value, *[-value] * len(others)]}))
        for value in (first, MAX_VALUE, 1e308)
    )
    out = tmp_path / "out.json"
    main(["compare", plain, far, "--json", str(out)])
    assert json.loads(out.read_text())
    assert main(["compare", plain, further]) == 1
    assert f"not a jepa-edge profile of version 1: run.{field}.0" in capsys.readouterr().err


def test_compare_two_outputs_on_standard_output_is_a_usage_error(
    saved: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [saved("a.json", make_profile()), saved("b.json", make_profile())]
    with pytest.raises(SystemExit, match="2"):
        main(["compare", *files, "--json", "-", "--markdown", "-"])
    assert "can write to standard output" in capsys.readouterr().err


def test_compare_prints_names_from_files_literally(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    escaped = with_subject(make_profile(), model_id="[red]x[/]")
    assert main(["compare", saved("a.json", escaped), saved("b.json", escaped)]) == 0
    assert "[red]x[/]" in capsys.readouterr().out


def test_output_in_another_encoding_is_escaped(saved: Any) -> None:
    few = saved("few.json", make_profile(frames=300))

    def run_program(*args: str) -> tuple[int, bytes]:
        run = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
        ended = subprocess.run(
            [sys.executable, "-c", run, *args],
            env=os.environ | {"PYTHONIOENCODING": "latin-1"},
            capture_output=True,
            check=False,
        )
        assert ended.stderr == b""
        return ended.returncode, ended.stdout

    status, table = run_program("compare", few, few)
    assert status == main(["compare", few, few]) and rb"\u2026]" in table
    status, text = run_program("profile", "--help")
    assert status == 0 and rb"PASS,\u2026" in text


def test_compare_with_closed_pipe_returns_141(saved: Any) -> None:
    files = [saved("a.json", make_profile()), saved("b.json", make_profile(seed=7))]
    reading, writing = os.pipe()
    os.close(reading)
    run = "import sys; from jepa_runtime.cli import main; sys.exit(main())"
    compared = subprocess.run(
        [sys.executable, "-c", run, "compare", *files], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (compared.returncode, compared.stderr) == (141, b"")
