"""export_bundle with a predictor that returns the latents after every prefix of the actions in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_export import JepaExportError, export_bundle
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from tests.errors import code
from tests.export.bundling import onnx_files
from tests.export.bundling import own_networks as own

TARGETS = ("openvino", "onnx", "npu", "tensorrt")
CANDIDATES, HORIZON = 9, 3
LATENTS = torch.zeros(1, 2, own.TOKENS, own.DIM)
ACTIONS, HISTORY_ACTIONS = torch.zeros(2, HORIZON, 2), torch.zeros(1, 1, 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("prefixes") / "bundle"
    return export_bundle(folder, **own.prefix_arguments(targets=TARGETS))


def test_prefix_bundle_passes_jepa_runtime_verify(bundle: Bundle) -> None:
    assert runtime(["verify", str(bundle.path)]) == 0


def test_prefix_bundle_has_the_variants_of_a_recursive_one(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs
    variants = [(each.target, each.precision) for each in graphs.encoder]
    assert {target for target, _ in variants} == set(TARGETS)
    assert [(each.target, each.precision) for each in graphs.predictor] == variants
    assert [(each.target, each.precision) for each in graphs.step] == [("npu", "int8"), ("npu", "fp16")]


@pytest.mark.parametrize("engine", ["onnxruntime:CPU", "openvino:CPU"])
def test_futures_are_those_of_the_network(bundle: Bundle, engine: str) -> None:
    frames = own.recording(9).frames(np.arange(2))
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (CANDIDATES, HORIZON, 2)).astype(np.float32)
    before = np.array([[0.5, -0.5]], np.float32)
    with WorldModel.open(bundle, engine=engine, precision="fp32") as model:
        latents = np.stack([model.encode(frame) for frame in frames])
        futures = model.predict(actions, latents=latents, history_actions=before).latents
        alone = model.predict(actions[:1, :1], latents=latents, history_actions=before).latents
    inputs = (torch.from_numpy(each) for each in (latents[None], actions, before[None]))
    with torch.no_grad():
        expected = own.prefix_arguments()["predictor"](*inputs)
    np.testing.assert_allclose(futures, expected, atol=1e-4)
    np.testing.assert_allclose(alone, expected[:1, :1], atol=1e-4)


def test_one_latent_needs_no_history_actions(tmp_path: Path) -> None:
    changed = {"history": 1, "predictor": own.Prefixes(1)}
    bundle = export_bundle(tmp_path / "bundle", **own.prefix_arguments(targets=("onnx", "npu"), **changed))
    assert runtime(["verify", str(bundle.path)]) == 0


@pytest.mark.parametrize("free", [True, False])
def test_onnx_file_of_prefixes_gives_the_same_bounds(tmp_path: Path, bundle: Bundle, free: bool) -> None:
    network = own.prefix_arguments()["predictor"]
    file = onnx_files.write(
        tmp_path / "predictor.onnx",
        network,
        LATENTS,
        ACTIONS,
        HISTORY_ACTIONS,
        free=free,
        free_inputs=("in_1",),
    )
    found = export_bundle(
        tmp_path / "bundle", **own.prefix_arguments(targets=("openvino", "onnx"), predictor=file)
    )
    np.testing.assert_allclose(found.manifest.error_bounds, bundle.manifest.error_bounds, rtol=1e-4)
    assert runtime(["verify", str(tmp_path / "bundle")]) == 0


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"predictor": own.Anticipating()}, "network.not_causal"),
        ({"predictor": own.LastOnly()}, "network.wrong_shape"),
        ({"predictor": own.MixingPrefixes()}, "network.depends_on_batch"),
        ({"predictor": own.Predictor()}, "network.forward_failed"),
        ({"predictor": own.Prefixes(horizon=4)}, "network.forward_failed"),
        ({"actions": None}, "export.invalid_settings"),
    ],
)
def test_unusable_predictor_of_prefixes_is_an_error(
    tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    arguments = own.prefix_arguments(**{"targets": ("onnx",)} | changed)
    with pytest.raises(JepaExportError, check=code(expected)):
        export_bundle(tmp_path / "bundle", **arguments)
    assert not list(tmp_path.iterdir())


def test_onnx_predictor_of_one_step_is_not_one_of_prefixes(tmp_path: Path) -> None:
    file = onnx_files.write(
        tmp_path / "predictor.onnx", own.Predictor(), onnx_files.LATENTS, onnx_files.ACTIONS, free=False
    )
    with pytest.raises(JepaExportError, check=code("network.onnx_wrong_inputs")):
        export_bundle(tmp_path / "bundle", **own.prefix_arguments(targets=("onnx",), predictor=file))


def test_actions_without_an_effect_are_reported(tmp_path: Path) -> None:
    found: list[str] = []
    changed = {"predictor": own.IgnoringActions(), "progress": found.append}
    export_bundle(tmp_path / "bundle", **own.prefix_arguments(targets=("onnx",), **changed))
    assert any("does not depend on the action" in message for message in found)


def test_network_may_ignore_the_actions_of_the_history(tmp_path: Path) -> None:
    arguments = own.prefix_arguments(targets=("openvino", "onnx", "npu"), predictor=own.NewestLatent())
    assert runtime(["verify", str(export_bundle(tmp_path / "bundle", **arguments).path)]) == 0
