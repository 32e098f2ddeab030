"""``jepa-runtime profile``: how late a model is on this machine, and what the machine did meanwhile."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

from rich.console import Console

import jepa_runtime
from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands.arguments import (
    add_cache_argument,
    add_json_argument,
    frame_size,
    open_console,
    positive,
    rate,
)
from jepa_runtime.commands.profile_passes import PASSES, SWEEP_S, Passes
from jepa_runtime.commands.profile_view import Steps, show
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import ProfileError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.load_generator import LoadGenerator, Workload, count_frames
from jepa_runtime.profiling.perfetto_trace import import_perfetto, write_trace
from jepa_runtime.profiling.profile import Profile, Run, Subject, read_profile, write_profile
from jepa_runtime.profiling.run_statistics import due_frames, gone_through
from jepa_runtime.recording import check_outputs
from jepa_runtime.reports.profile_page import render_profile
from jepa_runtime.sources.factory import split_spec
from jepa_runtime.telemetry import IDLE_S, Monitor, energy, measures_power
from jepa_runtime.telemetry.environment import environment
from jepa_runtime.telemetry.measurements import Environment
from jepa_runtime.util.compat import python_module
from jepa_runtime.util.output_files import STDOUT, file_paths, write, write_each

_POLL_S = 0.2


def add_parser(subparsers: Any) -> None:
    """Add ``profile`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "profile",
        help="measure latency on this machine",
        description="Measure latency on this machine. The main pass is an open loop: frames are due at a "
        "fixed rate whatever the model does, and latency counts from the moment a frame was due. Further "
        "passes: parity with the golden outputs, closed loop (the highest rate), a sweep of rates to the "
        "knee, cold starts, the first frame after an idle gap, and the time of each layer.",
        epilog="Exit status: 0 measured; 1 not, or over ROS 2 the world model died or fell silent meanwhile: "
        "what was measured until then is written.",
    )
    parser.add_argument("--bundle", type=Path, metavar="FOLDER", help="the model bundle (not with --attach)")
    parser.add_argument(
        "--source", default="two_rooms", metavar="S", help="as for run; read ahead (default: %(default)s)"
    )
    parser.add_argument("--size", type=frame_size, metavar="WxH", help="scale frames (default: as they come)")
    parser.add_argument("--rate", type=rate, default=30.0, metavar="HZ", help="default: %(default)g")
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
    parser.add_argument(
        "--precision", metavar="P", help="int8, fp16, bf16 or fp32 (default: the bundle's first)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="inference threads (default: %(default)s)"
    )
    add_cache_argument(parser)
    parser.add_argument(
        "--skip", type=_passes, default=(), metavar="PASS,…", help=f"leave out: {', '.join(PASSES)}, or all"
    )
    add_json_argument(parser, "the profile, to compare it later,")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report there")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a Perfetto trace there")
    parser.add_argument("--allow-untrained", action="store_true", help="accept a bundle of random weights")
    ros = parser.add_argument_group(
        "ROS 2", "the main pass and the sweep on a running graph, seen from another process"
    )
    ros.add_argument("--ros", action="store_true", help="publish frames to a world_model node of its own")
    ros.add_argument(
        "--attach", metavar="NODE",
        help="… or to this one, which runs already; its own are engine, precision, threads and futures",
    )  # fmt: skip
    ros.add_argument(
        "--ros-param", action="append", default=[], metavar="NAME:=VALUE",
        help="a further parameter of the node that is started, such as cpu_affinity:=[1]",
    )  # fmt: skip
    ros.add_argument("--topic", metavar="T", help="topic of the images (default: camera/image_raw)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: bad input, the main pass could not be measured, or a file cannot be written.
    """
    if (args.bundle is None) == (args.attach is None):
        raise ProfileError("give --bundle to start a model, or --attach to measure a node that runs")
    on_graph = args.ros or args.attach is not None
    if (args.topic or args.ros_param) and not on_graph:
        raise ProfileError("--topic and --ros-param take --ros or --attach: without, no graph is measured")
    outs = file_paths(args.json, args.html, args.trace)
    check_outputs(outs, Path(split_spec(args.source)[0]), *file_paths(args.bundle))
    if args.trace is not None:
        import_perfetto(args.trace)
    console = open_console(stderr=args.json == STDOUT)
    with stop_on_signals() as stopping:
        if on_graph:
            profile, status = _from_ros(args, stopping, console)
        else:
            profile, status = _measure(args, stopping, console), 0
    # A terminal that is gone takes no table, and must not take the files with it.
    try:
        write_each(
            (args.json, lambda: write_profile(profile, args.json)),
            (args.html, lambda: write(args.html, render_profile(profile))),
            (args.trace, lambda: write_trace(profile, args.trace)),
        )
    finally:
        show(profile, console)
    return int(status != 0)


def _measure(args: argparse.Namespace, stopping: Event, console: Console) -> Profile:
    bundle = Bundle.open(args.bundle)
    workload = Workload.read(args.source, rate_hz=args.rate, size=args.size)
    open_model = partial(
        WorldModel.open, bundle, engine=args.engine, precision=args.precision, num_samples=args.futures,
        options=BackendOptions(threads=args.threads, cache_dir=args.cache_dir),
        allow_untrained=args.allow_untrained,
    )  # fmt: skip
    with Steps(console) as steps:
        steps.say("idle, to know what the machine takes by itself")
        with Monitor() as idle:
            if measures_power(idle.readings()):
                stopping.wait(IDLE_S)
        passes = Passes(set(PASSES) - set(args.skip), steps, stopping, args.cache_dir)
        with LoadGenerator(open_model, workload, stopping=stopping) as load:
            subject, passed_over = _subject(args, load.model, workload), load.model.passed_over
            with ExitStack() as watched:
                busy = watched.enter_context(Monitor())
                main = load.open_loop(
                    args.rate, args.duration, deadline_ms=args.deadline_ms or 1e3 / args.rate,
                    tick=steps.live, over=watched.close,
                )  # fmt: skip
            # The frames that fill the history came before the run began.
            readings = busy.readings(since_s=load.began_s)
            passes.under_load(load)
        passes.by_themselves(bundle, subject)
    return Profile(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=f"jepa-runtime {jepa_runtime.__version__}",
        kind="pipeline",
        subject=subject,
        environment=_environment(subject),
        run=main,
        readings=readings,
        energy=energy(idle.readings(), readings, frames=len(main.scheduled_s), duration_s=main.duration_s),
        notes=[
            f"{len(workload.frames)} frames of {workload.name} were read ahead ({workload.read_ms:.2f} ms "
            "each) and shown in turn; latency counts from the moment a frame was due",
            *_stopped(main, args),
            *_without_futures(main, bundle),
            *(f"preferred, but does not serve: {refused}" for refused in passed_over),
            *busy.notes(),
            *passes.notes,
        ],
        **passes.found,
    )


def _stopped(run: Run, args: argparse.Namespace) -> list[str]:
    sent, asked = len(due_frames(run)), count_frames(args.rate, args.duration)
    return [f"stopped after {sent} of {asked} frames"] if sent < asked else []


def _without_futures(run: Run, bundle: Bundle) -> list[str]:
    frames, predicted = len(run.scheduled_s), len(gone_through(run, "predict"))
    if predicted == frames:
        return []
    step_s = bundle.manifest.io.step_s
    return [
        f"futures in {predicted} of {frames} frames: the others had no image a step ({step_s:g} s) "
        "before them"
    ]


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


def _environment(subject: Subject) -> Environment:
    """Of this machine; what TensorRT says its GPU is (``10.3.0 on Orin``) is no version, but a condition."""
    found = environment()
    _, _, gpu = (subject.engine_version or "").partition(" on ")
    return found.model_copy(update={"settings": found.settings | ({"gpu": gpu} if gpu else {})})


def _from_ros(args: argparse.Namespace, stopping: Event, console: Console) -> tuple[Profile, int]:
    """The main pass and the sweep by the profiler of jepa_ros, a program of its own, with its exit status:
    this package knows no ROS. Parity is measured here afterwards, where the bundle is known."""
    if not all(map(find_spec, ("rclpy", "jepa_ros"))):
        raise ProfileError(
            "ROS 2 or its package jepa_ros is not found: source the workspace (. scripts/env.sh, or "
            "ros2_ws/install/setup.bash)"
        )
    bundle = Bundle.open(args.bundle) if args.bundle else None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile.json"
        status = _run_profiler(_profiler_command(args, out), stopping)
        if not out.exists():
            raise ProfileError(f"the profiler of jepa_ros ended with status {status} and left no profile")
        profile = read_profile(out)
    notes = [*profile.notes]
    if args.attach is not None and "sweep" not in args.skip:
        notes.append("sweep: not measured: a node that others use is not to be brought to its limit")
    if missing := [name for name in PASSES if name not in ("parity", "sweep", *args.skip)]:
        notes.append(f"{', '.join(missing)}: not measured: there are no such passes over ROS 2")
    with Steps(console) as steps:
        passes = Passes({"parity"} - set(args.skip), steps, stopping, args.cache_dir)
        if bundle is not None:
            passes.by_themselves(bundle, profile.subject)
        elif "parity" not in args.skip:
            notes.append("parity: not measured: a node that runs already does not tell where its bundle is")
    return profile.model_copy(update={**passes.found, "notes": [*notes, *passes.notes]}), status


def _profiler_command(args: argparse.Namespace, out: Path) -> list[str]:
    options = {
        "--bundle": args.bundle, "--source": args.source, "--rate": args.rate,
        "--duration": args.duration, "--engine": args.engine, "--threads": args.threads, "--out": out,
        "--futures": args.futures, "--cache-dir": args.cache_dir,
        "--precision": args.precision, "--attach": args.attach, "--topic": args.topic,
        "--deadline-ms": args.deadline_ms, "--size": args.size and "x".join(map(str, args.size)),
    }  # fmt: skip
    told = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    if args.attach is None and "sweep" not in args.skip:
        told += ["--sweep", str(SWEEP_S)]
    told += ["--quiet", *(f"--param={parameter}" for parameter in args.ros_param)]
    if args.allow_untrained:
        told.append("--allow-untrained")
    return [*python_module("jepa_ros.nodes.profiler"), *told]


def _run_profiler(command: list[str], stopping: Event) -> int:
    """Its exit status. At the first signal it keeps what was measured until then, at a second it ends at
    once: in a session of its own it hears them from here alone, so that Ctrl-C is one and not two."""
    with subprocess.Popen(command, start_new_session=True) as profiler:
        try:
            while profiler.poll() is None and not stopping.wait(_POLL_S):
                pass
            profiler.terminate()
            return profiler.wait()
        except KeyboardInterrupt:
            profiler.terminate()
            raise


def _passes(text: str) -> tuple[str, ...]:
    chosen = PASSES if text == "all" else tuple(text.split(","))
    unknown = [name for name in chosen if name not in PASSES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no pass {', '.join(unknown)}: there are {', '.join(PASSES)}")
    return chosen
