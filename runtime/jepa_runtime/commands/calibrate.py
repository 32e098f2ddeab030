"""``jepa-runtime calibrate``: learn error bounds and normal scores from recordings of normal operation."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import MAX_BLOCKS, Bundle, Manifest, seal
from jepa_runtime.calibration import block_maxima, is_correlated, score_of
from jepa_runtime.calibration.alarms import Alarms
from jepa_runtime.commands.arguments import open_console, progress_on
from jepa_runtime.errors import JepaRuntimeError, SourceError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.serving.clip_sampler import ClipSampler
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.sources.base import Source, check_commands, check_states
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util.output_files import check_writable

_DIGITS = 6
_CONFIG = ProcessingConfig()

Floats = NDArray[np.float64]


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: An input is invalid or too short, or the new bundle cannot be written.
    """
    if args.output.exists():
        raise JepaRuntimeError(
            f"{args.output}: already exists: choose a new folder", code="calibration.output_exists"
        )
    bundle = Bundle.open(args.bundle)
    if bundle.path.resolve() in Path(os.path.realpath(args.output)).parents:
        raise JepaRuntimeError(
            f"{args.output}: is inside the input bundle {args.bundle}: choose another folder",
            code="calibration.output_in_bundle",
        )
    check_writable(args.output)
    horizon = bundle.manifest.horizon
    model = WorldModel.open(
        bundle,
        engine=args.engine,
        precision=args.precision,
        num_samples=1,
        options=BackendOptions(cache_dir=args.cache_dir),
        allow_untrained=args.allow_untrained,
    )
    # Minimum and maximum of each component of the executed actions.
    executed_range = np.full((2, bundle.manifest.action_size), np.nan)
    runs, played, specs = [], [], " ".join(args.source)
    with model, progress_on(open_console(stderr=True)) as bars, ExitStack() as stack:
        # All are opened first: an unreadable one must not fail after hours of another.
        sources = [stack.enter_context(closing(open_source(spec, rate_hz=args.rate))) for spec in args.source]
        for source in sources:
            segments = _errors(model, source, args.duration, executed_range, bars)
            runs += [np.array(run) for run in segments if len(run) >= horizon]
            played.append(source.name if args.duration is None else f"{args.duration:g} s of {source.name}")
    if not runs:
        raise JepaRuntimeError(
            f"{specs}: no prediction could be compared: a recording needs commands (?action=…) and more than"
            f" {2 * horizon} steps of {bundle.manifest.io.step_s:g} s without a gap",
            code="calibration.no_predictions",
        )
    bounds = np.array(bundle.manifest.error_bounds) if args.keep_bounds else _bounds(runs)
    if not (bounds > 0).all():
        raise JepaRuntimeError(
            f"{specs}: the error of some step is zero throughout: bounds cannot be learned from it",
            code="calibration.zero_error",
        )
    scores = [_scores(run, bounds) for run in runs]
    block = _block(scores, horizon, round(_CONFIG.false_alarm_every_s / bundle.manifest.io.step_s))
    highest = np.concatenate([block_maxima(run, block) for run in scores])
    learned: dict[str, Any] = {
        "normal_scores": {"data": ", ".join(played), "block": block, "highest": _rounded(highest)},
    }
    if not args.keep_bounds:
        learned["error_bounds"] = _rounded(bounds)
    _write(bundle, learned, args.output)
    print(
        f"{args.output}: {len(highest)} blocks of {block} steps in {len(runs)} runs; highest scores: median"
        f" {np.median(highest):.3g}, maximum {highest.max():.3g}"
    )
    if is_correlated(scores, block):
        print(
            f"Scores are correlated over more than {block} steps: there will be more false alarms than "
            "requested"
        )
    for component in _constant_components(bundle.manifest, *executed_range):
        print(f"{component}: if the robot did move in it, ?action=… names the wrong fields")
    try:
        Alarms(
            _rounded(highest),
            block=block,
            step_s=bundle.manifest.io.step_s,
            false_alarm_every_s=_CONFIG.false_alarm_every_s,
        )
    except JepaRuntimeError as error:
        print(f"Alarms are disabled with this bundle: {error}")
    return 0


def _write(bundle: Bundle, learned: dict[str, Any], output: Path) -> None:
    """Write a copy of ``bundle`` with the manifest fields ``learned``.

    Raises:
        JepaRuntimeError: It cannot be written, or ``output`` was created meanwhile; that folder is untouched.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # A partial or unsealed copy must not be mistaken for the new bundle.
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
            copy = shutil.copytree(bundle.path, Path(temporary) / "bundle")
            seal(copy, bundle.manifest.model_dump(mode="json") | learned)
            copy.rename(output)
    except (OSError, shutil.Error) as error:
        raise JepaRuntimeError(
            f"{output}: cannot be written: {error}", code="calibration.write_failed"
        ) from error


def _bounds(runs: list[Floats]) -> Floats:
    """Return the quantile of the errors of each step at the target coverage; 0 for a step without errors."""
    observed = [errors[~np.isnan(errors)] for errors in np.concatenate(runs).T]
    return np.array(
        [np.quantile(errors, _CONFIG.error_probability) if len(errors) else 0 for errors in observed]
    )


def _scores(errors: Floats, bounds: Floats) -> Floats:
    """Return the anomaly scores of the errors [n, H] of a run."""
    scores = (score_of(row, bounds) for row in errors)
    return np.array([score.value for score in scores if score is not None])


def _block(runs: list[Floats], horizon: int, every: int) -> int:
    """Return the number of scores in a block, a multiple of the horizon.

    Blocks grow until scores are not correlated beyond one, up to a tenth of ``every`` steps, and further
    while a bundle could not hold their number.
    """
    block = horizon
    while sum(len(run) // block for run in runs) > MAX_BLOCKS or (
        block + horizon <= every // 10 and is_correlated(runs, block)
    ):
        block += horizon
    return block


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _constant_components(manifest: Manifest, minimum: Floats, maximum: Floats) -> Iterator[str]:
    """Describe each component of the action that could vary and was constant."""
    action = manifest.io.action
    for name, unit, low, high, first, last in zip(
        action.names, action.units, action.low, action.high, minimum, maximum, strict=True
    ):
        if low < high and first == last:
            yield f"{name} was {first:g} {unit} throughout"


def _errors(
    model: WorldModel, source: Source, duration_s: float | None, executed_range: Floats, bars: Progress
) -> Iterator[list[Floats]]:
    """Yield the errors [H] of each step, for each run of frames without a gap and with known actions.

    ``executed_range`` [2, A] is updated with the minimum and maximum of the executed actions.
    """
    processor, manifest = FrameProcessor(model, _CONFIG), model.manifest
    check_commands(source, manifest)
    check_states(source, manifest)
    reach_ns = round((manifest.history_size + manifest.horizon) * manifest.io.step_s * 1e9)
    sampler, run = ClipSampler(manifest), list[Floats]()
    first_ns: int | None = None
    unknown_ns: int | None = None
    for frame in bars.track(source.frames(), description="frames"):
        first_ns = frame.stamp_ns if first_ns is None else first_ns
        if duration_s is not None and frame.stamp_ns - first_ns > duration_s * 1e9:
            break
        if source.command is None:
            unknown_ns = frame.stamp_ns
        elif manifest.takes_actions:
            try:
                processor.add_action(frame.stamp_ns, source.command)
            except ValueError as error:
                raise SourceError(
                    f"{source.name}: {error}; select the fields with ?action=TOPIC:FIELD,FIELD",
                    code="source.action_mismatch",
                ) from error
            np.fmin(executed_range[0], source.command, out=executed_range[0])
            np.fmax(executed_range[1], source.command, out=executed_range[1])
        if manifest.state_size and source.state is not None:
            processor.add_state(*source.state)
        clip = sampler.add(frame)
        if clip is None:
            continue
        if not clip.is_complete:
            processor.fill_cache(frame.stream, clip)
            continue
        result = processor.with_surprise(processor.process(frame, time.perf_counter_ns(), clip))
        judged = processor.update_calibration(result)
        # The processor holds the last command; a robot whose commands stop does not.
        unknown = manifest.takes_actions and unknown_ns is not None and frame.stamp_ns < unknown_ns + reach_ns
        if run and (unknown or result.reset is not None):
            yield run
            run = []
        if not unknown and judged is not None and judged.error_sample is not None:
            run.append(judged.error_sample.errors)
    if run:
        yield run
