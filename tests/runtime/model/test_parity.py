"""Golden parity covers the effect of actions and histories, also where both have little effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from jepa_runtime import BundleError, WorldModel
from jepa_runtime.bundle import seal
from jepa_runtime.model.parity import Parity, golden_parity
from tests.bundles import make_bundle
from tests.errors import code

ENGINE = "onnxruntime:CPU"
# The tolerance of INT8 with random weights.
WIDE = {"min_cosine": 0.9, "max_abs": 2.0}


def change_weights(
    path: Path, output: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    """Return the product that computes ``output``, and no other."""
    model = onnx.load(path)
    (node,) = [node for node in model.graph.node if node.output[0] == output]
    (weights,) = [each for each in model.graph.initializer if each.name == node.input[1]]
    node.input[1] = "changed"
    model.graph.initializer.append(numpy_helper.from_array(change(numpy_helper.to_array(weights)), "changed"))
    onnx.save(model, path)


def parities(folder: Path, tolerance: dict[str, float]) -> dict[str, Parity]:
    """Return the parities of the current files in ``folder``."""
    fields = json.loads((folder / "manifest.json").read_text())
    fields["golden"]["tolerances"] = dict.fromkeys(fields["golden"]["tolerances"], tolerance)
    result = golden_parity(seal(folder, fields), engine=ENGINE, precision="fp32")
    return {each.graph: each for each in result}


def refused(folder: Path, tolerance: dict[str, float]) -> set[str]:
    return {graph for graph, parity in parities(folder, tolerance).items() if not parity.ok}


@pytest.fixture
def gentle(tmp_path: Path) -> Path:
    """A bundle whose golden actions have little effect."""
    bundle = make_bundle(tmp_path / "toy", history_size=2, step=True, energy=False)
    golden = bundle.golden()
    actions = golden.actions * np.float32(0.02)
    with WorldModel.open(bundle, engine=ENGINE) as model:
        futures = [
            model.predict(actions, latents=golden.latents[rows], history_actions=golden.history_actions)
            for rows in golden.history_indices(2)
        ]
    arrays = {name: array for name, array in vars(golden).items() if array is not None}
    changed = {"actions": actions, "futures": np.stack([each.latents for each in futures])}
    np.savez(bundle.path / "golden.npz", **arrays | changed)
    return bundle.path


@pytest.mark.parametrize("graph", ["predictor", "step"])
def test_graph_that_ignores_small_actions_is_detected_within_wide_tolerances(
    gentle: Path, graph: str
) -> None:
    assert refused(gentle, WIDE) == set()
    change_weights(gentle / graph / "onnx/model.onnx", "pushes", np.zeros_like)
    result = parities(gentle, WIDE)[graph]
    assert result.min_cosine > 0.9 and result.max_abs < 2
    assert not result.ok and result.change_error == pytest.approx(1, abs=1e-3)
    assert "error of the change by actions 1 (at most 0.8)" in result.figures


def test_graph_with_inverted_actions_is_detected(gentle: Path) -> None:
    change_weights(gentle / "predictor/onnx/model.onnx", "pushes", np.negative)
    result = parities(gentle, WIDE)["predictor"]
    assert not result.ok and result.change_error == pytest.approx(2, abs=0.01)


def test_negligible_output_changes_are_not_compared(gentle: Path) -> None:
    arrays = dict(np.load(gentle / "golden.npz"))
    arrays["actions"] *= 0
    arrays["futures"][:] = arrays["futures"][:, :1]
    np.savez(gentle / "golden.npz", **arrays)
    result = parities(gentle, WIDE)
    assert [result[graph].change_error for graph in ("encoder", "predictor", "step")] == [None] * 3


@pytest.mark.parametrize("broken", ["order", "history_actions"])
def test_graph_that_misreads_its_history_is_detected(tmp_path: Path, broken: str) -> None:
    exact = {"min_cosine": 0.9999, "max_abs": 1e-4}
    folder = make_bundle(tmp_path / "toy", history_size=2, energy=False).path
    assert refused(folder, exact) == set()
    output, change = {
        "order": ("start", lambda weights: np.roll(weights, len(weights) // 2, axis=0)),
        "history_actions": ("moved", np.negative),
    }[broken]
    change_weights(folder / "predictor/onnx/model.onnx", output, change)
    assert refused(folder, exact) == {"predictor"}


def test_earlier_bundles_with_static_golden_histories_verify(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "toy", history_size=3, step=True, standing=True).path
    assert refused(folder, {"min_cosine": 0.9999, "max_abs": 1e-4}) == set()


def test_golden_histories_must_match_the_manifest(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "toy", history_size=3)
    arrays = dict(np.load(bundle.path / "golden.npz"))
    arrays["history_actions"] = arrays["history_actions"][:1]
    np.savez(bundle.path / "golden.npz", **arrays)
    with pytest.raises(BundleError, check=code("bundle.golden_invalid")):
        seal(bundle.path, bundle.manifest)
