"""Import of results of trtexec and benchmark_app."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_runtime.cli import main
from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling.comparison import differences
from jepa_runtime.profiling.importers import read_results
from jepa_runtime.profiling.profile import write_profile
from jepa_runtime.profiling.run_statistics import describe
from tests.errors import code
from tests.runtime.profiles import make_profile

# One line of exportJSONTrace per version.
TENSORRT_7 = """[
  { "startEnqMs" : 2.1, "endEnqMs" : 2.3, "startInMs" : 5, "endInMs" : 5.5, "startComputeMs" : 5.5, \
"endComputeMs" : 8.5, "startOutMs" : 8.5, "endOutMs" : 8.75, "inMs" : 0.5, "computeMs" : 3, \
"outMs" : 0.25, "latencyMs" : 3.75, "endToEndMs" : 3.75 }
, { "startEnqMs" : 2.1, "endEnqMs" : 2.3, "startInMs" : 15, "endInMs" : 15.5, "startComputeMs" : 15.5, \
"endComputeMs" : 19.5, "startOutMs" : 19.5, "endOutMs" : 19.75, "inMs" : 0.5, "computeMs" : 4, \
"outMs" : 0.25, "latencyMs" : 4.75, "endToEndMs" : 4.75 }
]
"""
TENSORRT_8 = TENSORRT_7.replace("InMs", "H2dMs").replace("OutMs", "D2hMs").replace("inMs", "h2dMs")
TENSORRT_8 = TENSORRT_8.replace("outMs", "d2hMs")
TENSORRT_11 = TENSORRT_8.replace(', "endToEndMs" : 3.75', "").replace(', "endToEndMs" : 4.75', "")

PYTHON_REPORT: dict[str, Any] = {
    "cmd_options": {"-m": "encoder.xml", "-d": "CPU", "-nthreads": "1", "-json_stats": ""},
    "configuration_setup": {
        "topology": "Model1",
        "target device": "CPU",
        "API": "sync",
        "precision": "UNSPECIFIED",
        "batch size": "1",
        "number of iterations": "None",
        "number of parallel infer requests": "1",
        "number of CPU streams": "1",
    },
    "execution_results": {
        "compile model time (ms)": "195.21",
        "first inference time (ms)": "3.49",
        "total execution time (ms)": "1000.11",
        "total number of iterations": "2895",
        "latency (ms)": "0.21",
        "avg latency": "0.33",
        "min latency": "0.19",
        "max latency": "5.66",
        "throughput": "2894.69",
    },
}
CPP_REPORT: dict[str, Any] = {
    "cmd_options": {"m": "encoder.xml"},
    "configuration_setup": {"topology": "main_graph", "target_device": "NPU", "api": "async", "nireq": 4},
    "execution_results": {
        "execution_time": 1000.11,
        "iterations_num": 2895,
        "latency_median": 0.2134,
        "percentile_boundary": 99,
        "latency_avg": 0.2075,
        "latency_min": 0.1945,
        "latency_max": 1.6504,
        "throughput": 2894.69,
    },
}


def saved(folder: Path, content: str | bytes | dict[str, Any]) -> Path:
    path = folder / "results.json"
    data = json.dumps(content) if isinstance(content, dict) else content
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def results(**changes: Any) -> dict[str, Any]:
    """Return a report of the Python benchmark_app with other results; None removes one."""
    merged = PYTHON_REPORT["execution_results"] | changes
    return PYTHON_REPORT | {
        "execution_results": {key: value for key, value in merged.items() if value is not None}
    }


@pytest.mark.parametrize("text", [TENSORRT_7, TENSORRT_8, TENSORRT_11])
def test_trtexec_layouts_are_imported(tmp_path: Path, text: str) -> None:
    profile = read_results(saved(tmp_path, text))
    assert (profile.kind, profile.subject.engine) == ("trtexec", "tensorrt")
    assert profile.run.latency_ms == [3.75, 4.75]
    assert profile.run.scheduled_s == [0.0, 0.01]
    assert profile.run.stages_ms == {"h2d": [0.5, 0.5], "compute": [3, 4], "d2h": [0.25, 0.25]}
    assert profile.run.duration_s == pytest.approx(0.01475)
    assert describe(profile.run).residual.max == pytest.approx(0)


def test_trtexec_missing_values_stay_absent(tmp_path: Path) -> None:
    profile = read_results(saved(tmp_path, TENSORRT_11))
    assert (profile.environment.cpu, profile.environment.cores) == ("unknown", 0)
    assert (profile.subject.model_id, profile.subject.precision) == (None, None)
    assert (profile.run.rate_hz, profile.run.deadline_ms) == (None, None)
    assert any("closed loop" in note for note in profile.notes)


def test_trtexec_trace_without_copies_is_noted(tmp_path: Path) -> None:
    text = TENSORRT_11.replace('"h2dMs" : 0.5', '"h2dMs" : 0').replace('"d2hMs" : 0.25', '"d2hMs" : 0')
    assert any("noDataTransfers" in note for note in read_results(saved(tmp_path, text)).notes)
    assert not any("noDataTransfers" in note for note in read_results(saved(tmp_path, TENSORRT_11)).notes)


def test_trtexec_traces_with_and_without_copies_differ(tmp_path: Path) -> None:
    """TensorRT 11 omits copies by default, and would seem faster by their duration."""
    query = json.loads(TENSORRT_11)[0]
    bare = query | {"h2dMs": 0.0, "d2hMs": 0.0, "latencyMs": query["computeMs"]}
    profiles = [read_results(saved(tmp_path, json.dumps([each] * 30))) for each in (query, bare)]
    assert differences(*profiles) == (
        "h2d in most frames: yes against no",
        "d2h in most frames: yes against no",
    )
    assert describe(profiles[1].run).stages["h2d"].n == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "at least 1 item"),
        ("[{}]", "0.startH2dMs"),
        (TENSORRT_11.replace('"computeMs" : 4', '"computeMs" : "4"'), "1.computeMs"),
        (TENSORRT_11.replace('"computeMs" : 4', '"computeMs" : -4'), "1.computeMs"),
        (TENSORRT_11.replace('"latencyMs" : 4.75', '"latencyMs" : NaN'), "1.latencyMs"),
        (TENSORRT_11.replace('"latencyMs" : 4.75', '"latencyMs" : 1e300'), "1.latencyMs"),
        (TENSORRT_11[:-40], "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        ('[{ "count" : 100 }, { "name" : "conv", "timeMs" : 1.0 }]', "0.startH2dMs"),
    ],
    ids=["empty", "no keys", "text", "negative", "nan", "huge", "cut", "deep", "exportProfile"],
)
def test_malformed_trtexec_trace_fails_with_the_location(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProfileError, check=code("profile.malformed")) as raised:
        read_results(saved(tmp_path, text))
    assert message in str(raised.value)


def test_python_benchmark_app_report_is_imported(tmp_path: Path) -> None:
    profile = read_results(saved(tmp_path, PYTHON_REPORT))
    reported = profile.run.reported
    assert reported is not None
    assert (reported.n, reported.quantiles_ms, reported.mean_ms, reported.min_ms, reported.max_ms) == (
        2895,
        {"p50": 0.21},
        0.33,
        0.19,
        5.66,
    )
    assert (profile.kind, profile.subject.engine, profile.subject.device) == (
        "benchmark_app",
        "openvino",
        "CPU",
    )
    assert (profile.subject.model_id, profile.subject.threads) == ("encoder.xml", 1)
    assert profile.environment.settings == {
        "API": "sync",
        "inference requests": "1",
        "batch size": "1",
        "number of CPU streams": "1",
    }
    assert profile.run.duration_s == pytest.approx(1.00011)
    assert "first inference time (ms): 3.49" in profile.notes


def test_cpp_benchmark_app_report_is_imported(tmp_path: Path) -> None:
    profile = read_results(saved(tmp_path, CPP_REPORT))
    assert profile.run.reported is not None
    assert profile.run.reported.quantiles_ms == {"p99": 0.2134}
    assert (profile.subject.device, profile.environment.settings["inference requests"]) == ("NPU", "4")


def test_benchmark_app_percentile_is_imported_by_name(tmp_path: Path) -> None:
    request = results(**{"latency (ms)": None, "latency (95 percentile) (ms)": "0.28"})
    reported = read_results(saved(tmp_path, request)).run.reported
    assert reported is not None and reported.quantiles_ms == {"p95": 0.28}


def test_benchmark_app_unknown_percentile_becomes_a_note(tmp_path: Path) -> None:
    request = results(**{"latency (ms)": None, "latency (75 percentile) (ms)": "0.28"})
    profile = read_results(saved(tmp_path, request))
    assert profile.run.reported is not None and profile.run.reported.quantiles_ms == {}
    assert "75 % of the inferences took at most 0.28 ms" in profile.notes


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"execution_results": {"error": "no such device"}}, "profile.tool_failed"),
        (results(**{"total number of iterations": None}), "profile.malformed"),
        (results(**{"total number of iterations": "0"}), "profile.malformed"),
        (results(**{"total execution time (ms)": "soon"}), "profile.malformed"),
        (results(**{"total execution time (ms)": "1e308"}), "profile.malformed"),
        ({"execution_results": [1]}, "profile.malformed"),
    ],
)
def test_malformed_benchmark_app_report_fails(tmp_path: Path, report: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProfileError, check=code(reason)):
        read_results(saved(tmp_path, report))


def test_read_results_reads_a_profile(tmp_path: Path) -> None:
    profile = make_profile(frames=20)
    write_profile(profile, tmp_path / "p.json")
    assert read_results(tmp_path / "p.json") == profile


def test_imported_profile_can_be_written_and_read(tmp_path: Path) -> None:
    profile = read_results(saved(tmp_path, PYTHON_REPORT))
    write_profile(profile, tmp_path / "kept.json")
    assert read_results(tmp_path / "kept.json") == profile


@pytest.mark.parametrize("content", [PYTHON_REPORT, TENSORRT_11, make_profile(frames=20).model_dump_json()])
def test_read_results_reads_a_pipe(tmp_path: Path, content: str | dict[str, Any]) -> None:
    file, pipe = saved(tmp_path, content), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["dd", f"if={file}", f"of={pipe}", "status=none"])
    assert read_results(pipe).run == read_results(file).run
    assert writer.wait() == 0


def test_imported_profiles_share_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, trace, ours = tmp_path / "report.json", tmp_path / "trace.json", tmp_path / "ours.json"
    report.write_text(json.dumps(PYTHON_REPORT))
    query = json.loads(TENSORRT_11)[0]
    trace.write_text(json.dumps([query | {"startH2dMs": 10.0 * index} for index in range(600)]))
    write_profile(make_profile(), ours)
    files = [str(ours), str(trace), str(report)]
    assert main(["compare", *files]) == 1
    assert "kind of measurement: pipeline against trtexec" in capsys.readouterr().err
    assert main(["compare", *files, "--allow-different", "--markdown", "-"]) == 4
    lines = capsys.readouterr().out.splitlines()
    rows = lines[2:5]
    assert "- report.json: the other profile contains no samples" in lines
    assert rows[1].endswith("| better |") and " 3.75 [3.75, 3.75] " in rows[1].replace("\\", "")
    assert rows[2].endswith("| not judged |") and "| 2895 | 0.21 | - | - | - | - | 5.66 |" in rows[2]


def test_real_benchmark_app_report_is_imported(tmp_path: Path) -> None:
    model = Path(__file__).parents[3] / "models" / "two_rooms" / "encoder" / "openvino" / "model.xml"
    options = "-hint none -nstreams 1 -nthreads 1 -api sync -niter 200 -report_type no_counters -json_stats"
    tool = "from openvino.tools.benchmark.main import main; main()"
    subprocess.run(
        [sys.executable, "-c", tool, "-m", model, *options.split(), "-report_folder", tmp_path],
        check=True,
        capture_output=True,
        timeout=60,
    )
    profile = read_results(tmp_path / "benchmark_report.json")
    reported = profile.run.reported
    assert reported is not None and reported.n == 200
    assert reported.min_ms is not None and reported.max_ms is not None
    assert 0 < reported.min_ms <= reported.quantiles_ms["p50"] <= reported.max_ms
    assert (profile.subject.device, profile.subject.threads) == ("CPU", 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_read_results_of_arbitrary_content_raises_profile_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ProfileError):
        read_results(saved(tmp_path, data))


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(json.loads(TENSORRT_11)[0])), JSON))
def test_trtexec_trace_with_arbitrary_values_is_read_or_fails(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    query = json.loads(TENSORRT_11)[0] | changes
    try:
        profile = read_results(saved(tmp_path, json.dumps([query])))
    except ProfileError:
        return
    assert profile.run.latency_ms[0] >= 0
    describe(profile.run)


@fuzz
@given(
    st.sampled_from([PYTHON_REPORT, CPP_REPORT]),
    st.sampled_from(["cmd_options", "configuration_setup", "execution_results"]),
    st.data(),
)
def test_benchmark_app_report_with_arbitrary_values_is_read_or_fails(
    tmp_path: Path, report: dict[str, Any], part: str, data: st.DataObject
) -> None:
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(report[part])), JSON))
    try:
        profile = read_results(saved(tmp_path, report | {part: report[part] | changes}))
    except ProfileError:
        return
    assert profile.run.reported is not None and profile.run.reported.n >= 1
    describe(profile.run)
