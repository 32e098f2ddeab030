"""jepa-export add-variant and compile-npu: extend an existing bundle to other devices."""

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
        description="Write a copy of a bundle with variants for other targets or precisions, made from its "
        "fp32 ONNX graphs. Each variant is verified against the fp32 outputs on this machine, and with the "
        "vendors' compilers where they are installed.",
    )
    add.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, which is not changed")
    add.add_argument(
        "--target",
        action="append",
        required=True,
        choices=["openvino", "npu", "tensorrt"],
        help="target to add; repeatable",
    )
    add.add_argument(
        "--precision",
        action="append",
        choices=["int8", "fp16", "bf16", "fp32"],
        help="precision to add; repeatable (default: all that the target supports except bf16, which is for "
        "openvino and needs a CPU with bf16)",
    )
    add.add_argument(
        "--calibration",
        metavar="SOURCE",
        help="calibration frames: two_rooms, a video, a folder of images or a bag; required for INT8, except "
        "for an NPU if the bundle has INT8 for OpenVINO (default: the golden frames)",
    )
    add.add_argument(
        "--frames",
        type=number_types.count,
        default=256,
        metavar="N",
        help="number of calibration frames, one per step of the model (default: %(default)s)",
    )
    add.add_argument("--out", type=Path, required=True, help="folder of the new bundle; must not exist")
    add.add_argument(
        "--bundle-version", metavar="X.Y.Z", help="version of the new bundle (default: version of BUNDLE)"
    )
    add.add_argument(
        "--no-blobs",
        action="store_true",
        help="skip compiling NPU graphs ahead of time (jepa-export compile-npu can do it later)",
    )
    add.set_defaults(run=_add_variant, needs=_NEEDED, stopped="nothing was written")
    compile_npu = subparsers.add_parser(
        "compile-npu",
        help="compile the NPU variants of a bundle ahead of time",
        description="Write a copy of a bundle with blobs for NPU 3720, 4000 and 5010 of each of its NPU "
        "variants, compiled by Intel's compiler of the installed OpenVINO release. A robot imports a blob of "
        "its own OpenVINO release, and compiles the graph itself otherwise.",
    )
    compile_npu.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, which is not changed"
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
    from jepa_export.bundling.variants import variants_for
    from jepa_export.commands.build import print_steps, read_calibration_frames
    from jepa_runtime.bundle import Bundle

    check_absent(arguments.out)
    variants = variants_for(arguments.target, arguments.precision)
    base = Bundle.open(arguments.bundle)
    source = arguments.calibration
    check_addable(base, variants, calibrated=source is not None)
    frame = base.manifest.io.frame
    frames = None
    if source is not None:
        frames = read_calibration_frames(
            source, (frame.height, frame.width), step_s=base.manifest.io.step_s, maximum=arguments.frames
        )
    made = add_variants(
        base,
        arguments.out,
        variants,
        frames=frames,
        command=_command(arguments),
        progress=print_steps(Console()),
        version=arguments.bundle_version,
        compile_blobs=not arguments.no_blobs,
    )
    _show(base, made)
    return 0


def _compile_npu(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from jepa_export.bundling.add_variants import add_blobs
    from jepa_export.commands.build import print_steps
    from jepa_runtime.bundle import Bundle

    base = Bundle.open(arguments.bundle)
    _show(base, add_blobs(base, arguments.out, progress=print_steps(Console())))
    return 0


def _command(arguments: argparse.Namespace) -> str:
    """Return the command that adds the same variants, with the name of the bundle instead of its path."""
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
    text = f"bundle: {made.path} ({after:.2f} MB, before: {before:.2f} MB)"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
