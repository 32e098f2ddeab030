"""jepa-export add-variant and compile-npu: an existing bundle for further devices."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.commands import number_types

if TYPE_CHECKING:
    from jepa_runtime.bundle import Bundle


def add_parsers(subparsers: Any) -> None:
    """Add ``add-variant`` and ``compile-npu`` to the commands of jepa-export."""
    add = subparsers.add_parser(
        "add-variant",
        help="add variants for other devices to a bundle, without training",
        description="Write a new bundle: the given one, and variants for further targets or precisions made "
        "of its fp32 ONNX graphs. Each is checked here against the fp32 outputs, and with the vendors' "
        "compilers where they are installed.",
    )
    add.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle; it stays as it is")
    add.add_argument(
        "--target",
        action="append",
        required=True,
        choices=["openvino", "npu", "tensorrt"],
        help="target to add; may be repeated",
    )
    add.add_argument(
        "--precision",
        action="append",
        choices=["int8", "fp16", "bf16", "fp32"],
        help="precision to add; may be repeated (default: each that the target has but bf16, which is "
        "for openvino and only made on a CPU that has it)",
    )
    add.add_argument(
        "--calibration",
        metavar="SOURCE",
        help="frames to calibrate on: two_rooms, a video, a folder of images or a bag; required for INT8, "
        "except for an NPU where the bundle has INT8 for OpenVINO (default: the golden frames)",
    )
    add.add_argument(
        "--frames",
        type=number_types.count,
        default=256,
        metavar="N",
        help="number of frames to calibrate on, one per step of the model (default: %(default)s)",
    )
    add.add_argument("--out", type=Path, required=True, help="folder of the new bundle; must not exist")
    add.add_argument(
        "--bundle-version", metavar="X.Y.Z", help="version of the new bundle (default: that of BUNDLE)"
    )
    add.add_argument(
        "--no-blobs",
        action="store_true",
        help="do not compile NPU graphs ahead of time (jepa-export compile-npu does it later)",
    )
    add.set_defaults(run=_add_variant, needs=_NEEDED, stopped="nothing was written")
    compile_npu = subparsers.add_parser(
        "compile-npu",
        help="compile the NPU variants of a bundle ahead of time",
        description="Write a new bundle: the given one, and blobs for NPU 3720, 4000 and 5010 of each of its "
        "NPU variants, compiled by Intel's compiler of the OpenVINO release that is installed here. A robot "
        "imports a blob of its own release and compiles the graph itself otherwise.",
    )
    compile_npu.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="folder of the bundle; it stays as it is"
    )
    compile_npu.add_argument(
        "--out", type=Path, required=True, help="folder of the new bundle; must not exist"
    )
    compile_npu.set_defaults(run=_compile_npu, needs=_NEEDED, stopped="nothing was written")


_NEEDED = ("torch", "onnx", "nncf")


def _add_variant(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_variants import add_variants, check_addable
    from jepa_export.bundling.staging import check_absent
    from jepa_export.bundling.variants import choose_kinds
    from jepa_export.commands.build import calibration_frames, steps_on
    from jepa_runtime.bundle import Bundle

    check_absent(arguments.out)
    kinds = choose_kinds(arguments.target, arguments.precision)
    base = Bundle.open(arguments.bundle)
    source = arguments.calibration
    check_addable(base, kinds, calibrated=source is not None)
    frame = base.manifest.io.frame
    frames = None
    if source is not None:
        frames = calibration_frames(
            source, (frame.height, frame.width), step_s=base.manifest.io.step_s, most=arguments.frames
        )
    made = add_variants(
        base,
        arguments.out,
        kinds,
        frames=frames,
        command=_command(arguments),
        progress=steps_on(Console()),
        version=arguments.bundle_version,
        compile_blobs=not arguments.no_blobs,
    )
    _show(base, made)
    return 0


def _compile_npu(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_variants import add_blobs
    from jepa_export.commands.build import steps_on
    from jepa_runtime.bundle import Bundle

    base = Bundle.open(arguments.bundle)
    _show(base, add_blobs(base, arguments.out, progress=steps_on(Console())))
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """The command that adds the same variants; the bundle by its name, wherever it is stored."""
    words = ["jepa-export", "add-variant", arguments.bundle.resolve().name]
    words += [word for target in arguments.target for word in ("--target", target)]
    words += [word for precision in arguments.precision or () for word in ("--precision", precision)]
    if arguments.calibration is not None:
        words += ["--calibration", arguments.calibration, "--frames", str(arguments.frames)]
    return shlex.join(words)


def _show(base: Bundle, made: Bundle) -> None:
    """Print the sizes of both bundles."""
    from rich.console import Console

    before, after = (sum(file.bytes for file in each.manifest.files) / 1e6 for each in (base, made))
    said = f"bundle: {made.path} ({after:.2f} MB, was {before:.2f} MB)"
    Console().print(said, markup=False, highlight=False, soft_wrap=True)
