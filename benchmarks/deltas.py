"""Measure what a delta saves: the traffic of an update, and the time to make and to apply it.

Updates go from --bundle to --to, for example the same model after further training; and to copies of --bundle
with changed INT8 weights: Gaussian noise is added before rounding, scaled so that the given proportion of the
weights changes, in one layer (the largest) or in all; everything else stays the same. Compared over all files
that differ:

    ours      same-layout difference modulo 256, zstd level 3 (jepa_export.release.delta_maker); applied by
              the robot's reader, which writes to the disk and checks the hash; a file for which a delta is
              not worth it is transferred whole, as in an update
    full      the new files alone, zstd level 19; unpacked in memory
    bsdiff4   if it is installed (pip install bsdiff4); applied in memory

Times are medians over --rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import Any
from xml.etree import ElementTree

import numpy as np
import zstandard
from rich.console import Console
from rich.table import Table

from jepa_export.release import delta_maker
from jepa_runtime.bundle import ROLES, Bundle, seal
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.ota.transport import deltas
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import write_json

ROOT = Path(__file__).resolve().parent.parent
# Name, proportion of the weights that change, and whether only the largest layer changes.
CASES = (
    ("one layer", 0.76, True),
    ("25 % of the weights", 0.25, False),
    ("76 % of the weights", 0.76, False),
)


@dataclass(frozen=True)
class Method:
    """A delta format: ``pack(old, new)``, and ``unpack(old, packed)``."""

    name: str
    pack: Callable[[bytes, bytes], bytes]
    unpack: Callable[[bytes, bytes], bytes]


@dataclass(frozen=True)
class Layer:
    """Location of the INT8 weights of one layer."""

    path: str
    offset: int
    size: int
    dtype: type[np.integer[Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    arguments = _parser().parse_args(argv)
    console = Console()
    try:
        report = compare(arguments.bundle, arguments.to, rounds=arguments.rounds, seed=arguments.seed)
    except JepaRuntimeError as error:
        print(f"deltas: {error}", file=sys.stderr)
        return 2
    write_json(arguments.json, report)
    show(report, console)
    return 0


def compare(folder: Path, to: Path | None, *, rounds: int, seed: int) -> dict[str, Any]:
    """Run all cases and return the report.

    Args:
        folder: The bundle.
        to: The bundle after further training; None: only synthetic variants are compared.
        rounds: Repetitions of each measurement.
        seed: Seed of the noise.

    Raises:
        JepaRuntimeError: The bundle is not usable.
    """
    bundle, cases = Bundle.open(folder), []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        variants = [] if to is None else [("trained on", Bundle.open(to))]
        for number, (title, proportion, one_layer) in enumerate(CASES):
            variant = noisy(bundle, scratch / str(number), proportion, one_layer=one_layer, seed=seed)
            variants.append((f"noise: {title}", variant))
        for title, changed in variants:
            pairs = list(differing(bundle, changed))
            size = sum(len(new) for _, new in pairs)
            cases.append(
                {
                    "case": title,
                    "files": len(pairs),
                    "bytes": size,
                    "bytes_changed": sum(changed_bytes(old, new) for old, new in pairs),
                    "methods": {
                        method.name: measured(method, pairs, rounds) for method in methods(scratch / "work")
                    },
                }
            )
    manifest = bundle.manifest
    return {
        "bundle": {"id": manifest.model_id, "version": manifest.version, "sha256": bundle.sha256},
        "to": None if to is None else Bundle.open(to).manifest.provenance.command,
        "rounds": rounds,
        "seed": seed,
        "cases": cases,
        "machine": {"cpu": cpu_info(), "versions": package_versions() | {"zstandard": zstandard.__version__}},
    }


def noisy(bundle: Bundle, folder: Path, proportion: float, *, one_layer: bool, seed: int) -> Bundle:
    """Return a copy of a bundle in which about ``proportion`` of the INT8 weights differ.

    Raises:
        JepaRuntimeError: The bundle has no INT8 weights.
    """
    layers = list(int8_layers(bundle))
    if not layers:
        raise JepaRuntimeError(f"{bundle.path}: no INT8 weights for OpenVINO; choose another --bundle")
    if one_layer:
        layers = [max(layers, key=lambda layer: layer.size)]
    # A weight changes if its noise does not round to 0.
    deviation = 0.5 / NormalDist().inv_cdf(1 - proportion / 2)
    random = np.random.default_rng(seed)
    shutil.copytree(bundle.path, folder)
    for layer in layers:
        content = bytearray((folder / layer.path).read_bytes())
        weights = np.frombuffer(content, layer.dtype, layer.size, layer.offset)
        limits = np.iinfo(layer.dtype)
        moved = weights + np.rint(random.normal(0, deviation, layer.size)).astype(np.int64)
        weights[:] = np.clip(moved, limits.min, limits.max).astype(layer.dtype)
        (folder / layer.path).write_bytes(content)
    return seal(folder, bundle.manifest)


def int8_layers(bundle: Bundle) -> Iterator[Layer]:
    """Yield the layers of the OpenVINO graphs whose weights are stored in INT8."""
    kinds: dict[str, type[np.integer[Any]]] = {"i8": np.int8, "u8": np.uint8}
    for role in ROLES:
        for variant in bundle.manifest.graphs.variants(role):
            if variant.target != "openvino" or variant.precision != "int8":
                continue
            graph, weights = variant.paths
            for layer in ElementTree.fromstring(bundle.read(graph)).iter("layer"):
                data = layer.find("data")
                if layer.get("type") == "Const" and data is not None and data.get("element_type") in kinds:
                    kind = kinds[data.get("element_type", "")]
                    yield Layer(weights, int(data.get("offset", 0)), int(data.get("size", 0)), kind)


def differing(old: Bundle, new: Bundle) -> Iterator[tuple[bytes, bytes]]:
    """Yield the files that differ between both, as an update downloads them."""
    before = {record.path: record.sha256 for record in old.manifest.files}
    for record in new.manifest.files:
        if before[record.path] != record.sha256:
            yield old.read(record.path), new.read(record.path)


def changed_bytes(old: bytes, new: bytes) -> int:
    """Return the number of bytes of ``new`` that differ from ``old`` at the same offset."""
    common = min(len(old), len(new))
    same = np.frombuffer(old, np.uint8, common) == np.frombuffer(new, np.uint8, common)
    return len(new) - int(np.count_nonzero(same))


def methods(work: Path) -> Iterator[Method]:
    """Yield the methods that are available on this machine."""
    work.mkdir(exist_ok=True)

    def applied(old: bytes, packed: bytes) -> bytes:
        if packed not in expected:
            return packed
        (work / "base").write_bytes(old)
        (work / "delta").write_bytes(packed)
        length = int.from_bytes(packed[16:24], "little")
        deltas.apply(work / "base", work / "delta", work / "out", sha256=expected[packed], length=length)
        return (work / "out").read_bytes()

    def pack_ours(old: bytes, new: bytes) -> bytes:
        packed = delta_maker.make(old, new)
        if not delta_maker.worth_it(packed, new):
            return new
        expected[packed] = hashlib.sha256(new).hexdigest()
        return packed

    expected: dict[bytes, str] = {}
    yield Method("ours", pack_ours, applied)
    yield Method(
        "full, zstd -19",
        lambda _, new: zstandard.ZstdCompressor(level=19).compress(new),
        lambda _, packed: zstandard.ZstdDecompressor().decompress(packed),
    )
    if importlib.util.find_spec("bsdiff4") is not None:
        bsdiff4 = importlib.import_module("bsdiff4")
        yield Method("bsdiff4", bsdiff4.diff, bsdiff4.patch)


def measured(method: Method, pairs: list[tuple[bytes, bytes]], rounds: int) -> dict[str, float]:
    """Return the size in bytes, and the seconds to pack and to unpack all pairs."""
    pack_s, unpack_s, size = [], [], 0
    for _ in range(rounds):
        began = time.perf_counter()
        packed = [method.pack(old, new) for old, new in pairs]
        pack_s.append(time.perf_counter() - began)
        size = sum(map(len, packed))
        began = time.perf_counter()
        unpacked = [method.unpack(old, each) for (old, _), each in zip(pairs, packed, strict=True)]
        unpack_s.append(time.perf_counter() - began)
        if unpacked != [new for _, new in pairs]:
            raise JepaRuntimeError(f"{method.name}: unpacking did not return the packed content")
    return {"bytes": size, "pack_s": round(median(pack_s), 4), "unpack_s": round(median(unpack_s), 4)}


def show(report: dict[str, Any], console: Console) -> None:
    """Print the report as a table."""
    bundle = report["bundle"]
    table = Table(title=f"{bundle['id']} {bundle['version']} to variants of it", title_justify="left")
    for column in ("changed", "method"):
        table.add_column(column)
    for column in ("kB", "of full", "make s", "apply s"):
        table.add_column(column, justify="right")
    for case in report["cases"]:
        full = case["methods"]["full, zstd -19"]["bytes"]
        table.add_section()
        title = (
            f"{case['case']} ({case['bytes_changed'] / case['bytes']:.0%} of {case['bytes'] / 1e3:.0f} kB)"
        )
        for name, method in case["methods"].items():
            table.add_row(
                title, name, f"{method['bytes'] / 1e3:.1f}", f"{method['bytes'] / full:.0%}",
                f"{method['pack_s']:.3f}", f"{method['unpack_s']:.3f}",
            )  # fmt: skip
            title = ""
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument("--to", type=Path, metavar="BUNDLE", help="the bundle after further training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "deltas.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
