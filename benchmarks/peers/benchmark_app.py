"""OpenVINO's benchmark_app on one graph, configured as the runtime configures OpenVINO: one stream, the
settings of the latency hint, f32 for what is not quantized, one request at a time. Or with OpenVINO's own
defaults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jepa_runtime.telemetry import peak_rss_mb

# Without the package that reports its start to Google Analytics, and fails without a home folder.
PROGRAM = """
import sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark.main import main
main()
"""
# With -hint none it accepts threads and pinning; one stream and -api sync then equal the latency hint.
DEFAULTS = "-d CPU -hint none -api sync -nstreams 1"
_CONFIG = "config.json"
OPTIONS = f"{DEFAULTS} -pin NO -infer_precision f32 -load_config {_CONFIG}"


class BenchmarkAppError(Exception):
    """benchmark_app failed, or printed something unexpected."""


@dataclass(frozen=True)
class Reported:
    """Result of one run.

    Attributes:
        percentile_ms: Requested percentile [ms].
        count: Number of inferences.
        cpu_s: CPU time of the inferences [s].
        peak_rss_mb: Peak memory of the process.
    """

    percentile_ms: float
    count: int
    cpu_s: float
    peak_rss_mb: float


def benchmark_app(
    graph: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    threads: int,
    count: int,
    percentile: int,
    options: str = OPTIONS,
    dynamic_quantization_group_size: int = 0,
) -> Reported:
    """Run benchmark_app for ``count`` inferences.

    Args:
        graph: IR of the graph.
        shapes: Shape of each input; empty: those of the graph.
        threads: Number of threads.
        count: Number of inferences.
        percentile: Percentile to report.
        options: :data:`OPTIONS`, or :data:`DEFAULTS`: bf16 for what is not quantized if the processor has it,
            and activations quantized at run time if only the weights are INT8.
        dynamic_quantization_group_size: Value of that property in OPTIONS.

    Raises:
        BenchmarkAppError: It failed, or printed no report.
    """
    shape = ",".join(f"{name}[{','.join(map(str, sizes))}]" for name, sizes in shapes.items())
    reshape = ["-shape", shape] if shape else []
    config = {"CPU": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(dynamic_quantization_group_size)}}
    command = [
        sys.executable, "-c", PROGRAM,
        "-m", str(graph.resolve()), *reshape, *options.split(),
        "-nthreads", str(threads), "-niter", str(count), "-latency_percentile", str(percentile),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    lines: list[str] = []
    cpu_s = peak_mb = 0.0
    with tempfile.TemporaryDirectory() as folder:  # It writes a report to the current folder.
        (Path(folder) / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            # Only the time between these two lines counts; before it, the model is compiled and run once.
            if "First inference took" in line:
                cpu_s = -_cpu_s(process.pid)
            elif "[Step 11/11]" in line:
                # It may have exited already; the missing values are an error below.
                with suppress(ProcessLookupError, FileNotFoundError):
                    peak_mb = peak_rss_mb(process.pid)
                    cpu_s += _cpu_s(process.pid)
        status = process.wait()
    text = "".join(lines)
    latency = re.search(r"(?:Median|percentile):\s+([\d.]+) (us|ms)", text)
    runs = re.search(r"Count:\s+(\d+) iterations", text)
    if status or latency is None or runs is None or not peak_mb:
        raise BenchmarkAppError(f"benchmark_app failed on {graph} (status {status}): {text.strip()[-800:]}")
    return Reported(float(latency[1]) / (1000 if latency[2] == "us" else 1), int(runs[1]), cpu_s, peak_mb)


def _cpu_s(pid: int) -> float:
    """Return the user and system time of all threads of a process so far."""
    values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
