"""The peers of the benchmarks: their reports are parsed, and a failure is an error with their output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ProfileError
from tests.scripts import BENCHMARKS, load

app, rows, quiet = load("peers.benchmark_app"), load("peers.rows"), load("peers.quiet")

# Output of benchmark_app of OpenVINO 2026.4 for a graph that takes microseconds and one that takes longer.
MEDIAN = """\
[Step 10/11] Measuring performance (Start inference synchronously, limits: 20 iterations)
[ INFO ] Benchmarking in inference only mode (inputs filling are not included in measurement loop).
[ INFO ] First inference took 1.62 ms
[Step 11/11] Dumping statistics report
[ INFO ] Execution Devices:['CPU']
[ INFO ] Count:            20 iterations
[ INFO ] Duration:         0.42 ms
[ INFO ] Latency:
[ INFO ]    Median:        10.95 us
[ INFO ]    Average:       13.38 us
[ INFO ]    Min:           10.79 us
[ INFO ]    Max:           52.45 us
[ INFO ] Throughput:   47510.23 FPS
"""
PERCENTILE = """\
[ INFO ] First inference took 18.56 ms
[Step 11/11] Dumping statistics report
[ INFO ] Execution Devices:['CPU']
[ INFO ] Count:            20 iterations
[ INFO ] Duration:         326.53 ms
[ INFO ] Latency:
[ INFO ]    99 percentile:     17.66 ms
[ INFO ]    Average:       16.21 ms
[ INFO ]    Min:           15.73 ms
[ INFO ]    Max:           17.66 ms
[ INFO ] Throughput:   61.25 FPS
"""


@pytest.fixture
def replace_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return a function that replaces benchmark_app with a process that prints a text."""

    def put(text: str, *, status: int = 0, after_its_end: bool = False, stays_s: float = 0.0) -> None:
        (tmp_path / "text").write_text(text)
        say = f"cat {tmp_path / 'text'}"
        lines = f"(sleep 0.3; {say}) &" if after_its_end else f"{say}; sleep {stays_s}"
        fake = tmp_path / "fake"
        fake.write_text(f"#!/bin/sh\n{lines}\nexit {status}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(fake))

    return put


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [(MEDIAN, 0.01095), (PERCENTILE, 17.66)],
    ids=["a median in us", "a percentile in ms"],
)
def test_benchmark_app_output_is_parsed(
    replace_app: Callable[..., None], text: str, milliseconds: float
) -> None:
    replace_app(text, stays_s=1.0)
    report = app.benchmark_app(Path("x.xml"), {}, threads=1, count=20, percentile=50)
    assert (report.percentile_ms, report.count) == (pytest.approx(milliseconds), 20)
    assert report.peak_rss_mb > 0 and report.cpu_s >= 0


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("[ ERROR ] no such file", 1),
        (MEDIAN, 1),
        (MEDIAN.replace("Median", "Middle"), 0),
        (MEDIAN.replace("Count", "Number"), 0),
        (MEDIAN.replace("[Step 11/11]", "[Step 12/12]"), 0),
    ],
    ids=["an error", "a bad status", "no median", "no count", "other steps"],
)
def test_malformed_benchmark_app_output_is_an_error_that_quotes_it(
    replace_app: Callable[..., None], text: str, status: int
) -> None:
    replace_app(text, status=status)
    with pytest.raises(app.BenchmarkAppError, match=rf"failed on x\.xml \(status {status}\)") as raised:
        app.benchmark_app(Path("x.xml"), {}, threads=1, count=20, percentile=50)
    assert text.strip().splitlines()[-1] in str(raised.value)


def test_benchmark_app_that_exits_early_is_an_error(
    replace_app: Callable[..., None],
) -> None:
    replace_app(MEDIAN, after_its_end=True)
    with pytest.raises(app.BenchmarkAppError):
        app.benchmark_app(Path("x.xml"), {}, threads=1, count=20, percentile=50)


def test_real_benchmark_app_measures_a_graph_of_dynamic_shape(toy_bundle: Path) -> None:
    shapes = {"history_latents": (1, 1, 2, 8), "actions": (16, 4, 2)}
    graph = toy_bundle / "predictor" / "openvino" / "model.xml"
    report = app.benchmark_app(graph, shapes, threads=1, count=50, percentile=99)
    assert report.count == 50
    assert 0 < report.percentile_ms < 1000 and 0 <= report.cpu_s < 60 and 20 < report.peak_rss_mb < 2000


ANSWER = "dict(latency_ms=[1.5] * n, stages_ms=dict(encode=[1.0] * n), cpu_s=0.25, peak_rss_mb=7.0)"


@pytest.fixture
def peer(toy_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that creates rows without ROS; a text that is no file name is the body of ``run``."""
    setting = rows.Setting(
        bundle=Bundle.open(toy_bundle), threads=1, size="40x30", source="", rate_hz=0.0, frames=4,
        seconds=0.0, scratch=tmp_path,
    )  # fmt: skip
    created = []

    def make(what: str, *, precision: str = "fp32", bundle: Path = toy_bundle) -> Any:
        if not what.endswith(".py"):
            file = tmp_path / "child.py"
            file.write_text(
                f"import os, sys, threading, time\nsys.path.insert(0, {str(BENCHMARKS / 'peers')!r})\n"
                "from serving import serve\nclass Server:\n"
                "    def __init__(self, task): print('hello'); self.facts = dict(open_s=1.0, more_s=0.5)\n"
                f"    def run(self, n): {what}\nserve(Server)\n"
            )
            what = str(file)
        own = replace(setting, bundle=Bundle.open(bundle))
        created.append(rows.ServedRow("peer", "", precision, own, script=what))
        return created[-1]

    yield make
    for each in created:
        each.close()
        assert each._process.poll() is not None


def test_peer_reports_the_time_of_each_frame(toy_bundle: Path) -> None:
    pytest.importorskip("onnxruntime")
    process = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peers" / "onnxruntime_session.py"), "--bundle", str(toy_bundle),
         "--precision", "fp32", "--threads", "1", "--size", "40x30"],
        input="3\n5\n", stdout=subprocess.PIPE, text=True, check=True, timeout=60,
    )  # fmt: skip
    ready, *answers = map(json.loads, process.stdout.splitlines())
    assert ready["ready"].keys() == {"open_s", "first_frame_s"}
    for count, answer in zip((3, 5), answers, strict=True):
        stages = answer["stages_ms"]
        assert stages.keys() == {"preprocess", "encode", "predict"}
        assert np.shape(list(stages.values())) == (3, count)
        assert answer["latency_ms"] == pytest.approx(np.sum(list(stages.values()), axis=0))
        assert answer["cpu_s"] >= 0 and answer["peak_rss_mb"] > 20


def test_onnxruntime_peer_quantizes_the_fp32_graphs_itself_for_int8(peer: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx", reason="onnx is not installed (extra export)")
    row = peer("onnxruntime_session.py", precision="int8")
    row.open()
    row.measure()
    assert row.summary()["n"] == 4


def test_openvino_peer_runs_both_graphs_in_turn(peer: Callable[..., Any]) -> None:
    row = peer("openvino_graphs.py")
    row.open()
    row.measure()
    assert all(len(row.stages_ms[stage]) == 4 for stage in ("encode", "predict"))


def test_row_adds_up_its_rounds_despite_library_output(peer: Callable[..., Any]) -> None:
    row = peer(f"print('working'); return {ANSWER}")
    row.open()
    row.measure()
    row.measure()
    summary = row.summary()
    assert (summary["n"], summary["start_s"], summary["rounds_p50_ms"]) == (8, 1.5, [1.5, 1.5])
    assert summary["p50_ms"]["value"] == summary["max_ms"] == 1.5 and summary["p99_ms"]["value"] is None
    assert summary["stages_ms"] == {"encode": {"p50": 1.0, "p99": None, "n": 8, "rounds_p50": [1.0, 1.0]}}
    assert (summary["cpu_s_per_frame"], summary["peak_rss_mb"]) == (0.0625, 7.0)


def test_peer_that_cannot_run_the_bundle_states_the_reason_and_exits(peer: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime")
    row = peer("onnxruntime_session.py", precision="fp16")
    with pytest.raises(rows.AbsentRowError, match="the bundle has no onnx graph in fp16"):
        row.open()
    assert row._process.wait(30) == 0


def test_peer_with_different_outputs_is_not_measured(peer: Callable[..., Any], wrong_bundle: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(rows.RowError, match="its predictor does not match that of the bundle"):
        peer("onnxruntime_session.py", bundle=wrong_bundle).open()


def test_failing_peer_is_an_error_with_its_last_output(peer: Callable[..., Any]) -> None:
    row = peer("1 / 0")
    row.open()
    with pytest.raises(rows.RowError, match=r"(?s)peer \(fp32\) gave no answer.*ZeroDivisionError"):
        row.measure()


def test_peer_that_exits_after_its_round_is_an_error_with_its_last_output(peer: Callable[..., Any]) -> None:
    row = peer(f"threading.Timer(0.1, os._exit, [3]).start(); return {ANSWER}")
    row.open()
    row.measure()
    row._process.wait(30)
    with pytest.raises(rows.RowError, match="gave no answer"):
        row.measure()


def test_hanging_peer_is_killed(peer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    row = peer("time.sleep(600)")
    row.open()
    monkeypatch.setattr(rows, "_ROUND_PATIENCE_S", 0.1)
    monkeypatch.setattr(rows, "_STOP_PATIENCE_S", 0.1)
    with pytest.raises(rows.RowError, match="gave no answer"):
        row.measure()
    row.close()
    assert row._process.returncode == -9


def probed(count: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the due time, wake time and duration of probes on a quiet core [s]."""
    rng = np.random.default_rng(0)
    due = 5.0 + 0.002 * np.arange(count)
    return due, due + rng.uniform(2e-5, 5e-5, count), rng.uniform(2.2e-6, 2.5e-6, count)


def test_quiet_core_has_no_disturbance_despite_single_interrupts() -> None:
    due, woken, taken = probed()
    taken[::50] *= 9
    assert not len(quiet.disturbances(due, woken, taken))


def test_late_probe_is_a_disturbance_from_its_due_time() -> None:
    due, woken, taken = probed()
    woken[700] += 0.004
    assert quiet.disturbances(due, woken, taken) == pytest.approx([due[700], woken[700]])


def test_neighbor_on_the_core_slows_instructions_down() -> None:
    due, woken, taken = probed()
    taken[300:340] *= 1.7
    disturbances = quiet.disturbances(due, woken, taken)
    assert (disturbances.min(), disturbances.max(), len(disturbances)) == (woken[300], woken[339], 40)


def test_measurement_is_undisturbed_unless_a_disturbance_is_in_or_shortly_before_it() -> None:
    probe = quiet.Probe([0])
    probe._disturbances = np.array([10.0, 20.0])
    begin, end = (
        np.array([9.8, 9.9, 9.99, 10.05, 10.2, 19.0]),
        np.array([9.9, 9.95, 10.01, 10.06, 10.3, 21.0]),
    )
    assert probe.quiet(begin, end).tolist() == [True, True, False, False, True, False]


def test_removed_core_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    # With it the standard output is unbuffered and accepts what a buffered one does not.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    core = min(os.sched_getaffinity(0))
    probe = quiet.Probe([core])
    try:
        probe.__enter__()
    except ProfileError as error:
        pytest.skip(str(error))
    try:
        (process,) = probe._processes
        time.sleep(0.2)
        began = time.perf_counter()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        process.send_signal(signal.SIGCONT)
        ended = time.perf_counter()
        time.sleep(0.1)
    finally:
        probe.__exit__()
    assert process.returncode == 0
    assert not probe.quiet(np.array([began]), np.array([ended])).any()


def test_probe_without_priority_states_the_reason() -> None:
    missing = 4096
    with pytest.raises(ProfileError, match=f"no probe .* {missing}: "), quiet.Probe([missing]):
        pytest.fail("it was entered")
