"""jepa-export bundle: the bundle of your own encoder and predictor, from Python or from ONNX files."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_export.commands.options import (
    NOTHING_WRITTEN,
    REQUIRED,
    add_output_argument,
    add_target_argument,
    targets_of,
)
from jepa_runtime.commands import UsageError

if TYPE_CHECKING:
    from jepa_export.bundling.manifest_fields import ActionSpace
    from jepa_export.data.recording import Recording

# The options for what ONNX files do not contain.
_REQUIRED = (
    "mean",
    "std",
    "action_low",
    "action_high",
    "step_s",
    "horizon",
    "model_id",
    "model_version",
    "description",
    "license",
    "trained_on",
)
_OPTIONAL = (
    "energy",
    "frame_size",
    "history",
    "num_samples",
    "action_max_norm",
    "action_free",
    "action_prefixes",
)
_OF_ACTIONS = ("action_low", "action_high", "action_max_norm", "action_prefixes")


def add_parser(subparsers: Any) -> None:
    """Add ``bundle`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "bundle",
        description="Write the bundle of an encoder and a predictor that a Python function creates or that "
        "ONNX files contain. The networks are checked, calibrated and measured on recordings, and each "
        "variant is verified against them.",
    )
    networks = parser.add_mutually_exclusive_group(required=True)
    networks.add_argument(
        "factory",
        nargs="?",
        metavar="MODULE:FUNCTION",
        help="function that gets the path of the checkpoint (or None) and returns a dictionary of arguments "
        "for jepa_export.export_bundle; it is imported and run, so name only code that you trust",
    )
    networks.add_argument(
        "--onnx",
        nargs=2,
        type=Path,
        metavar=("ENCODER", "PREDICTOR"),
        help="ONNX files: images float32 [N, 3, height, width] to latents [N, T, D], and latents "
        "[K, W, T, D] and actions [K, W, A] (not with --action-free) to the next latent [K, T, D] (otherwise "
        "with --action-prefixes)",
    )
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="weights, passed to the function")
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="DATA",
        help="recordings with actions: a bag, a folder of them, a LeRobot data set, or two_rooms; for a bag "
        "with the topic and fields of the actions: BAG?action=/cmd_vel:linear.x,angular.z; for a model "
        "without actions also videos; repeatable",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        help="proportion of the recordings to measure on, each as a whole; the others are calibrated on "
        "(default: %(default)s)",
    )
    parser.add_argument("--skip-bad", action="store_true", help="skip recordings that cannot be used")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="cache of decoded frames (default: a temporary folder)"
    )
    add_output_argument(parser, "folder of the bundle")
    add_target_argument(parser)
    parser.add_argument(
        "--seed", type=number_types.seed, default=0, help="random seed (default: %(default)s)"
    )
    _add_onnx_arguments(parser)
    parser.set_defaults(run=_run, needs=REQUIRED, stopped=NOTHING_WRITTEN)


def _add_onnx_arguments(parser: argparse.ArgumentParser) -> None:
    """Add options for what ONNX files do not contain, which a Python function would return."""
    add = parser.add_argument_group(
        "with --onnx", "Names and units of the actions are those of the recordings."
    ).add_argument
    add(
        "--energy",
        type=Path,
        metavar="FILE",
        help="ONNX file of an energy (default: mean absolute difference)",
    )
    add("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="mean of pixels in 0 to 1 in training")
    add("--std", type=float, nargs=3, metavar=("R", "G", "B"), help="standard deviation of these pixels")
    add(
        "--frame-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images in pixels (default: that of the encoder's input)",
    )
    add("--action-low", type=float, nargs="+", metavar="MIN", help="minimum of each action component")
    add("--action-high", type=float, nargs="+", metavar="MAX", help="maximum of each action component")
    add("--action-max-norm", type=float, metavar="NORM", help="maximum norm of an action (default: none)")
    add(
        "--action-free",
        action="store_true",
        default=None,
        help="the predictor predicts from latents alone; recordings need no actions",
    )
    add(
        "--action-prefixes",
        action="store_true",
        default=None,
        help="the predictor returns the latents after every prefix of the actions in one call: from latents "
        "[1, W, T, D], actions [K, H, A] and, if W > 1, the actions between the latents [1, W-1, A], to "
        "[K, H, T, D]",
    )
    add("--step-s", type=float, metavar="SECONDS", help="duration of one step of the predictor")
    add("--horizon", type=int, metavar="N", help="predicted steps")
    add(
        "--history",
        type=int,
        metavar="N",
        help="latents that the predictor sees (default: those of its input)",
    )
    add(
        "--num-samples",
        type=int,
        metavar="K",
        help="futures predicted at once (default: 64; 1 with --action-free)",
    )
    add("--model-id", metavar="ID", help="id of the model: lower case letters, digits and underscores")
    add("--model-version", metavar="VERSION", help="version, as in Semantic Versioning")
    add("--description", metavar="TEXT", help="what the model is for")
    add("--license", metavar="SPDX", help="SPDX identifier of the license of the weights")
    add("--trained-on", metavar="TEXT", help="data that the networks were trained on")


def _run(arguments: argparse.Namespace) -> int:
    import tempfile

    from rich.console import Console

    from jepa_export.bundling.export_bundle import export_bundle
    from jepa_export.bundling.staging import check_output, write_errors_reported
    from jepa_export.bundling.variants import DEFAULT_TARGETS
    from jepa_export.commands.build_student import print_steps
    from jepa_export.data.frame_store import FrameStore
    from jepa_export.data.open_data import open_data

    console = Console()
    progress = print_steps(console)
    check_output(arguments.out)
    _check_options(arguments)
    networks, commit = _python_networks(arguments) if arguments.onnx is None else _onnx_networks(arguments)
    height, width = networks["frame_size"]
    with write_errors_reported(arguments.out):
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=arguments.out.parent, prefix=f".{arguments.out.name}."
        ) as scratch:
            store = FrameStore(arguments.cache or Path(scratch), height=height, width=width)
            progress("reading recordings")
            data = open_data(arguments.data, store, held_out=arguments.held_out, skip_bad=arguments.skip_bad)
            if "actions" not in networks:
                networks["actions"] = _recorded_actions(arguments, data.train[0])
            export_bundle(
                arguments.out,
                **networks,
                calibration=data.train,
                held_out=data.held_out,
                targets=targets_of(arguments) or DEFAULT_TARGETS,
                seed=arguments.seed,
                command=_command(arguments),
                commit=commit,
                progress=progress,
            )
    console.print(f"bundle: {arguments.out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    given = [name for name in (*_REQUIRED, *_OPTIONAL) if getattr(arguments, name) is not None]
    if arguments.onnx is None and given:
        raise UsageError(
            f"{', '.join(map(_option, given))}: with --onnx only: return the values from {arguments.factory}"
        )
    if arguments.onnx is not None and arguments.checkpoint is not None:
        raise UsageError("--checkpoint: not with --onnx, whose files contain the weights")
    of_actions = _OF_ACTIONS if arguments.action_free else ()
    if excluded := [name for name in of_actions if name in given]:
        raise UsageError(f"{', '.join(map(_option, excluded))}: not with --action-free")
    missing = [name for name in _REQUIRED if name not in given and name not in of_actions]
    if arguments.onnx is not None and missing:
        raise UsageError(f"--onnx requires {', '.join(map(_option, missing))}")


def _python_networks(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the arguments of export_bundle from the Python function, and the commit of its module."""
    from jepa_export.bundling.network_factory import create_networks, load_factory, source_file
    from jepa_export.bundling.staging import source_commit

    factory = load_factory(arguments.factory)
    networks = create_networks(arguments.factory, factory, arguments.checkpoint)
    return networks, source_commit(source_file(arguments.factory))


def _onnx_networks(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Return the arguments of export_bundle, except for recorded actions, from ONNX files and options.

    The commit of the code that defines the networks is not known; the report of the bundle has the hashes of
    the files.
    """
    from jepa_export.bundling.bundle_networks import Normalization, PredictorInputs
    from jepa_export.bundling.network_files import input_shape

    encoder, predictor = arguments.onnx
    *_, height, width = input_shape("encoder", encoder)
    inputs: PredictorInputs = "one_step"
    if arguments.action_free:
        inputs = "action_free"
    elif arguments.action_prefixes:
        inputs = "action_prefixes"
    history = input_shape("predictor", predictor, predictor=inputs)[1]
    networks = {
        **({"actions": None} if arguments.action_free else {}),
        "encoder": encoder,
        "predictor": predictor,
        "energy": arguments.energy,
        "frame_size": _fixed("frame_size", arguments.frame_size, (height, width), encoder),
        "normalize": Normalization(tuple(arguments.mean), tuple(arguments.std)),
        "action_prefixes": bool(arguments.action_prefixes),
        "step_s": arguments.step_s,
        "horizon": arguments.horizon,
        "history": _fixed("history", arguments.history, history, predictor),
        "num_samples": arguments.num_samples,
        "model_id": arguments.model_id,
        "version": arguments.model_version,
        "description": arguments.description,
        "license": arguments.license,
        "data": arguments.trained_on,
    }
    return networks, "unknown"


def _fixed(name: str, given: Any, found: Any, path: Path) -> Any:
    """Return the value of an option, or what the graph has; the option is required where its axis is free."""
    if given is None and None in (found if isinstance(found, tuple) else (found,)):
        raise UsageError(f"{path}: the input has a free axis: {_option(name)} is required")
    return found if given is None else given


def _recorded_actions(arguments: argparse.Namespace, recording: Recording) -> ActionSpace:
    """Return the actions of the model: names and units of a recording, and the given limits."""
    from jepa_export.bundling.manifest_fields import ActionSpace

    return ActionSpace(
        names=recording.action_names or (),
        units=recording.action_units or (),
        low=tuple(arguments.action_low),
        high=tuple(arguments.action_high),
        max_norm=arguments.action_max_norm,
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that makes the same bundle."""
    words = ["jepa-export", "bundle"]
    words += [arguments.factory] if arguments.onnx is None else ["--onnx", *map(str, arguments.onnx)]
    for name in (*_REQUIRED, *_OPTIONAL):
        if (value := getattr(arguments, name)) is not None:
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [_option(name), *map(str, values)]
    words += [] if arguments.checkpoint is None else ["--checkpoint", str(arguments.checkpoint)]
    words += [word for data in arguments.data for word in ("--data", data)]
    words += ["--held-out", str(arguments.held_out), "--seed", str(arguments.seed)]
    words += ["--skip-bad"] * arguments.skip_bad
    return shlex.join([*words, *(word for target in targets_of(arguments) for word in ("--target", target))])
