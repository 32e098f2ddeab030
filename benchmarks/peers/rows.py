"""The rows of the comparison: each is opened once, measured once per round, and summarized at the end."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from peers.benchmark_app import OPTIONS, Reported, benchmark_app
from peers.bf16 import has_bf16

from jepa_runtime.backends import BackendOptions, create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.model import graphs
from jepa_runtime.profiling import Quantile, distribution, read_profile, responses
from jepa_runtime.telemetry import Reading
from jepa_runtime.util import is_supported

HERE = Path(__file__).resolve().parent
ENGINE = "openvino:CPU"
# torch.compile takes one or two minutes, onnxruntime and OpenVINO seconds.
_OPEN_PATIENCE_S = 900.0
_ROUND_PATIENCE_S = 600.0
_STOP_PATIENCE_S = 10.0
# Emulated, a graph of a ViT-S in bf16 takes a second.
_EMULATED_FRAMES = 4
_DDS_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


class RowError(Exception):
    """A row could not be measured although it should have been."""


class AbsentRowError(Exception):
    """A row does not exist for this bundle or on this machine; the message says why."""


@dataclass(frozen=True)
class Setting:
    """Settings shared by all rows.

    Attributes:
        frames: Counted frames per round of a row without ROS.
        seconds: Duration of a round of a row with ROS.
        scratch: Folder of temporary files.
    """

    bundle: Bundle
    threads: int
    size: str
    source: str
    rate_hz: float
    frames: int
    seconds: float
    scratch: Path


@dataclass
class Row:
    """One row. Subclasses open, measure and close; this class collects the results.

    Attributes:
        name: Name on the command line.
        label: Name in tables.
        precision: int8, fp16, bf16 or fp32.
        emulated: The processor lacks the precision; measured in the first round only, on few frames.
        notes: Conditions of the measurement.
        start_s: From files to the futures of the first frame, with loaded libraries; None: unknown.
    """

    name: str
    label: str
    precision: str
    setting: Setting
    notes: list[str] = field(default_factory=list)
    emulated: bool = False
    latency_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    rounds_p50_ms: list[float] = field(default_factory=list)
    stages_rounds_p50_ms: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: float = 0.0
    counted: int = 0
    peak_rss_mb: float = 0.0
    start_s: float | None = None

    @property
    def frames(self) -> int:
        """Return the number of counted frames per round."""
        return _EMULATED_FRAMES if self.emulated else self.setting.frames

    def open(self) -> None:
        """Prepare the row; afterwards it waits without using a processor.

        Raises:
            AbsentRowError: The row does not exist here.
            RowError: It failed.
        """

    def measure(self) -> None:
        """Measure one round.

        Raises:
            RowError: It failed.
        """

    def close(self) -> None:
        """Stop all processes."""

    def add(
        self, latency_ms: Sequence[float], stages_ms: dict[str, list[float]], cpu_s: float, peak_rss_mb: float
    ) -> None:
        """Add the results of a round."""
        self.latency_ms += latency_ms
        self.rounds_p50_ms.append(round(median(latency_ms), 4))
        for stage, values in stages_ms.items():
            self.stages_ms.setdefault(stage, []).extend(values)
            self.stages_rounds_p50_ms.setdefault(stage, []).append(round(median(values), 4))
        self.cpu_s += cpu_s
        self.peak_rss_mb = max(self.peak_rss_mb, peak_rss_mb)

    def summary(self) -> dict[str, Any]:
        """Return the row of the report."""
        reported = distribution(self.latency_ms)
        return {
            "row": self.name,
            "label": self.label,
            "precision": self.precision,
            "n": reported.n,
            "p50_ms": _quantile(reported.p50),
            "p99_ms": _quantile(reported.p99),
            "max_ms": _rounded(reported.max),
            "stages_ms": {
                stage: {
                    "p50": _rounded(each.p50.value),
                    "p99": _rounded(each.p99.value),
                    "n": each.n,
                    "rounds_p50": self.stages_rounds_p50_ms[stage],
                }
                for stage, each in ((name, distribution(values)) for name, values in self.stages_ms.items())
            },
            "rounds_p50_ms": self.rounds_p50_ms,
            "cpu_s_per_frame": round(self.cpu_s / (self.counted or reported.n), 6),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "start_s": _rounded(self.start_s),
            "notes": self.notes,
        }


@dataclass
class ServedRow(Row):
    """A process with the protocol of peers/serving.py. ``script``: its file; ``options``: its own options."""

    script: str = ""
    options: tuple[str, ...] = ()

    def open(self) -> None:
        setting = self.setting
        self._log = setting.scratch / f"{self.name}_{self.precision}.log"
        command = [
            sys.executable, str(HERE / self.script), "--bundle", str(setting.bundle.path),
            "--precision", self.precision, "--threads", str(setting.threads), "--size", setting.size,
            *self.options,
        ]  # fmt: skip
        # A cache of torch.compile from an earlier run would hide the compilation time.
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(setting.scratch / "inductor")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        answer = self._answer(_OPEN_PATIENCE_S)
        if "absent" in answer:
            raise AbsentRowError(answer["absent"])
        self.start_s = sum(answer["ready"].values())

    def measure(self) -> None:
        assert self._process.stdin is not None
        # A process that has exited gives no answer.
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{self.frames}\n".encode())
            self._process.stdin.flush()
        self.add(**self._answer(_ROUND_PATIENCE_S))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self, patience_s: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline() if select.select([stdout], [], [], patience_s)[0] else b""
        if not line:
            output = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
            raise RowError(f"{self.name} ({self.precision}) gave no answer: " + "\n  ".join(output))
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass
class BenchmarkAppRow(Row):
    """benchmark_app on each graph alone. It reports one percentile per run, so each graph is run twice."""

    def open(self) -> None:
        backend = create_backend(ENGINE, BackendOptions(threads=self.setting.threads))
        # In bf16 OpenVINO computes the fp32 graphs.
        source = "fp32" if self.precision == "bf16" else self.precision
        try:
            files = graphs(self.setting.bundle, backend, source, self.setting.bundle.manifest.num_samples)
        finally:
            backend.close()
        self._options = OPTIONS
        if self.precision == "bf16":
            self._options = OPTIONS.replace("-infer_precision f32", "-infer_precision bf16")
        stages = {"encoder": "encode", "predictor": "predict"}
        self._graphs = {stages[role]: (Path(graph.name), shapes) for role, (graph, shapes) in files.items()}
        self._reported: dict[str, dict[int, list[Reported]]] = {
            stage: {50: [], 99: []} for stage in self._graphs
        }
        self.notes += [
            f"benchmark_app {self._options}; each graph in a separate process: p50 is the sum of the two "
            "medians (of each, the median over the rounds), memory the sum of both; a p99 of the sum is "
            "unknown",
        ]

    def measure(self) -> None:
        for stage, (graph, shapes) in self._graphs.items():
            for percentile, runs in self._reported[stage].items():
                runs.append(
                    benchmark_app(
                        graph, shapes, threads=self.setting.threads, count=self.frames,
                        percentile=percentile, options=self._options,
                    )
                )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        stages: dict[str, dict[str, Any]] = {}
        cpu_s = peak_mb = 0.0
        for stage, by_percentile in self._reported.items():
            medians, tails = ([run.percentile_ms for run in runs] for runs in by_percentile.values())
            runs = [run for runs in by_percentile.values() for run in runs]
            enough = is_supported(min(run.count for run in by_percentile[99]), 990)
            stages[stage] = {
                "p50": round(median(medians), 4),
                "p99": round(median(tails), 4) if enough else None,
                "n": sum(run.count for run in by_percentile[50]),
                "rounds_p50": medians,
            }
            cpu_s += sum(run.cpu_s for run in runs) / sum(run.count for run in runs)
            peak_mb += max(run.peak_rss_mb for run in runs)
        return {
            "row": self.name,
            "label": self.label,
            "precision": self.precision,
            "n": min(reported["n"] for reported in stages.values()),
            "p50_ms": {"value": round(sum(reported["p50"] for reported in stages.values()), 4), "sum": True},
            "p99_ms": {"value": None},
            "max_ms": None,
            "stages_ms": stages,
            "cpu_s_per_frame": round(cpu_s, 6),
            "peak_rss_mb": round(peak_mb, 1),
            "start_s": None,
            "notes": self.notes,
        }


@dataclass
class GraphRow(Row):
    """A node on a ROS 2 graph, measured by a program that writes a profile in each round.

    Attributes:
        command: That program.
        dds_profile: Whether Fast DDS uses the profile of jepa_bringup.
    """

    command: tuple[str, ...] = ()
    dds_profile: bool = True
    due: int = 0
    dropped: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        environment = dict(os.environ)
        if not self.dds_profile:
            environment = {name: value for name, value in environment.items() if name not in _DDS_PROFILES}
        self._environment = environment | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        probe = subprocess.run(
            [sys.executable, "-c", "import rclpy, jepa_ros.nodes.profiler"],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if probe.returncode:
            stderr = probe.stderr.strip().splitlines()[-1:]
            raise AbsentRowError(f"ROS 2 and the workspace are not on the paths (. scripts/env.sh): {stderr}")
        from jepa_ros.profiler.processes import choose_domain

        # An isolated graph on this machine only.
        self._environment["ROS_DOMAIN_ID"] = choose_domain()

    def measure(self) -> None:
        setting, out = self.setting, self.setting.scratch / f"{self.name}.json"
        out.unlink(missing_ok=True)
        command = [
            sys.executable, *self.command, str(setting.bundle.path),
            "--precision", self.precision, "--source", setting.source, "--size", setting.size,
            "--rate", f"{setting.rate_hz:g}", "--duration", f"{setting.seconds:g}", "--output", str(out),
        ]  # fmt: skip
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False,
            timeout=_ROUND_PATIENCE_S + setting.seconds,
        )  # fmt: skip
        if done.returncode or not out.exists():
            raise RowError(f"{self.name} failed ({done.returncode}): {done.stderr.strip()[-800:]}")
        profile = read_profile(out)
        run, readings = profile.run, {reading.name: reading for reading in profile.readings}
        self.due += len(run.scheduled_s) + len(run.dropped_s) + len(run.failed_s)
        self.dropped += len(run.dropped_s) + len(run.failed_s)
        self.counted += len(run.scheduled_s)
        self.versions |= profile.environment.versions
        self.add(
            responses(run).tolist(), run.stages_ms, _integral(readings["process busy"]),
            readings["peak rss"].values[-1],
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        return super().summary() | {"due": self.due, "dropped": self.dropped}


def _integral(reading: Reading) -> float:
    """Return the integral of a rate over the intervals of its values."""
    times = [0.0, *reading.times_s]
    return sum(
        value * (now - before) for before, now, value in zip(times, times[1:], reading.values, strict=False)
    )


def _quantile(quantile: Quantile) -> dict[str, float | None]:
    return {name: _rounded(getattr(quantile, name)) for name in ("value", "low", "high")}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def rows_of(setting: Setting, precision: str) -> list[Row]:
    """Return all rows of this precision, not yet opened."""

    emulated = precision == "bf16" and not has_bf16()
    suffix = ", emulated" if emulated else ""

    def served(name: str, label: str, script: str, *options: str, notes: Sequence[str] = ()) -> Row:
        return ServedRow(
            name, label + suffix, precision, setting, list(notes), emulated, script=script, options=options
        )

    int8 = precision == "int8"
    profiler = (
        "-m", "jepa_ros.nodes.profiler", "--threads", str(setting.threads), "--engine", ENGINE,
        "--allow-untrained",
    )  # fmt: skip
    plain = (str(HERE / "plain_graph.py"),)
    return [
        served(
            "pipeline", "jepa-edge pipeline", "pipeline.py",
            notes=[
                "pipeline: also computes surprise, and updates the past context once per step; its times "
                "include both"
            ],
        ),
        served("encoder", "jepa-edge, the encoder alone", "encoder.py"),
        BenchmarkAppRow(
            "benchmark_app", f"OpenVINO benchmark_app, both graphs{suffix}", precision, setting,
            emulated=emulated,
        ),
        served("openvino_in_turn", "OpenVINO, both graphs in turn", "openvino_graphs.py"),
        served(
            "torch_eager", f"PyTorch eager{', quantized by torch.ao (dynamic)' if int8 else ''}",
            "torch_modules.py",
        ),
        served("torch_compile", "torch.compile, default mode", "torch_modules.py", "--compile"),
        served(
            "torch_compile_frozen",
            f"torch.compile, weights frozen{', quantized by torchao (PT2E, x86)' if int8 else ''}",
            "torch_modules.py", "--compile", "frozen",
        ),
        served(
            "onnxruntime", f"onnxruntime{', its own Q/DQ, per channel' if int8 else ''}",
            "onnxruntime_session.py",
        ),
        GraphRow(
            "node", "jepa-edge world_model node", precision, setting, command=profiler,
            notes=[
                "node: also computes energies and surprise and publishes its stage times; futures in float16"
            ],
        ),
        GraphRow(
            "plain_node", "plain rclpy node", precision, setting, command=plain, dds_profile=False,
            notes=["plain_node: Fast DDS and OpenVINO with their defaults, but in f32; futures in float32"],
        ),
        GraphRow(
            "plain_node_dds", "plain rclpy node, DDS profile of jepa-edge", precision, setting, command=plain,
        ),
    ]  # fmt: skip
