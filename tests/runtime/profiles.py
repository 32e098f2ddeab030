"""Profiles with known distributions, for tests of their readers."""

from __future__ import annotations

from typing import Any

import numpy as np

from jepa_runtime.profiling.profile import (
    ColdStart,
    IdleGap,
    Layer,
    Parity,
    Profile,
    Run,
    Subject,
    Sweep,
    SweepPoint,
)
from jepa_runtime.telemetry.measurements import Energy, Environment, Reading


def make_run(*, seed: int = 0, frames: int = 1800, rate_hz: float = 30.0, scale: float = 1.0) -> Run:
    """An open-loop run: gamma-distributed inference times, three drops, one failure."""
    rng = np.random.default_rng(seed)
    due = np.arange(frames) / rate_hz
    lost = set(rng.choice(frames, 4, replace=False).tolist()) if frames > 8 else set()
    dropped, failed = sorted(lost)[:3], sorted(lost)[3:]
    stored = np.array([index for index in range(frames) if index not in lost], int)
    count = len(stored)
    stages = {
        "receive": rng.gamma(2.0, 0.05, count),
        "wait": rng.gamma(2.0, 0.02, count),
        "preprocess": rng.gamma(20.0, 0.01, count),
        "encode": scale * rng.gamma(50.0, 0.1, count),
        "predict": scale * rng.gamma(50.0, 0.15, count),
    }
    latency = np.sum(list(stages.values()), axis=0) + rng.gamma(2.0, 0.03, count)
    return Run(
        rate_hz=rate_hz,
        deadline_ms=1000 / rate_hz,
        duration_s=frames / rate_hz,
        scheduled_s=due[stored].round(6).tolist(),
        latency_ms=latency.round(4).tolist(),
        stages_ms={name: values.round(4).tolist() for name, values in stages.items()},
        dropped_s=due[dropped].tolist(),
        failed_s=due[failed].tolist(),
        absent={"publish": "nothing is published without ROS 2"},
    )


def make_profile(*, seed: int = 0, frames: int = 1800, scale: float = 1.0, **changes: Any) -> Profile:
    """A complete profile; ``changes`` replace its fields."""
    rng = np.random.default_rng(seed + 1)
    run = make_run(seed=seed, frames=frames, scale=scale)
    moments = np.arange(0, run.duration_s, 1.0).tolist()
    fields: dict[str, Any] = {
        "created": "2026-01-01T00:00:00Z",
        "tool": "jepa-runtime 0.0",
        "kind": "pipeline",
        "subject": Subject(
            model_id="vit_s",
            model_version="1.0.0",
            sha256="0" * 64,
            engine="openvino",
            engine_version="2026.4.1",
            device="CPU",
            precision="int8",
            threads=1,
            futures=64,
            horizon=8,
            source="two_rooms",
            frame_size=(640, 480),
        ),
        "environment": Environment(
            cpu="A Processor",
            cores=2,
            architecture="x86_64",
            versions={"python": "3.11.0", "openvino": "2026.4.1"},
            settings={"governor": "performance"},
        ),
        "run": run,
        "closed_loop": make_run(seed=seed + 2, frames=600).model_copy(update={"rate_hz": None}),
        "sweep": Sweep(
            points=[
                SweepPoint(
                    rate_hz=10.0 * step,
                    frames=100 * step,
                    dropped=40 * (step > 3),
                    misses=0 if step < 4 else 60,
                    p50_ms=12.0 + step,
                    p99_ms=15.0 + 2 * step,
                    max_ms=20.0 + 9 * step,
                )
                for step in range(1, 6)
            ],
            max_late=0.01,
            knee_hz=30.0,
        ),
        "cold_starts": [
            ColdStart(
                cache="miss",
                phases_ms={
                    "import": [400.0, 410.0],
                    "open": [20.0, 21.0],
                    "compile": [900.0, 880.0],
                    "first_encode": [9.0, 9.5],
                    "first_predict": [14.0, 15.0],
                    "steady_encode": [5.0, 5.1],
                    "steady_predict": [7.5, 7.6],
                },
                total_ms=[1343.0, 1336.0],
            ),
        ],
        "idle_gaps": [
            IdleGap(gap_s=gap, latency_ms=(13 + gap + rng.random(5)).tolist()) for gap in (0.1, 1.0, 10.0)
        ],
        "readings": [
            Reading(
                name="cpu0 busy",
                unit="%",
                times_s=moments,
                values=(60 + 5 * rng.random(len(moments))).tolist(),
            ),
            Reading(name="rss", unit="MB", times_s=moments, values=[250.0] * len(moments)),
            Reading(name="package power", unit="W", absent="no RAPL counters in /sys/class/powercap"),
        ],
        "energy": Energy(
            per_frame_j=None, idle_w=None, busy_w=None, absent="the machine has no power sensor"
        ),
        "parity": [Parity(graph="encoder", mean_cosine=0.9999, worst_cosine=0.998, max_abs=0.02, ok=True)],
        "layers": [
            Layer(
                graph="encoder",
                name=f"block{index}/MatMul",
                kind="FullyConnected",
                implementation="brgemm_avx512_I8",
                mean_ms=0.1 + 0.01 * index,
            )
            for index in range(30)
        ],
        "notes": ["made for a test"],
    }
    return Profile(**(fields | changes))


def with_subject(profile: Profile, **changes: Any) -> Profile:
    return profile.model_copy(update={"subject": profile.subject.model_copy(update=changes)})


def with_environment(profile: Profile, **changes: Any) -> Profile:
    return profile.model_copy(update={"environment": profile.environment.model_copy(update=changes)})


def with_run(profile: Profile, **changes: Any) -> Profile:
    return profile.model_copy(update={"run": profile.run.model_copy(update=changes)})
