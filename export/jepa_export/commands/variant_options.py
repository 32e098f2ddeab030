"""The options that select the variants of a bundle."""

from __future__ import annotations

import argparse


def add_variant_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--target`` and ``--only``; see :func:`jepa_export.bundling.variants.select_variants`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--target",
        action="append",
        choices=["onnx", "openvino", "npu", "tensorrt"],
        help="target of the bundle; repeatable (default: onnx and openvino)",
    )
    group.add_argument(
        "--only", metavar="TARGET/PRECISION", help="the only variant of the bundle, such as openvino/int8"
    )


def targets_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return the selected targets without duplicates; empty: the default."""
    return tuple(dict.fromkeys(arguments.target or ()))
