"""The vendors' own compilers take what is shipped: every graph of Two Rooms and of the middle student."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from jepa_export.cli import main
from jepa_export.targets.npu import PLATFORMS, Origin
from jepa_export.targets.openvino import Sample, convert
from jepa_export.variants import KINDS, fixed_count, write_kinds
from jepa_export.vendors import ask_vendors
from jepa_runtime import Bundle
from tests.export.compilers import needs_compiler, needs_tensorrt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ELSEWHERE = [kind for kind in KINDS if kind[0] in ("npu", "tensorrt")]
PRECISIONS = ("fp16", "int8")
ROLES = {"two_rooms": ("encoder", "predictor", "energy"), "vit_s": ("encoder", "predictor", "step")}


@pytest.fixture(scope="module")
def vit_s(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The middle student with random weights, as jepa-export builds it."""
    folder = tmp_path_factory.mktemp("built") / "vit_s"
    asked = ["--target", "npu", "--target", "tensorrt", "--out", str(folder)]
    assert main(["build", "--student", "vit_s", "--untrained", *asked]) == 0
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def said(vit_s: Bundle, two_rooms_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the compilers say of each model; their forms of Two Rooms are made here, of the shipped graphs."""
    bundle, folder = Bundle.open(two_rooms_bundle), tmp_path_factory.mktemp("two_rooms")
    golden = np.load(two_rooms_bundle / "golden.npz")
    count = fixed_count(bundle.manifest.num_samples)
    actions, latents = (
        np.resize(golden[name], (count, *golden[name].shape[1:])) for name in ("actions", "latents")
    )
    inputs: dict[str, tuple[Sample, dict[str, tuple[int, ...]]]] = {
        "encoder": ({"frame": golden["frames"][:1]}, {}),
        "predictor": (
            {"history_latents": golden["latents"][None, :1], "actions": actions},
            {"actions": actions.shape},
        ),
        "energy": ({"latents": latents, "goal": golden["goal"]}, {"latents": latents.shape}),
    }
    for role, (sample, shapes) in inputs.items():
        onnx_path = two_rooms_bundle / role / "onnx" / "model.onnx"
        shipped = two_rooms_bundle / role / "openvino" / "model.xml"
        irs = {"fp32": partial(convert, onnx_path), "int8": partial(ov.Core().read_model, shipped)}
        write_kinds(onnx_path, irs, [sample], folder / role, ELSEWHERE, shapes=shapes)
    two_rooms = ask_vendors(folder, list(inputs), ELSEWHERE, bundle.manifest.num_samples, print)
    return {"two_rooms": two_rooms, "vit_s": vit_s.report()}


@needs_compiler
@pytest.mark.parametrize("model", ROLES)
def test_every_npu_takes_every_graph(model: str, said: dict[str, Any]) -> None:
    rows = said[model]["npu"]["graphs"]
    assert [row for row in rows if "problem" in row] == []
    found = sorted((row["graph"], row["precision"], row["platform"]) for row in rows)
    assert found == sorted(itertools.product(ROLES[model], PRECISIONS, PLATFORMS))
    assert all(row["estimate"]["total_ms"] > 0 for row in rows)


@needs_tensorrt
@pytest.mark.parametrize("model", ROLES)
def test_tensorrt_builds_every_graph(model: str, said: dict[str, Any]) -> None:
    rows = said[model]["tensorrt"]["graphs"]
    assert [row for row in rows if row["problems"] or not row["built"]] == []
    found = sorted((row["graph"], row["precision"]) for row in rows)
    assert found == sorted(itertools.product(ROLES[model], PRECISIONS))


@needs_compiler
def test_blobs_lie_in_the_bundle_beside_what_they_come_from(vit_s: Bundle) -> None:
    listed = {file.path for file in vit_s.manifest.files}
    for role, precision, platform in itertools.product(ROLES["vit_s"], PRECISIONS, PLATFORMS):
        blob = f"{role}/npu/model_{precision}_{platform}.blob"
        assert {blob, f"{blob}.json"} <= listed
        origin = vit_s.path / f"{blob}.json"
        assert Origin.read(origin.read_bytes(), str(origin)).platform == platform
