"""Conversion of the measurements to a profile."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from jepa_msgs.msg import ModelInfo
from rclpy.utilities import get_rmw_implementation_identifier

from jepa_ros.profiler.options import node_parameters
from jepa_ros.profiler.processes import dds_profile
from jepa_runtime import __version__
from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling import Profile, Run, Subject, copy_absent_reason
from jepa_runtime.telemetry import Energy, Environment, Reading, read_environment

# Stages before and after the inference thread.
_OUTSIDE = ("receive", "transport", "decode", "wait", "delivery")
# With this many images per step, an image is close enough to any time: the tolerance of the node is an eighth
# of a step.
_MIN_FRAMES_PER_STEP = 4.0
_RATES = 8
# Parameters of the node that the profile lists in its subject.
_IN_SUBJECT = ("bundle", "engine", "precision", "num_samples", "threads")


def create_profile(
    options: argparse.Namespace,
    *,
    info: ModelInfo,
    run: Run,
    readings: Sequence[Reading],
    energy: Energy,
    frame_size: tuple[int, int],
    notes: Sequence[str],
) -> Profile:
    """Return the profile of a run of :mod:`jepa_ros.nodes.profiler`."""
    measured_on = _environment(options)
    attached = options.attach is not None
    subject = Subject(
        model_id=info.model_id,
        model_version=info.version,
        sha256=info.sha256,
        engine=info.engine,
        # The engine of a node that was started elsewhere may differ from the one installed here.
        engine_version=None if attached else measured_on.versions.get(info.engine),
        device=info.device,
        precision=info.precision,
        threads=None if attached else node_parameters(options)["threads"],
        futures=info.num_samples,
        horizon=info.horizon,
        source=options.source,
        frame_size=frame_size,
    )
    return Profile(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        tool=f"jepa-runtime {__version__}",
        kind="ros",
        subject=subject,
        environment=measured_on,
        run=run.model_copy(
            update={"absent": run.absent | {"copy": copy_absent_reason(info.engine, info.device)}}
        ),
        readings=list(readings),
        energy=energy,
        notes=list(notes),
    )


def sweep_rates(run: Run, step_s: float) -> list[float]:
    """Return increasing rates to sweep [Hz].

    They range from the rate of ``run``, or half the sequential rate if that is lower, to slightly above the
    limit of the node's inference thread. Images are stamped with the time at which they were due. A low rate
    must give a whole number of images per model step: otherwise no image has another one a step before it,
    and there are no futures.

    Raises:
        ProfileError: The node reported no stage times.
    """
    latency_ms = np.array(run.latency_ms)
    stages = {name: np.array(values) for name, values in run.stages_ms.items() if name not in _OUTSIDE}
    thread_ms = sum(stages.values(), np.zeros(len(latency_ms)))
    # Images without futures take less time.
    reported = thread_ms > 0
    if (predicted := reported & (stages.get("predict", thread_ms) > 0)).any():
        reported = predicted
    if not reported.any():
        raise ProfileError(
            "the node reported no stage times, which determine the rates", code="profile.no_stage_times"
        )
    lowest_hz = min(run.rate_hz or np.inf, 0.5e3 / np.median(latency_ms[reported]))
    rates_hz = np.geomspace(lowest_hz, 1.1e3 / np.median(thread_ms[reported]), _RATES)
    whole_frames = np.maximum(1, np.round(rates_hz * step_s)) / step_s
    rates_hz = np.where(rates_hz * step_s < _MIN_FRAMES_PER_STEP, whole_frames, np.round(rates_hz, 1))
    return sorted(set(rates_hz.tolist()))


def _environment(options: argparse.Namespace) -> Environment:
    found = read_environment()
    ros = {"ros": os.environ.get("ROS_DISTRO", ""), "rmw": get_rmw_implementation_identifier()}
    with suppress(PackageNotFoundError):
        ros["rclpy"] = version("rclpy")
    settings = {
        "dds profile": dds_profile(),
        **{
            f"parameter {name}": json.dumps(value)
            for name, value in dict(options.param).items()
            if name not in _IN_SUBJECT
        },
    }
    return found.model_copy(
        update={
            "versions": found.versions | {name: value for name, value in ros.items() if value},
            "settings": found.settings | settings,
        }
    )
