"""The benchmarks: goals follow the measurements, failed measurements are reported, small runs succeed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import openvino
import pytest
from rich.progress import Progress

from tests.bundles import make_bundle
from tests.scripts import load, script, skip_without_ros

latency, overhead, success, gate = map(load, ("latency", "overhead", "success", "gate"))
students = load("students")
app, rows = load("peers.benchmark_app"), load("peers.rows")


def row(
    name: str, p50: float, *, precision: str = "int8", encode: float = 1.0, p99: float | None = None,
    **over_ros: int,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of a row that goals() reads."""
    return {
        "row": name,
        "precision": precision,
        "p50_ms": {"value": p50},
        "p99_ms": {"value": p99},
        "stages_ms": {"encode": {"p50": encode, "rounds_p50": [encode]}},
        **over_ros,
    }


def verdicts(*measured: dict[str, Any]) -> dict[str, bool]:
    return {goal["metric"]: goal["met"] for goal in latency.goals(measured, 1.03)}


@pytest.mark.parametrize(("encode", "met"), [(2.06, True), (2.062, False)])
def test_encode_limit_is_relative_to_the_benchmark_app_median(encode: float, met: bool) -> None:
    peer = row("benchmark_app", 9.0, encode=2.0)
    (goal,) = latency.goals([row("pipeline", 99.0, encode=encode), peer], 1.03)
    metric = "encode p50, int8: pipeline / benchmark_app"
    assert goal == {"metric": metric, "value": encode / 2, "limit": 1.03, "met": met}


def test_slow_rounds_of_the_machine_are_ignored() -> None:
    ours, app = row("pipeline", 9.0, encode=2.6), row("benchmark_app", 9.0, encode=2.0)
    ours["stages_ms"]["encode"]["rounds_p50"] = [2.0, 2.6, 2.02, 2.6, 3.9]
    app["stages_ms"]["encode"]["rounds_p50"] = [2.0, 2.0, 2.0, 2.58, 4.0]
    (goal,) = latency.goals([ours, app], 1.03)
    assert (goal["value"], goal["met"]) == (1.0078, True)


def test_pipeline_must_be_faster_than_each_library_in_the_same_precision() -> None:
    libraries = {"torch_eager": 5.0, "torch_compile": 3.0, "onnxruntime": 4.0}
    peers = [row(name, p50, precision="fp32") for name, p50 in libraries.items()]
    assert verdicts(row("pipeline", 4.0, precision="fp32"), row("pipeline", 9.0), *peers) == {
        "p50, fp32: pipeline / torch_eager": True,
        "p50, fp32: pipeline / torch_compile": False,
        "p50, fp32: pipeline / onnxruntime": True,
    }


def test_ros_median_tail_and_drops_are_compared() -> None:
    plain = row("plain_node", 10.0, p99=11.0, dropped=2)
    with_profile = row("plain_node_dds", 7.0, p99=20.0, dropped=1)
    assert verdicts(row("node", 8.0, p99=12.0, dropped=2), plain, with_profile) == {
        "p50, int8: node / plain_node": True,
        "p99, int8: node / plain_node": False,
        "images dropped: node, at most those of plain_node": True,
        "p50, int8: node / plain_node_dds": False,
        "p99, int8: node / plain_node_dds": True,
        "images dropped: node, at most those of plain_node_dds": False,
    }


def test_unmeasured_values_are_not_required() -> None:
    assert verdicts(row("pipeline", 1.0), row("node", 1.0, p99=2.0, dropped=0)) == {}
    assert verdicts(row("benchmark_app", 1.0), row("torch_eager", 1.0)) == {}
    too_few_for_p99 = row("node", 8.0, dropped=0)
    assert "p99, int8: node / plain_node" not in verdicts(too_few_for_p99, row("plain_node", 9.0, dropped=0))


def test_emulated_rows_are_measured_in_the_first_round_only() -> None:
    turns: list[str] = []

    def row(name: str, emulated: bool) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, precision="bf16", emulated=emulated, measure=lambda: turns.append(name)
        )

    with Progress(disable=True) as progress:
        latency._measure([row("a", False), row("b", True), row("c", False)], 3, progress)
    assert turns == ["a", "b", "c", "c", "a", "a", "c"]


@pytest.fixture(scope="module")
def measured(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Return the report and the output of a small run of latency.py."""
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("latency") / "new" / "latency.json"
    done = script(
        "latency", "--bundle", str(toy_bundle), "--rows", "pipeline", "benchmark_app", "onnxruntime",
        "torch_eager", "--precision", "fp32", "--threads", "1", "--rounds", "1", "--frames", "24",
        "--size", "40x30", "--limit", "1000", "--json", str(out),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(out.read_text())
    assert done.returncode == (0 if all(goal["met"] for goal in report["goals"]) else 1)
    return report, " ".join(done.stdout.split())


def test_latency_reports_every_row_and_the_reason_for_absent_ones(
    measured: tuple[dict[str, Any], str],
) -> None:
    report, output = measured
    assert [row["row"] for row in report["rows"]] == ["pipeline", "benchmark_app", "onnxruntime"]
    for row in report["rows"]:
        assert row["n"] == 24 and row["p50_ms"]["value"] > 0 and row["peak_rss_mb"] > 20
        assert all(row["stages_ms"][stage]["p50"] > 0 for stage in ("encode", "predict"))
    (absent,) = report["absent"]
    assert absent["row"] == "torch_eager" and absent["reason"] in output
    assert report["goals"] == latency.goals(report["rows"], 1000)
    assert len(report["goals"]) == 2 and all(goal["metric"] in output for goal in report["goals"])


@pytest.fixture(scope="module")
def compared(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the report of a small run of overhead.py."""
    out = tmp_path_factory.mktemp("overhead") / "new" / "overhead.json"
    done = script(
        "overhead", "--bundle", str(toy_bundle), "--precision", "fp16", "--rounds", "1", "--frames", "30",
        "--limit", "1000", "--json", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "both, joined in one graph" in done.stdout
    return json.loads(out.read_text())


def test_overhead_compares_with_each_graph_and_with_both_joined(compared: dict[str, Any]) -> None:
    peer, ours = compared["benchmark_app"], compared["pipeline_sum_of_medians_ms"]
    assert peer["samples"] == {"encode": 30, "predict": 30, "joined": 30, "joined, defaults": 30}
    assert {compared["pipeline_ms"][stage]["n"] for stage in ("preprocess", "encode", "predict")} == {30}
    alone_ms = peer["median_ms"]["encode"] + peer["median_ms"]["predict"]
    ratios = {
        "ratio": peer["median_ms"]["joined"],
        "ratio_to_defaults": peer["median_ms"]["joined, defaults"],
        "ratio_to_graphs_alone": alone_ms,
    }
    for ratio, of in ratios.items():
        assert compared[ratio] == pytest.approx(ours / of, rel=1e-2)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Intel(R) Xeon(R) Processor (family 6, model 207)", "intel-xeon-family-6-model-207"),
        ("AMD EPYC (family 26, model 2)", "amd-epyc-family-26-model-2"),
        ("ARM (0x41, 0xd42 and 0xd4b)", "arm-0x41-0xd42-and-0xd4b"),
    ],
)
def test_each_processor_family_has_a_results_file(model: str, name: str) -> None:
    assert load("peers.files").slug(model) == name


@pytest.mark.parametrize(("met", "status"), [(True, 0), (False, 1)])
def test_exit_status_is_the_verdict(
    measured: tuple[dict[str, Any], str], compared: dict[str, Any], met: bool, status: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    goals = [{"metric": "", "value": 1.0, "limit": 1.0, "met": each} for each in (True, met)]
    ratio = 1.1 if met else 1.1001
    reports = {latency: measured[0] | {"goals": goals}, overhead: compared | {"ratio": ratio}}
    for module, report in reports.items():
        monkeypatch.setattr(module, "compare", lambda *_, report=report: report)
        out = tmp_path / f"{module.__name__}.json"
        assert module.main(["--json", str(out), "--limit", "1.1"]) == status
        assert json.loads(out.read_text()) == report


@pytest.mark.parametrize("size", [1, 3])
def test_joined_graph_predicts_from_its_own_encoding(size: int, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", history_size=size, standing=True)
    irs = {
        stage: (bundle.path / role / "openvino" / "model.xml", {}) for stage, role in overhead.STAGES.items()
    }
    joined = openvino.Core().compile_model(
        str(overhead.join(bundle.manifest, irs, tmp_path / "joined.xml")), "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )  # fmt: skip
    golden = bundle.golden()
    given = {"frame": golden.frames[:1], "actions": golden.actions}
    if size > 1:
        given["history_actions"] = np.zeros((1, size - 1, 2), np.float32)
    latent, futures = joined(given).values()
    np.testing.assert_allclose(latent[0], golden.latents[0], atol=1e-4)
    np.testing.assert_allclose(futures, golden.futures[0], atol=1e-4)


@pytest.mark.parametrize(
    ("module", "bundle", "further", "reason"),
    [
        (latency, "nowhere", [], "nowhere"),
        (overhead, "nowhere", [], "nowhere"),
        (latency, "wrong", ["--precision", "fp32"], "predictor in fp32 does not reproduce the golden"),
        (latency, "toy", ["--precision", "fp16", "--rows", "onnxruntime"], "onnxruntime: "),
    ],
)
def test_impossible_measurement_exits_with_status_2_and_the_reason(
    module: ModuleType, bundle: str, further: list[str], reason: str, toy_bundle: Path, wrong_bundle: Path,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = {"nowhere": tmp_path / "nowhere", "wrong": wrong_bundle, "toy": toy_bundle}[bundle]
    out = tmp_path / "out.json"
    assert module.main(["--bundle", str(given), "--json", str(out), *further]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(f"{module.__name__}: ") and reason in stderr and stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("module", [latency, overhead, success, gate], ids=lambda module: module.__name__)
def test_help_states_when_a_benchmark_fails(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "--bundle" in output and "--json" in output and "Exit status 1 if" in output


def test_continuous_driving_runs_all_episodes_and_checks_its_limits(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    continuous_driving, out = load("continuous_driving"), tmp_path / "out.json"
    options = ("--bundle", str(two_rooms_bundle), "--episodes", "2", "--seed", "0", "--json", str(out))
    lenient = ("--goal", "0.5", "--points", "100")
    assert continuous_driving.main([*options, *lenient]) == 0
    report = json.loads(out.read_text())
    assert report["nodes"]["episodes"] == 2
    assert 0.5 < report["mean_s"] < 16
    monkeypatch.setattr(continuous_driving, "measure", lambda *_: report)
    assert continuous_driving.main([*options, *lenient, "--goal", "1.1"]) == 1
    assert continuous_driving.main([*options, *lenient, "--points", "1e-6"]) == 1


@pytest.mark.ros
@pytest.mark.slow
def test_ros_benchmark_measures_the_node_and_a_plain_one(toy_bundle: Path, tmp_path: Path) -> None:
    skip_without_ros()
    out = tmp_path / "latency.json"
    done = script(
        "latency", "--bundle", str(toy_bundle), "--rows", "node", "plain_node", "--precision", "fp32",
        "--threads", "1", "--rounds", "1", "--seconds", "3", "--rate", "20", "--size", "40x30",
        "--json", str(out),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(out.read_text())
    assert [(row["row"], row["due"]) for row in report["rows"]] == [("node", 60), ("plain_node", 60)]
    assert "rclpy" in report["environment"]["versions"]


@pytest.mark.parametrize(
    ("encode", "predict", "npu", "missed"),
    [
        (2.0, 9.0, {"4000": 2.4}, set()),
        (2.1, 9.0, {}, {"INT8 alone over benchmark_app"}),
        (2.4, 9.0, {}, {"INT8 alone over benchmark_app", "INT8 over torch eager"}),
        (2.0, 11.0, {"3720": 9.0, "4000": 2.6}, {"64 of 8 steps, INT8", "encoder on a 4000, estimated"}),
    ],
)
def test_mid_size_student_meets_its_goals(
    encode: float, predict: float, npu: dict[str, float], missed: set[str]
) -> None:
    ours = row("pipeline", 0.0, encode=encode, n=10)
    ours["stages_ms"]["predict"] = {"p50": predict}
    alone = row("encoder", 0.0, encode=encode)
    peers = [
        alone,
        row("benchmark_app", 0.0, encode=2.0),
        row("torch_eager", 0.0, precision="fp32", encode=10.0),
    ]
    limits = students.check_limits({"npu_estimates_ms": npu, "latency": {"rows": [ours, *peers]}})
    assert len(limits) == 3 + ("4000" in npu)
    assert {limit.metric for limit in limits if not limit.met} == missed
