"""``jepa-runtime profile``: how late a model is on this machine, and what the machine did meanwhile."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console

import jepa_runtime
from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.backends.select import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import frame_size, positive, stop_on_signals
from jepa_runtime.commands.profile_view import Steps, show
from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling import cold_start
from jepa_runtime.profiling.environment import environment
from jepa_runtime.profiling.load import Load, Workload
from jepa_runtime.profiling.machine import Monitor, energy
from jepa_runtime.profiling.profile import Layer, Parity, Profile, Subject, read_profile, write_profile
from jepa_runtime.profiling.profile_report import write_profile_report
from jepa_runtime.profiling.trace import write_trace
from jepa_runtime.sessions import graphs
from jepa_runtime.verification import golden_parity
from jepa_runtime.world_model import WorldModel

PASSES = ("parity", "closed", "sweep", "cold", "idle", "layers")
_IDLE_GAPS = ((0.1, 10), (1.0, 5), (10.0, 2))
_CLOSED_S, _SWEEP_S, _IDLE_S = 5.0, 4.0, 3.0
_LAYER_RUNS = 30
_COLD_STARTS = 3


def add_parser(subparsers: Any) -> None:
    """Add ``profile`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "profile",
        help="measure latency on this machine",
        description="Measure latency on this machine. The main pass is an open loop: frames are due at a "
        "fixed rate whatever the model does, and latency counts from the moment a frame was due. Further "
        "passes: parity with the golden outputs, closed loop (the highest rate), a sweep of rates to the "
        "knee, cold starts, the first frame after an idle gap, and the time of each layer.",
    )
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="the model bundle (not with --attach)")
    parser.add_argument(
        "--source", default="two_rooms", metavar="S", help="as for run; read ahead (default: %(default)s)"
    )
    parser.add_argument("--size", type=frame_size, metavar="WxH", help="scale frames (default: as they come)")
    parser.add_argument("--rate", type=positive, default=30.0, metavar="HZ", help="default: %(default)g")
    parser.add_argument(
        "--duration", type=positive, default=60.0, metavar="S", help="of the main pass (default: %(default)g)"
    )
    parser.add_argument(
        "--deadline-ms", type=positive, metavar="MS", help="deadline per frame (default: one period)"
    )
    parser.add_argument("--futures", type=int, metavar="K", help="futures per frame (default: the bundle's)")
    parser.add_argument(
        "--engine", default="openvino:CPU", metavar="E", help="engine and device (default: %(default)s)"
    )
    parser.add_argument("--precision", metavar="P", help="int8, fp16 or fp32 (default: the bundle's first)")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    parser.add_argument(
        "--skip", type=_passes, default=(), metavar="PASS,…", help=f"leave out: {', '.join(PASSES)}, or all"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the profile there, to compare it later"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report there")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Perfetto trace there")
    parser.add_argument("--allow-untrained", action="store_true", help="accept a bundle of random weights")
    ros = parser.add_argument_group("ROS 2", "the main pass on a running graph, seen from another process")
    ros.add_argument("--ros", action="store_true", help="publish frames to a world_model node of its own")
    ros.add_argument("--attach", metavar="NODE", help="… or to this one, which runs already")
    ros.add_argument(
        "--ros-param", action="append", default=[], metavar="NAME:=VALUE",
        help="a further parameter of the node that is started, such as cpu_affinity:=[1]",
    )  # fmt: skip
    ros.add_argument("--topic", metavar="T", help="topic of the images (default: camera/image_raw)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: bad input, or something could not be measured.
    """
    if (args.bundle is None) == (args.attach is None):
        raise ProfileError("give --bundle to start a model, or --attach to measure a node that runs")
    console = Console()
    with stop_on_signals() as stopping:
        profile = _from_ros(args) if args.ros or args.attach else _measure(args, stopping, console)
    for path, write in (
        (args.json, write_profile),
        (args.html, write_profile_report),
        (args.trace, write_trace),
    ):
        if path is not None:
            write(profile, path)
    show(profile, console)
    return 0


def _measure(args: argparse.Namespace, stopping: Event, console: Console) -> Profile:
    bundle = Bundle.open(args.bundle)
    workload = Workload.read(args.source, rate_hz=args.rate, size=args.size)
    options = BackendOptions(threads=args.threads)
    fields: dict[str, Any] = {
        "notes": [
            f"{len(workload.frames)} frames of {workload.name} were read ahead ({workload.read_ms:.2f} ms "
            "each) and shown in turn; latency counts from the moment a frame was due"
        ]
    }
    passes = [name for name in PASSES if name not in args.skip]
    open_model = partial(
        WorldModel.open, bundle, engine=args.engine, precision=args.precision, num_samples=args.futures,
        options=options, allow_untrained=args.allow_untrained,
    )  # fmt: skip
    with Steps(console) as steps:
        steps.say("idle, to know what the machine takes by itself")
        with Monitor() as idle:
            stopping.wait(_IDLE_S)
        with Load(open_model, workload, stopping=stopping) as load:
            fields["subject"] = subject = _subject(args, load.model, workload)
            with Monitor() as busy:
                fields["run"] = main = load.open_loop(
                    args.rate, args.duration, deadline_ms=args.deadline_ms or 1e3 / args.rate, tick=steps.live
                )
            fields["readings"] = busy.readings()
            fields["notes"] += busy.notes()
            fields["energy"] = energy(
                idle.readings(), fields["readings"], frames=len(main.scheduled_s), duration_s=main.duration_s
            )
            _more_load(load, passes, fields, steps, stopping)
        precision = subject.precision or ""
        if "parity" in passes and not stopping.is_set():
            steps.say("parity")
            fields["parity"] = _parity(bundle, args.engine, precision, options)
        if "cold" in passes and not stopping.is_set():
            start = cold_start.Start(
                bundle=args.bundle, engine=args.engine, precision=precision, num_samples=subject.futures,
                threads=args.threads,
            )  # fmt: skip
            tick = steps.counter("cold starts", len(cold_start.caches(start.engine)) * _COLD_STARTS)
            fields["cold_starts"] = cold_start.measure(start, repetitions=_COLD_STARTS, tick=tick)
        if "layers" in passes and not stopping.is_set():
            steps.say("layers")
            fields["layers"] = _layers(bundle, args.engine, precision, subject.futures or 1, options)
    return Profile(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=f"jepa-runtime {jepa_runtime.__version__}",
        kind="pipeline",
        environment=environment(),
        **fields,
    )


def _more_load(
    load: Load, passes: Sequence[str], fields: dict[str, Any], steps: Steps, stopping: Event
) -> None:
    """The passes that load the open pipeline in other ways."""
    if {"closed", "sweep"} & set(passes) and not stopping.is_set():
        steps.say("closed loop")
        fields["closed_loop"] = closed = load.closed_loop(_CLOSED_S)
        if "sweep" in passes and not stopping.is_set():
            fastest_hz = len(closed.scheduled_s) / closed.duration_s
            fields["sweep"] = load.sweep(
                fastest_hz, _SWEEP_S, tick=lambda rate_hz: steps.say(f"sweep: {rate_hz:g} Hz")
            )
    if "idle" in passes:
        gaps = []
        for gap_s, repetitions in _IDLE_GAPS:
            if not stopping.is_set():
                steps.say(f"idle gaps of {gap_s:g} s")
                gaps.append(load.idle_gap(gap_s, repetitions))
        fields["idle_gaps"] = [gap for gap in gaps if gap.latency_ms]


def _subject(args: argparse.Namespace, model: WorldModel, workload: Workload) -> Subject:
    return Subject(
        model_id=model.manifest.model_id,
        model_version=model.manifest.version,
        sha256=model.bundle.sha256,
        engine=model.engine,
        engine_version=model.engine_version,
        device=model.device,
        precision=model.precision,
        threads=args.threads,
        futures=model.num_samples,
        horizon=model.manifest.horizon,
        source=workload.name,
        frame_size=workload.size,
    )


def _parity(bundle: Bundle, engine: str, precision: str, options: BackendOptions) -> list[Parity]:
    found = golden_parity(bundle, engine=engine, precision=precision, options=options)
    for parity in found:
        if math.isnan(parity.max_abs):
            raise ProfileError(
                f"{bundle.path}: the {parity.graph} computes NaN or infinity on this machine in {precision}: "
                "how fast it does so says nothing; see jepa-runtime verify"
            )
    return [
        Parity(
            graph=parity.graph, mean_cosine=parity.mean_cosine, worst_cosine=parity.min_cosine,
            max_abs=parity.max_abs, ok=parity.ok,
        )
        for parity in found
    ]  # fmt: skip


def _layers(
    bundle: Bundle, engine: str, precision: str, num_samples: int, options: BackendOptions
) -> list[Layer]:
    backend = create_backend(engine, options)
    try:
        return [
            Layer(
                graph=role, name=layer.name, kind=layer.kind, implementation=layer.implementation,
                mean_ms=round(layer.mean_ms, 6),
            )
            for role, (graph, shapes) in graphs(bundle, backend, precision, num_samples).items()
            for layer in backend.layer_times(graph, shapes, _LAYER_RUNS)
        ]  # fmt: skip
    finally:
        backend.close()


def _from_ros(args: argparse.Namespace) -> Profile:
    """The main pass by the profiler of jepa_ros, a program of its own: this package knows no ROS."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile.json"
        options = {
            "--bundle": args.bundle, "--source": args.source, "--rate": args.rate,
            "--duration": args.duration, "--engine": args.engine, "--threads": args.threads, "--out": out,
            "--futures": args.futures,
            "--precision": args.precision, "--attach": args.attach, "--topic": args.topic,
            "--deadline-ms": args.deadline_ms, "--size": args.size and "x".join(map(str, args.size)),
        }  # fmt: skip
        told = [part for name, value in options.items() if value is not None for part in (name, str(value))]
        told += ["--quiet", *(f"--param={parameter}" for parameter in args.ros_param)]
        if args.allow_untrained:
            told.append("--allow-untrained")
        command = [sys.executable, "-m", "jepa_ros.nodes.profiler", *told]
        # At an interrupt the profiler, which gets the same signal, keeps what was measured until then.
        done = subprocess.run(command, check=False)
        if not out.exists():
            raise ProfileError(
                f"the profiler of jepa_ros ended with status {done.returncode} and left no profile; if it "
                "was not found, source the workspace (. scripts/env.sh, or ros2_ws/install/setup.bash)"
            )
        return read_profile(out)


def _passes(text: str) -> tuple[str, ...]:
    chosen = PASSES if text == "all" else tuple(text.split(","))
    unknown = [name for name in chosen if name not in PASSES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no pass {', '.join(unknown)}: there are {', '.join(PASSES)}")
    return chosen
