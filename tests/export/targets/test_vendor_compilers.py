"""The vendors' compilers accept every graph of Two Rooms and of the middle student."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest

from jepa_export.cli import main
from jepa_export.targets.npu import PLATFORMS, Origin
from jepa_export.targets.vendor_compilers import run_vendor_compilers
from jepa_runtime import Bundle
from jepa_runtime.bundle import ROLES
from tests.export.compilers import needs_compiler, needs_tensorrt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
MODELS = ("two_rooms", "vit_s")


@pytest.fixture(scope="module")
def vit_s(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return the middle student with random weights, built by jepa-export."""
    folder = tmp_path_factory.mktemp("built") / "vit_s"
    options = ["--target", "npu", "--target", "tensorrt", "--output", str(folder)]
    assert main(["build", "--student", "vit_s", "--untrained", *options]) == 0
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def bundles(vit_s: Bundle, two_rooms_bundle: Path) -> dict[str, Bundle]:
    """Return the models by name."""
    return {"two_rooms": Bundle.open(two_rooms_bundle), "vit_s": vit_s}


@pytest.fixture(scope="module")
def reports(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the compilers' reports: created now for the shipped model, at build time for the student."""
    shipped, folder = bundles["two_rooms"], tmp_path_factory.mktemp("shipped") / "two_rooms"
    shutil.copytree(shipped.path, folder)
    graphs = [(role, variant) for role in ROLES for variant in shipped.manifest.graphs.variants(role)]
    two_rooms = run_vendor_compilers(folder, graphs, shipped.manifest.num_samples, print)
    return {"two_rooms": two_rooms, "vit_s": bundles["vit_s"].report()}


def expected(bundle: Bundle, target: str) -> list[tuple[str, str]]:
    """Return graph and precision of each variant for ``target``; encoder and predictor have both."""
    graphs = [
        (role, each.precision)
        for role in ROLES
        for each in bundle.manifest.graphs.variants(role)
        if each.target == target
    ]
    assert set(graphs) >= set(itertools.product(("encoder", "predictor"), ("fp16", "int8")))
    return sorted(graphs)


@needs_compiler
@pytest.mark.parametrize("model", MODELS)
def test_every_npu_compiles_every_graph(
    model: str, reports: dict[str, Any], bundles: dict[str, Bundle]
) -> None:
    rows = reports[model]["npu"]["graphs"]
    assert [row for row in rows if "problem" in row] == []
    compiled = sorted((row["graph"], row["precision"], row["platform"]) for row in rows)
    graphs = expected(bundles[model], "npu")
    assert compiled == sorted((*graph, platform) for graph in graphs for platform in PLATFORMS)
    assert {graph for graph, _ in graphs} >= {"step"}
    assert all(row["estimate"]["total_ms"] > 0 for row in rows)


@needs_tensorrt
@pytest.mark.parametrize("model", MODELS)
def test_tensorrt_builds_every_graph(model: str, reports: dict[str, Any], bundles: dict[str, Bundle]) -> None:
    rows = reports[model]["tensorrt"]["graphs"]
    assert [row for row in rows if row["problems"] or not row["built"]] == []
    compiled = sorted((row["graph"], row["precision"]) for row in rows)
    assert compiled == expected(bundles[model], "tensorrt")


@needs_compiler
def test_blobs_are_stored_next_to_their_graphs(vit_s: Bundle) -> None:
    listed = {file.path for file in vit_s.manifest.files}
    for (role, precision), platform in itertools.product(expected(vit_s, "npu"), PLATFORMS):
        blob = f"{role}/npu/model_{precision}_{platform}.blob"
        assert {blob, f"{blob}.json"} <= listed
        origin = vit_s.path / f"{blob}.json"
        assert Origin.read(origin.read_bytes(), str(origin)).platform == platform
