"""``jepa-runtime profile``: measure the latency of a model and the state of the machine meanwhile."""

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

from rich.console import Console

import jepa_runtime
from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import profile_family
from jepa_runtime.commands.arguments import message_console, open_model
from jepa_runtime.commands.exit_status import ExitStatus, UsageError
from jepa_runtime.commands.parsers.profile import PASSES
from jepa_runtime.commands.profile_passes import SWEEP_S, Passes
from jepa_runtime.commands.profile_view import Steps, show
from jepa_runtime.commands.signals import stop_on_signals
from jepa_runtime.errors import ProfileError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.family import find_bundles
from jepa_runtime.profiling.load_generator import LoadGenerator, Workload, count_frames, default_rate_hz
from jepa_runtime.profiling.perfetto_trace import import_perfetto, write_trace
from jepa_runtime.profiling.profile import Profile, Run, Subject, read_profile, write_profile
from jepa_runtime.profiling.run_statistics import scheduled_frames, stage_times
from jepa_runtime.recording import check_outputs
from jepa_runtime.reports.profile_page import render_profile
from jepa_runtime.sources.factory import split_spec
from jepa_runtime.telemetry import IDLE_S, Monitor, measure_energy, measures_power
from jepa_runtime.telemetry.environment import read_environment
from jepa_runtime.telemetry.measurements import Environment
from jepa_runtime.util.compat import python_module
from jepa_runtime.util.output_files import file_paths, write_each, write_text

_POLL_S = 0.2


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        UsageError: The options contradict each other.
        JepaRuntimeError: An input is invalid, the main pass failed, or a file cannot be written.
    """
    paths = [found for path in args.bundle for found in find_bundles(path)]
    if paths != args.bundle or len(paths) > 1:
        return profile_family.run(args, paths)
    bundle = paths[0] if paths else None
    if (bundle is None) == (args.attach is None):
        raise UsageError("either BUNDLE or --attach is required")
    on_graph = args.ros or args.attach is not None
    if (args.topic or args.ros_param) and not on_graph:
        raise UsageError("--topic and --ros-param require --ros or --attach")
    console = message_console(args, "json", "html")
    outs = file_paths(args.json, args.html, args.trace)
    check_outputs(outs, Path(split_spec(args.source)[0]), *file_paths(bundle))
    if args.trace is not None:
        import_perfetto(args.trace)
    with stop_on_signals() as stopping:
        if on_graph or bundle is None:
            profile, status = _from_ros(args, bundle, stopping, console)
        else:
            profile, status = _measure(args, bundle, stopping, console), 0
    # The files are written first: printing to a closed terminal fails.
    try:
        write_each(
            (args.json, lambda: write_profile(profile, args.json)),
            (args.html, lambda: write_text(args.html, render_profile(profile))),
            (args.trace, lambda: write_trace(profile, args.trace)),
        )
    finally:
        show(profile, console, verbose=bool(args.verbose))
    return ExitStatus.OK if status == 0 else ExitStatus.ERROR


def _measure(args: argparse.Namespace, path: Path, stopping: Event, console: Console) -> Profile:
    bundle = Bundle.open(path)
    args.rate = args.rate or default_rate_hz(bundle.manifest)
    workload = Workload.read(args.source, rate_hz=args.rate, size=args.size)
    with Steps(console) as steps:
        steps.say("idle power")
        with Monitor() as idle:
            if measures_power(idle.readings()):
                stopping.wait(IDLE_S)
        passes = Passes(set(PASSES) - set(args.skip), steps, stopping, args.cache_dir)
        with LoadGenerator(partial(open_model, args, bundle), workload, stopping=stopping) as load:
            subject, skipped_engines = _subject(args, load.model, workload), load.model.skipped_engines
            with ExitStack() as monitored:
                busy = monitored.enter_context(Monitor())
                main = load.open_loop(
                    args.rate, args.duration, deadline_ms=args.deadline_ms or 1e3 / args.rate,
                    tick=steps.live, on_last_result=monitored.close,
                )  # fmt: skip
            # Readings before the run are of the frames that fill the history.
            readings = busy.readings(since_s=load.began_s)
            passes.under_load(load)
        passes.standalone(bundle, subject)
    return Profile(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tool=f"jepa-runtime {jepa_runtime.__version__}",
        kind="pipeline",
        subject=subject,
        environment=_environment(subject),
        run=main,
        readings=readings,
        energy=measure_energy(
            idle.readings(), readings, frames=len(main.scheduled_s), duration_s=main.duration_s
        ),
        notes=[
            f"{len(workload.frames)} frames of {workload.name} were preloaded ({workload.read_ms:.2f} ms "
            "each) and played in a loop; latency counts from the scheduled time of a frame",
            *_stopped(main, args),
            *_without_futures(main, bundle),
            *(f"preferred, but not usable: {reason}" for reason in skipped_engines),
            *busy.notes(),
            *passes.notes,
        ],
        **passes.found,
    )


def _stopped(run: Run, args: argparse.Namespace) -> list[str]:
    sent, planned = len(scheduled_frames(run)), count_frames(args.rate, args.duration)
    return [f"stopped after {sent} of {planned} frames"] if sent < planned else []


def _without_futures(run: Run, bundle: Bundle) -> list[str]:
    frames, predicted = len(run.scheduled_s), len(stage_times(run, "predict"))
    if predicted == frames:
        return []
    step_s = bundle.manifest.io.step_s
    return [
        f"futures in {predicted} of {frames} frames: the others were not one step ({step_s:g} s) after "
        "another frame"
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
    """Return the environment of this machine.

    TensorRT's version names the GPU (``10.3.0 on Orin``), which becomes a setting.
    """
    found = read_environment()
    _, _, gpu = (subject.engine_version or "").partition(" on ")
    return found.model_copy(update={"settings": found.settings | ({"gpu": gpu} if gpu else {})})


def _from_ros(
    args: argparse.Namespace, path: Path | None, stopping: Event, console: Console
) -> tuple[Profile, int]:
    """Measure the main pass and the sweep with the profiler of jepa_ros, a separate program.

    Parity is measured here afterwards, if the bundle is known.

    Returns:
        The profile, and the exit status of the profiler.
    """
    bundle = None if path is None else Bundle.open(path)
    if bundle is not None and bundle.manifest.io.state is not None:
        raise ProfileError(
            f"{path}: the model reads the measured state of the robot, which the profiler of jepa_ros does "
            "not publish: profile it without --ros, or a running node on a robot with --attach",
            code="profile.ros_state_unsupported",
        )
    if not all(map(find_spec, ("rclpy", "jepa_ros"))):
        raise ProfileError(
            "ROS 2 or its package jepa_ros is not found: source the workspace (. scripts/env.sh, or "
            "ros2_ws/install/setup.bash)",
            code="profile.ros_not_found",
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "profile.json"
        status = _run_profiler(_profiler_command(args, path, out), stopping)
        if not out.exists():
            raise ProfileError(
                f"the profiler of jepa_ros ended with status {status} and wrote no profile",
                code="profile.ros_profiler_failed",
            )
        profile = read_profile(out)
    notes = [*profile.notes]
    if args.attach is not None and "sweep" not in args.skip:
        notes.append("sweep: not measured: a node in use must not be overloaded")
    if missing := [name for name in PASSES if name not in ("parity", "sweep", *args.skip)]:
        notes.append(f"{', '.join(missing)}: not measured: not available over ROS 2")
    with Steps(console) as steps:
        passes = Passes({"parity"} - set(args.skip), steps, stopping, args.cache_dir)
        if bundle is not None:
            passes.standalone(bundle, profile.subject)
        elif "parity" not in args.skip:
            notes.append("parity: not measured: the bundle of a running node is unknown")
    return profile.model_copy(update={**passes.found, "notes": [*notes, *passes.notes]}), status


def _profiler_command(args: argparse.Namespace, bundle: Path | None, out: Path) -> list[str]:
    options = {
        "--source": args.source, "--rate": args.rate,
        "--duration": args.duration, "--engine": args.engine, "--threads": args.threads, "--output": out,
        "--num-samples": args.num_samples, "--cache-dir": args.cache_dir,
        "--precision": args.precision, "--attach": args.attach, "--topic": args.topic,
        "--deadline-ms": args.deadline_ms, "--size": args.size and "x".join(map(str, args.size)),
    }  # fmt: skip
    arguments = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    if args.attach is None and "sweep" not in args.skip:
        arguments += ["--sweep", str(SWEEP_S)]
    arguments += ["--quiet", *(f"--param={parameter}" for parameter in args.ros_param)]
    if args.allow_untrained:
        arguments.append("--allow-untrained")
    return [*python_module("jepa_ros.nodes.profiler"), *map(str, file_paths(bundle)), *arguments]


def _run_profiler(command: list[str], stopping: Event) -> int:
    """Run the profiler and return its exit status.

    After the first signal it writes what it measured until then; a second one ends it at once. It runs in a
    session of its own, so that Ctrl-C reaches it once, from here.
    """
    with subprocess.Popen(command, start_new_session=True) as profiler:
        try:
            while profiler.poll() is None and not stopping.wait(_POLL_S):
                pass
            profiler.terminate()
            return profiler.wait()
        except KeyboardInterrupt:
            profiler.terminate()
            raise
