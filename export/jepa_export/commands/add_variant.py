"""jepa-export add-variant: add variants for other devices to an existing bundle."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types
from jepa_export.commands.options import NOTHING_WRITTEN, REQUIRED, add_output_argument
from jepa_export.targets.registry import SOURCE, target_names
from jepa_runtime.commands import add_bundle_argument

if TYPE_CHECKING:
    from jepa_runtime.bundle import Bundle


def add_parser(subparsers: Any) -> None:
    """Add ``add-variant`` to the commands of jepa-export."""
    parser = subparsers.add_parser(
        "add-variant",
        description="Write a copy of a bundle with variants for other targets or precisions, made from its "
        "fp32 ONNX graphs. Each variant is verified against the fp32 outputs on this machine, and with the "
        "vendors' compilers where they are installed.",
    )
    add_bundle_argument(parser, "bundle, which is not changed: its folder")
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        choices=[name for name in target_names() if name != SOURCE[0]],
        help="target to add; repeatable",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=["int8", "fp16", "bf16", "fp32"],
        help="precision to add; repeatable (default: all that the target supports except bf16, which is for "
        "openvino and needs a CPU with bf16)",
    )
    parser.add_argument(
        "--calibration",
        metavar="SOURCE",
        help="calibration frames: a video, a folder of images, a bag, or a simulated source such as "
        "two_rooms; for a model that reads the state of the robot, a bag with states "
        "(BAG.mcap?state=TOPIC:FIELD,FIELD;TOPIC:FIELD); required for INT8, except for an NPU if the bundle "
        "has INT8 for OpenVINO (default: the golden outputs)",
    )
    parser.add_argument(
        "--frames",
        type=number_types.count,
        default=256,
        metavar="N",
        help="number of calibration frames, one per step of the model (default: %(default)s)",
    )
    add_output_argument(parser, "folder of the new bundle, outside BUNDLE; must not exist")
    parser.add_argument(
        "--bundle-version", metavar="X.Y.Z", help="version of the new bundle (default: version of BUNDLE)"
    )
    parser.add_argument(
        "--no-blobs",
        action="store_true",
        help="skip compiling NPU graphs ahead of time (jepa-export compile-npu can do it later)",
    )
    parser.set_defaults(run=_add_variant, needs=REQUIRED, stopped=NOTHING_WRITTEN)


def _add_variant(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_variants import add_variants, check_addable
    from jepa_export.bundling.variants import variants_for
    from jepa_export.commands.build_student import (
        MIN_CALIBRATION_FRAMES,
        print_steps,
        read_calibration,
    )
    from jepa_runtime.bundle import Bundle

    variants = variants_for(arguments.target, arguments.precision)
    base = Bundle.open(arguments.bundle)
    source = arguments.calibration
    check_addable(base, arguments.out, variants, calibrated=source is not None)
    io = base.manifest.io
    frames = states = None
    if source is not None:
        before = 0 if io.clip is None else io.clip.frames // io.clip.frames_per_step - 1
        frames, states = read_calibration(
            source,
            (io.frame.height, io.frame.width),
            step_s=io.step_s,
            maximum=arguments.frames + before,
            minimum=MIN_CALIBRATION_FRAMES + before,
            frames_per_step=1 if io.clip is None else io.clip.frames_per_step,
            state=io.state,
            model_id=base.manifest.model_id,
        )
    made = add_variants(
        base,
        arguments.out,
        variants,
        frames=frames,
        states=states,
        command=_command(arguments),
        progress=print_steps(Console()),
        version=arguments.bundle_version,
        compile_blobs=not arguments.no_blobs,
    )
    print_sizes(base, made)
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that adds the same variants, with the name of the bundle instead of its path."""
    words = ["jepa-export", "add-variant", arguments.bundle.resolve().name]
    words += [word for target in arguments.target for word in ("--target", target)]
    words += [word for precision in arguments.precision or () for word in ("--precision", precision)]
    if arguments.calibration is not None:
        words += ["--calibration", arguments.calibration, "--frames", str(arguments.frames)]
    return shlex.join(words)


def print_sizes(base: Bundle, made: Bundle) -> None:
    """Print the sizes of both bundles."""
    from rich.console import Console

    before, after = (sum(file.bytes for file in each.manifest.files) / 1e6 for each in (base, made))
    text = f"bundle: {made.path} ({after:.2f} MB, before: {before:.2f} MB)"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
