"""Check the runtime's limits with a ViT-S-class model, measured on this machine in one run.

    serving   over ROS 2 at --rate, the camera in another process, for --minutes: p99 of the response (from
              the time an image was due to its futures in a third process) within a period, no image dropped;
              our own stages around the two inferences (decode to publish, with the history) at most 1.5 ms
    memory    the node's resident memory after a minute of that at most 300 MB, also if it compiled its models
              itself
    tail      in one process at 70 % of the highest rate, under SCHED_FIFO: p99.9 of the response at most 1.5
              x its median, no image dropped, while the machine is quiet (determined by a probe, see
              peers/quiet.py); for comparison the same of all images, and, at that rate and priority,
              OpenVINO's infer() of the encoder alone
    neighbor over ROS 2 with another process that uses one core constantly, the inference threads under
              SCHED_FIFO where permitted: images are dropped rather than queued, none is older than two
              periods when its result is published
    start     from starting the node's process to its first latent, with cached compiled models: at most 2 s
    cameras   two cameras at half the rate each, one process: no image of either dropped
    soak      serving for --soak-minutes; and memory, descriptors and latency do not grow

Results of checks that were not run are retained in the file, each with the time and machine of its
measurement.

Exit status 1 if a limit is missed, 2 if something could not be measured; the other checks are still run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import rclpy
from jepa_msgs.msg import LatentState
from jepa_ros.common import qos
from jepa_ros.profiler.processes import Child, node_command, prepare_environment
from peers.bare_openvino import bare_infer
from peers.figures import growth, known, reading
from peers.limit import Limit, rows, show
from peers.quiet import Probe
from peers.students import vit_s
from rclpy.time import Time
from rich.console import Console

from jepa_runtime.backends import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import positive
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.model import WorldModel
from jepa_runtime.profiling import (
    LoadGenerator,
    Profile,
    Run,
    Workload,
    describe,
    distribution,
    lost_frames,
    read_profile,
    responses,
    scheduled_frames,
)
from jepa_runtime.serving import RealtimeSettings, realtime
from jepa_runtime.telemetry import read_environment
from jepa_runtime.util import write_json

ROOT = Path(__file__).resolve().parent.parent
SIZE = (640, 480)
OURS = ("decode", "preprocess", "energy", "message", "publish")
THEIRS = ("transport", "encode", "predict", "delivery")
PATIENCE_S = 60.0
# As on a robot that prefers its model to everything else.
REALTIME = RealtimeSettings(fifo_priority=10, lock_memory=True, keep_heap=True)


@dataclass(frozen=True)
class Setting:
    """Settings shared by all checks."""

    bundle: Path
    threads: int
    rate_hz: float
    scratch: Path

    @property
    def period_ms(self) -> float:
        """Return the time between two images."""
        return 1e3 / self.rate_hz

    def parameters(self, **further: Any) -> dict[str, Any]:
        """Return the parameters of the world_model node."""
        own = {"bundle": str(self.bundle), "cache_dir": str(self.scratch / "cache")}
        return {**own, "threads": self.threads, "allow_untrained": True, **further}


def serve(setting: Setting, seconds: float, *parameters: str) -> Profile:
    """Return a profile over ROS 2; ``parameters`` are node parameters as NAME:=VALUE.

    Raises:
        ProfileError: The profiler failed.
    """
    out = setting.scratch / "profile.json"
    command = [
        sys.executable, "-m", "jepa_ros.nodes.profiler", str(setting.bundle),
        "--source", "two_rooms", "--rate", repr(setting.rate_hz), "--duration", repr(seconds),
        "--size", "x".join(map(str, SIZE)),
        "--threads", str(setting.threads), "--cache-dir", str(setting.scratch / "cache"), "--allow-untrained",
        "--quiet", "--output", str(out), *(f"--param={parameter}" for parameter in parameters),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + 3 * PATIENCE_S
    )
    if done.returncode:
        raise ProfileError(f"the profile over ROS 2 failed: {done.stderr.strip()[-800:]}")
    return read_profile(out)


def serving(setting: Setting, minutes: float) -> list[Limit]:
    """Run the check ``serving``, see the module docstring."""
    return served(setting, serve(setting, 60 * minutes), minutes)


def served(setting: Setting, profile: Profile, minutes: float) -> list[Limit]:
    """Return the limits for a profile of ``minutes``."""
    reported = describe(profile.run)
    samples = f"{reported.frames} images in {minutes:g} min"
    medians = {stage: known(reported.stages.get(stage), "p50", stage) for stage in (*OURS, *THEIRS)}
    # The history is part of the time that no stage accounts for.
    ours = sum(medians[stage] for stage in OURS) + known(reported.residual, "p50", "the residual")
    p50, p99 = (known(reported.response, name, "the response") for name in ("p50", "p99"))
    return [
        Limit("serving", "p50 of the response", p50, None, "ms", samples),
        Limit("serving", "p99 of the response", p99, setting.period_ms, "ms", samples),
        Limit("serving", "images dropped", reported.dropped + reported.failed, 0, "images", samples),
        Limit("serving", f"ours ({', '.join(OURS)}, residual), sum of p50", ours, 1.5, "ms", samples),
        *(Limit("serving", f"p50 of {stage}", medians[stage], None, "ms", samples) for stage in THEIRS),
    ]


def memory(setting: Setting) -> list[Limit]:
    """Run the check ``memory``, see the module docstring."""
    limits, alone = [], replace(setting, scratch=setting.scratch / "memory")
    alone.scratch.mkdir()
    samples = f"a minute at {setting.rate_hz:g} Hz"
    for name in ("of a node that compiled its models", "of a node with cached models"):
        readings = serve(alone, 60.0).readings
        limits += [
            Limit("memory", name, max(reading(readings, "rss").values), 300, "MB", samples),
            Limit(
                "memory", "including its start", reading(readings, "peak rss").values[-1], None, "MB", samples
            ),
        ]
    return limits


def tail(setting: Setting, seconds: float) -> list[Limit]:
    """Run the check ``tail``, see the module docstring."""
    options, applied = BackendOptions(threads=setting.threads), []

    def open_model() -> WorldModel:
        applied[:] = realtime.apply(REALTIME)
        return WorldModel.open(setting.bundle, options=options, allow_untrained=True)

    workload = Workload.read("two_rooms", rate_hz=setting.rate_hz, size=SIZE)
    with LoadGenerator(open_model, workload, stopping=Event()) as load:
        realtime.release_startup_memory()
        rate_hz = 0.7 * (describe(load.closed_loop(15.0)).achieved_hz or 0.0)
        ticks: list[float] = []
        # Images arrive as from a camera, which sends at any time.
        with Probe(os.sched_getaffinity(0)) as probe, scheduled(2 * REALTIME.fifo_priority):
            run = load.open_loop(rate_hz, seconds, tick=lambda _: ticks.append(time.perf_counter()))
    failed = [str(each) for each in applied if not each.achieved]
    with scheduled(REALTIME.fifo_priority):
        alone = np.array(bare_infer(setting.bundle, setting.threads, rate_hz, seconds))
    realtime.revert(REALTIME)
    return tailed(
        run,
        ticks[0] + scheduled_frames(run),
        probe,
        alone,
        "; ".join([f"images at {rate_hz:.1f} Hz", *failed]),
    )


def tailed(run: Run, due_s: np.ndarray, probe: Probe, alone: np.ndarray, samples: str) -> list[Limit]:
    """Return the limits for a run at 70 % of the highest rate.

    Args:
        run: The run.
        due_s: Times at which its images were due (perf_counter).
        probe: Probe of the activity of the machine.
        alone: Times of a bare infer() [ms].
        samples: Description of the samples.

    Raises:
        ProfileError: The machine was busy for more than half of the images, or there are too few.
    """
    response, lost = responses(run), lost_frames(run)
    quiet = probe.quiet(due_s, due_s + response / 1e3)
    if quiet.mean() < 0.5:
        raise ProfileError(
            f"the machine was quiet for only {quiet.mean():.0%} of the images, too few for a tail"
        )
    of_all, of_quiet = f"{len(quiet)} {samples}", f"{quiet.sum()} of {len(quiet)} {samples}"

    def ratio(times: np.ndarray) -> float:
        reported = distribution(times)
        return known(reported, "p999", "the response") / known(reported, "p50", "the response")

    bare = float(np.quantile(alone, 0.999) / np.median(alone))
    return [
        Limit("tail", "p50 at 70 % of the highest rate", float(np.median(response)), None, "ms", of_all),
        Limit("tail", "p99.9 / p50 while the machine was quiet", ratio(response[quiet]), 1.5, "", of_quiet),
        Limit("tail", "images dropped while it was quiet", int(lost[quiet].sum()), 0, "images", of_quiet),
        Limit("tail", "p99.9 / p50 of all", ratio(response), None, "", of_all),
        Limit("tail", "images dropped", int(lost.sum()), None, "images", of_all),
        Limit("tail", "p99.9 / p50 of a bare infer() of the encoder, all", bare, None, "", of_all),
    ]


@contextmanager
def scheduled(priority: int) -> Iterator[None]:
    """Run the calling thread, and those it starts, under SCHED_FIFO if permitted."""
    realtime.apply(RealtimeSettings(fifo_priority=priority))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def neighbor(setting: Setting, seconds: float) -> list[Limit]:
    """Run the check ``neighbor``, see the module docstring."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        run = serve(setting, seconds, f"fifo_priority:={REALTIME.fifo_priority}").run
    finally:
        busy.kill()
        busy.wait()
    ages = np.array(run.latency_ms) - np.array(run.stages_ms["delivery"])
    samples, oldest = f"{len(ages)} results", float(ages.max())
    return [
        Limit("neighbor", "images dropped", len(run.dropped_s), None, "images", samples),
        Limit("neighbor", "age of the oldest image published", oldest, 2 * setting.period_ms, "ms", samples),
    ]


def start(setting: Setting, repetitions: int) -> list[Limit]:
    """Run the check ``start``, see the module docstring."""
    rclpy.init()
    node = rclpy.create_node("limits")
    latest_ns = 0

    def take(latent: LatentState) -> None:
        nonlocal latest_ns
        latest_ns = Time.from_msg(latent.header.stamp).nanoseconds

    node.create_subscription(LatentState, "/world_model/latent", take, qos.RESULT)
    durations_s = []
    try:
        with camera(setting, "camera/image_raw", setting.rate_hz):
            # The first start fills the cache of compiled models.
            for repetition in range(repetitions + 1):
                began, began_ns = time.monotonic(), time.time_ns()
                remaps = {"image": "camera/image_raw"}
                command = node_command("world_model", setting.parameters(), remaps)
                with Child("world model", command, setting.scratch / "log") as model:
                    # Latents of the previous process that were still in transit have older stamps.
                    while latest_ns < began_ns:
                        rclpy.spin_once(node, timeout_sec=0.01)
                        if model.exit_message or time.monotonic() - began > PATIENCE_S:
                            raise ProfileError(
                                f"no latent arrived: {model.exit_message}{model.log_excerpt()}"
                            )
                    if repetition:
                        durations_s.append(time.monotonic() - began)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    samples = f"{repetitions} starts, compiled models and files in the cache"
    return [
        Limit(
            "start",
            "process started to first latent, median",
            statistics.median(durations_s),
            2.0,
            "s",
            samples,
        ),
        Limit("start", "the slowest", max(durations_s), None, "s", samples),
    ]


def camera(setting: Setting, topic: str, rate_hz: float) -> Child:
    """Return a camera in a separate process."""
    name = topic.replace("/", "_")
    parameters = {"source": "two_rooms", "rate_hz": rate_hz, "loop": True}
    command = node_command("camera", parameters, {"camera/image_raw": topic, "__node": name})
    return Child(topic, command, setting.scratch / f"{name}.log")


def cameras(setting: Setting, seconds: float) -> list[Limit]:
    """Run the check ``cameras``, see the module docstring."""
    topics = ["left/image_raw", "right/image_raw"]
    report = setting.scratch / "report.json"
    parameters = setting.parameters(cameras=topics, report_path=str(report))
    with Child("world model", node_command("world_model", parameters, {}), setting.scratch / "log") as model:
        time.sleep(10)
        with ExitStack() as stack:
            for topic in topics:
                stack.enter_context(camera(setting, topic, setting.rate_hz / 2))
            time.sleep(seconds)
        if model.exit_message:
            raise ProfileError(f"{model.exit_message}{model.log_excerpt()}")
    by_topic = json.loads(report.read_text(encoding="utf-8"))["cameras"]
    limits = []
    for topic in topics:
        counters = by_topic[topic]["counters"]
        if counters["received"] < 0.5 * seconds * setting.rate_hz / 2:
            raise ProfileError(f"{topic}: only {counters['received']} images arrived in {seconds:g} s")
        lost, samples = counters["dropped"] + counters["failed"], f"{counters['received']} images"
        limits.append(Limit("cameras", f"{topic}: images dropped", lost, 0, "images", samples))
    return limits


def soak(setting: Setting, minutes: float) -> list[Limit]:
    """Run the check ``soak``, see the module docstring.

    Growth is the slope of a least-squares line over the run without its first tenth, times its length. Within
    the noise is less than the interquartile range (latency), one descriptor, 3 MB.
    """
    profile = serve(setting, 60 * minutes)
    run, due = profile.run, round(60 * minutes * setting.rate_hz)
    samples = f"{len(run.scheduled_s)} of {due} images in {minutes:g} min"
    latency = np.array(run.latency_ms)
    noise = float(np.ptp(np.quantile(latency, [0.25, 0.75])))
    rss, descriptors = (reading(profile.readings, name) for name in ("rss", "descriptors"))
    slower, more = growth(run.scheduled_s, latency), growth(descriptors.times_s, descriptors.values)
    return [
        *(replace(limit, check="soak") for limit in served(setting, profile, minutes)),
        Limit("soak", "growth of the latency", slower, noise, "ms", samples),
        Limit("soak", "growth of the memory", growth(rss.times_s, rss.values), 3.0, "MB", samples),
        Limit("soak", "growth of the descriptors", more, 1.0, "", samples),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    prepare_environment(isolated=True)
    checks: dict[str, Callable[[Setting], list[Limit]]] = {
        "serving": lambda setting: serving(setting, arguments.minutes),
        "memory": memory,
        "tail": lambda setting: tail(setting, arguments.tail_seconds),
        "neighbor": lambda setting: neighbor(setting, 30.0),
        "start": lambda setting: start(setting, 5),
        "cameras": lambda setting: cameras(setting, 20.0),
        "soak": lambda setting: soak(setting, arguments.soak_minutes),
    }
    limits: list[Limit] = []
    failed = False
    try:
        path = arguments.bundle or vit_s(only="openvino/int8")
        bundle = Bundle.open(path)
    except (JepaRuntimeError, OSError) as error:
        print(f"limits: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="jepa-limits-") as scratch:
        setting = Setting(path, arguments.threads, arguments.rate, Path(scratch))
        for name in arguments.checks:
            try:
                with console.status(f"measuring {name}"):
                    limits += checks[name](setting)
            except (JepaRuntimeError, OSError, subprocess.TimeoutExpired) as error:
                # The other checks still run.
                print(f"limits: {name}: {error}", file=sys.stderr)
                failed = True
    if not limits:
        return 2
    manifest = bundle.manifest
    report = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"id": manifest.model_id, "version": manifest.version, "sha256": bundle.sha256},
        "model_frame": [manifest.io.frame.width, manifest.io.frame.height],
        "candidates": manifest.num_samples,
        "horizon": manifest.horizon,
        "threads": arguments.threads,
        "rate_hz": arguments.rate,
        "camera_frame": SIZE,
        "environment": read_environment().model_dump(),
    }
    report["limits"] = rows(limits, report, arguments.json)
    write_json(arguments.json, report)
    show(limits, report, console)
    return 2 if failed else 0 if all(limit.met for limit in limits) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = ("serving", "memory", "tail", "neighbor", "start", "cameras", "soak")
    add(
        "--bundle", type=Path,
        help="bundle (default: ViT-S in INT8 with random weights, out/vit_s_int8, built if missing)",
    )  # fmt: skip
    add("--checks", nargs="+", choices=names, default=names[:-1], metavar="CHECK",
        help=f"checks: {', '.join(names)} (default: all but soak)")  # fmt: skip
    add("--threads", type=int, default=min(2, os.cpu_count() or 1))
    add("--rate", type=positive, default=30.0, help="images per second (default: %(default)s)")
    add("--minutes", type=positive, default=10.0, help="duration of serving [min] (default: %(default)s)")
    add("--tail-seconds", type=positive, default=300.0, help="duration of tail [s] (default: %(default)s)")
    add("--soak-minutes", type=positive, default=60.0, help="duration of soak [min] (default: %(default)s)")
    add("--json", type=Path, default=ROOT / "benchmarks" / "results" / "limits.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
