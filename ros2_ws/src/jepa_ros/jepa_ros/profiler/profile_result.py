"""From what was measured to the profile that is written."""

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
from jepa_runtime.profiling.profile import Profile, Run, Subject, copy_absent_reason
from jepa_runtime.telemetry.environment import environment
from jepa_runtime.telemetry.measurements import Energy, Environment, Reading

# What passes before an image comes to the inference thread, or after.
_OUTSIDE = ("receive", "transport", "decode", "wait", "delivery")
# Of so many images a step one is near enough to any moment: the node's tolerance is an eighth of a step.
_ANY_FITS = 4.0
_RATES = 8
# Of the node's parameters those that a profile tells as its subject.
_IN_SUBJECT = ("bundle", "engine", "precision", "num_samples", "threads")


def profile_of(
    options: argparse.Namespace,
    *,
    info: ModelInfo,
    run: Run,
    readings: Sequence[Reading],
    energy: Energy,
    frame_size: tuple[int, int],
    notes: Sequence[str],
) -> Profile:
    """The profile of a run that :mod:`jepa_ros.nodes.profiler` made with ``options``."""
    measured_on = _environment(options)
    attached = options.attach is not None
    subject = Subject(
        model_id=info.model_id,
        model_version=info.version,
        sha256=info.sha256,
        engine=info.engine,
        # A node that was started elsewhere may have another engine than what is installed here.
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
    """Rates to sweep [Hz], rising: from that of ``run``, or half of what could be done one image after the
    other if that is less, to a little more than what the node's inference thread could do by itself.

    Images are stamped with the moment at which they were due. At low rates those fit only of which a step of
    the model holds a whole number: else images have none a step before them, and no futures.

    Raises:
        ProfileError: the node told no stage times.
    """
    latency_ms = np.array(run.latency_ms)
    stages = {name: np.array(values) for name, values in run.stages_ms.items() if name not in _OUTSIDE}
    thread_ms = sum(stages.values(), np.zeros(len(latency_ms)))
    # An image without futures takes less.
    told = thread_ms > 0
    if (predicted := told & (stages.get("predict", thread_ms) > 0)).any():
        told = predicted
    if not told.any():
        raise ProfileError("the node told no stage times, by which rates are chosen")
    lowest_hz = min(run.rate_hz or np.inf, 0.5e3 / np.median(latency_ms[told]))
    rates_hz = np.geomspace(lowest_hz, 1.1e3 / np.median(thread_ms[told]), _RATES)
    in_step = np.maximum(1, np.round(rates_hz * step_s)) / step_s
    chosen = np.where(rates_hz * step_s < _ANY_FITS, in_step, np.round(rates_hz, 1))
    return sorted(set(chosen.tolist()))


def _environment(options: argparse.Namespace) -> Environment:
    found = environment()
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
