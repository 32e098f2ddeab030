"""The options that say in which forms a bundle holds its graphs."""

from __future__ import annotations

import argparse


def add_forms(parser: argparse.ArgumentParser) -> None:
    """Add ``--target`` and ``--only``; see :func:`jepa_export.bundling.variants.kinds_for`."""
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--target",
        action="append",
        choices=["onnx", "openvino", "npu", "tensorrt"],
        help="for what it is built; may be repeated (default: onnx and openvino)",
    )
    forms.add_argument(
        "--only", metavar="TARGET/PRECISION", help="one form, as a robot needs it, such as openvino/int8"
    )


def targets_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Those asked for; empty: none in particular."""
    return tuple(dict.fromkeys(arguments.target or ()))
