"""OpenVINO's benchmark_app on one graph, set up as the runtime sets up OpenVINO: one stream, the latency
hint's settings, f32 for what is not quantized, one request at a time. Or with OpenVINO's own defaults."""

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

# Without the package that reports its start to Google Analytics, and quiets it where there is no home folder.
PROGRAM = """
import sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark.main import main
main()
"""
# With -hint none it takes threads and pinning; one stream and -api sync are then what the latency hint makes.
DEFAULTS = "-d CPU -hint none -api sync -nstreams 1"
_CONFIG = "config.json"
OPTIONS = f"{DEFAULTS} -pin NO -infer_precision f32 -load_config {_CONFIG}"


class BenchmarkAppError(Exception):
    """benchmark_app failed, or said something else than expected."""


@dataclass(frozen=True)
class Reported:
    """Of one run: the percentile asked for [ms], of how many inferences, processor seconds that those took,
    and the process's peak memory."""

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
    """Run it for ``count`` inferences.

    Args:
        options: :data:`OPTIONS`, or :data:`DEFAULTS`: bf16 for what is not quantized where the processor has
            it, and activations quantized at run time where the weights alone are INT8.
        dynamic_quantization_group_size: the value of that property in OPTIONS.

    Raises:
        BenchmarkAppError: it failed, or did not report.
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
    said: list[str] = []
    cpu_s = peak_mb = 0.0
    with tempfile.TemporaryDirectory() as folder:  # It leaves a report where it runs.
        (Path(folder) / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            # What is counted lies between these two lines; before it, the model is compiled and run once.
            if "First inference took" in line:
                cpu_s = -_cpu_s(process.pid)
            elif "[Step 11/11]" in line:
                # It may be gone already; then nothing is known, and that is an error below.
                with suppress(ProcessLookupError, FileNotFoundError):
                    peak_mb = peak_rss_mb(process.pid)
                    cpu_s += _cpu_s(process.pid)
        status = process.wait()
    text = "".join(said)
    found = re.search(r"(?:Median|percentile):\s+([\d.]+) (us|ms)", text)
    runs = re.search(r"Count:\s+(\d+) iterations", text)
    if status or found is None or runs is None or not peak_mb:
        raise BenchmarkAppError(f"benchmark_app failed on {graph} (status {status}): {text.strip()[-800:]}")
    return Reported(float(found[1]) / (1000 if found[2] == "us" else 1), int(runs[1]), cpu_s, peak_mb)


def _cpu_s(pid: int) -> float:
    """User and system time of all threads of a process so far."""
    values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
