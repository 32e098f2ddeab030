"""``jepa-runtime calibrate``: what is normal, learnt from a recording in which nothing is wrong."""

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

from jepa_runtime.backends.base import BackendOptions
from jepa_runtime.bundle import MAX_BLOCKS, Bundle, Manifest, seal
from jepa_runtime.calibration import highest_of_blocks, remembered, score_of
from jepa_runtime.calibration.alarms import Alarms
from jepa_runtime.commands.arguments import add_cache_argument, positive
from jepa_runtime.errors import JepaRuntimeError, SourceError
from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
from jepa_runtime.sources.base import Source, check_commands
from jepa_runtime.sources.factory import open_source
from jepa_runtime.util.output_files import check_writable

_DIGITS = 6
_TERMS = ProcessingConfig()

Floats = NDArray[np.float64]


def add_parser(subparsers: Any) -> None:
    """Add ``calibrate`` to the subcommands of ``jepa-runtime``."""
    parser = subparsers.add_parser(
        "calibrate",
        help="learn from a recording of normal operation what is surprising",
        description="Play a source in which nothing is wrong through a model, as fast as it goes, and write "
        "a copy of its bundle that says how far off predictions then are, and how surprising what comes: "
        "robots start with these error bounds, and draw the thresholds of their alarms from the scores. For "
        "one false alarm in ten minutes the recording must last half an hour at least, and hold the "
        "commands.",
    )
    parser.add_argument("--bundle", required=True, type=Path, metavar="FOLDER", help="the model bundle")
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="S",
        help="as of `jepa-runtime run`: BAG.mcap?action=/cmd_vel:…; may be given again",
    )
    parser.add_argument(
        "--keep-bounds",
        action="store_true",
        help="learn the alarms only: error bounds stay those of the bundle",
    )
    parser.add_argument("--duration", type=positive, metavar="S", help="seconds of each (default: all)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the new bundle")
    parser.add_argument(
        "--engine", default="openvino:CPU", metavar="E", help="engine and device (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", metavar="P", help="int8, fp16, bf16 or fp32 (default: the bundle's first)"
    )
    add_cache_argument(parser)
    parser.add_argument("--allow-untrained", action="store_true", help="accept a bundle of random weights")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Raises:
        JepaRuntimeError: bad input, nothing to be learnt from it, or the new bundle cannot be written.
    """
    if args.out.exists():
        raise JepaRuntimeError(f"{args.out}: exists: name a new folder")
    bundle = Bundle.open(args.bundle)
    if bundle.path.resolve() in Path(os.path.realpath(args.out)).parents:
        raise JepaRuntimeError(f"{args.out}: lies in {args.bundle}, which is read: name a folder elsewhere")
    check_writable(args.out)
    horizon = bundle.manifest.horizon
    model = WorldModel.open(
        bundle,
        engine=args.engine,
        precision=args.precision,
        num_samples=1,
        options=BackendOptions(cache_dir=args.cache_dir),
        allow_untrained=args.allow_untrained,
    )
    # Of what was executed, number by number: the least and the most.
    executed = np.full((2, bundle.manifest.action_size), np.nan)
    runs, played, specs = [], [], " ".join(args.source)
    with model, ExitStack() as stack:
        # One that cannot be read is told before hours are played of another.
        sources = [stack.enter_context(closing(open_source(spec))) for spec in args.source]
        for source in sources:
            found = _errors(model, source, args.duration, executed)
            runs += [np.array(run) for run in found if len(run) >= horizon]
            played.append(source.name if args.duration is None else f"{args.duration:g} s of {source.name}")
    if not runs:
        raise JepaRuntimeError(
            f"{specs}: nothing could be compared: it needs commands (?action=…), and more than"
            f" {2 * horizon} steps of {bundle.manifest.io.step_s:g} s without a gap"
        )
    bounds = np.array(bundle.manifest.error_bounds) if args.keep_bounds else _bounds(runs)
    if not (bounds > 0).all():
        raise JepaRuntimeError(f"{specs}: nothing to learn: over some horizon no prediction was wrong")
    scores = [_scores(run, bounds) for run in runs]
    block = _block(scores, horizon, round(_TERMS.false_alarm_every_s / bundle.manifest.io.step_s))
    highest = np.concatenate([highest_of_blocks(run, block) for run in scores])
    learnt: dict[str, Any] = {
        "normal_scores": {"data": ", ".join(played), "block": block, "highest": _rounded(highest)},
    }
    if not args.keep_bounds:
        learnt["error_bounds"] = _rounded(bounds)
    _write(bundle, learnt, args.out)
    print(
        f"{args.out}: {len(highest)} blocks of {block} steps in {len(runs)} runs, half of them below"
        f" {np.median(highest):.3g}, the highest {highest.max():.3g}"
    )
    if remembered(scores, block):
        print(f"Scores remember more than {block} steps: changes are told falsely more often than asked for")
    for told in _still(bundle.manifest, *executed):
        print(f"{told}: if the robot did more than that, other numbers than ?action=… names are its action")
    try:
        Alarms(
            _rounded(highest),
            block=block,
            step_s=bundle.manifest.io.step_s,
            false_alarm_every_s=_TERMS.false_alarm_every_s,
        )
    except JepaRuntimeError as error:
        print(f"With it no alarm is given: {error}")
    return 0


def _write(bundle: Bundle, learnt: dict[str, Any], out: Path) -> None:
    """Write a copy of ``bundle`` that says what was ``learnt``.

    Raises:
        JepaRuntimeError: it cannot be written; what came to be called ``out`` meanwhile stays.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Half a bundle, or one that does not say what is normal, must not pass for the new one.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            made = shutil.copytree(bundle.path, Path(temporary) / "bundle")
            seal(made, bundle.manifest.model_dump(mode="json") | learnt)
            made.rename(out)
    except (OSError, shutil.Error) as error:
        raise JepaRuntimeError(f"{out}: cannot be written: {error}") from error


def _bounds(runs: list[Floats]) -> Floats:
    """Of each horizon, what errors stay under with the probability that is stated; 0 where none came."""
    came = [errors[~np.isnan(errors)] for errors in np.concatenate(runs).T]
    return np.array([np.quantile(each, _TERMS.error_probability) if len(each) else 0 for each in came])


def _scores(errors: Floats, bounds: Floats) -> Floats:
    """Of a run of errors [n, H]."""
    found = (score_of(row, bounds) for row in errors)
    return np.array([score.value for score in found if score is not None])


def _block(runs: list[Floats], horizon: int, every: int) -> int:
    """How many scores are a block: as many horizons as they are not remembered beyond, up to a tenth of
    ``every``, and more where a bundle could not hold so many blocks."""
    block = horizon
    while sum(len(run) // block for run in runs) > MAX_BLOCKS or (
        block + horizon <= every // 10 and remembered(runs, block)
    ):
        block += horizon
    return block


def _rounded(values: Floats) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _still(manifest: Manifest, least: Floats, most: Floats) -> Iterator[str]:
    """Of each number of the action that could have changed and did not, what it was."""
    action = manifest.io.action
    for name, unit, low, high, first, last in zip(
        action.names, action.units, action.low, action.high, least, most, strict=True
    ):
        if low < high and first == last:
            yield f"{name} was {first:g} {unit} all the time"


def _errors(
    model: WorldModel, source: Source, duration_s: float | None, executed: Floats
) -> Iterator[list[Floats]]:
    """The errors [H] of each step of each stretch of frames without a gap, in which it is known throughout
    what was executed; the least and the most of that is left in ``executed`` [2, A]."""
    inference, manifest = FrameProcessor(model, _TERMS), model.manifest
    check_commands(source, manifest)
    reach_ns = round((manifest.history_size + manifest.horizon) * manifest.io.step_s * 1e9)
    run: list[Floats] = []
    first_ns: int | None = None
    unknown_ns: int | None = None
    for frame in source.frames():
        first_ns = frame.stamp_ns if first_ns is None else first_ns
        if duration_s is not None and frame.stamp_ns - first_ns > duration_s * 1e9:
            break
        if source.command is None:
            unknown_ns = frame.stamp_ns
        elif manifest.takes_actions:
            try:
                inference.add_action(frame.stamp_ns, source.command)
            except ValueError as error:
                raise SourceError(
                    f"{source.name}: {error}; say which with ?action=TOPIC:FIELD,FIELD"
                ) from error
            np.fmin(executed[0], source.command, out=executed[0])
            np.fmax(executed[1], source.command, out=executed[1])
        result = inference.with_surprise(inference.process(frame, time.perf_counter_ns()))
        judged = inference.update_calibration(result)
        # The last command is held on; a robot that hears no more of them is not.
        guessed = manifest.takes_actions and unknown_ns is not None and frame.stamp_ns < unknown_ns + reach_ns
        if run and (guessed or result.reset is not None):
            yield run
            run = []
        if not guessed and judged is not None and judged.error_sample is not None:
            run.append(judged.error_sample.errors)
    if run:
        yield run
