"""Variants in bfloat16: only on CPUs that support it, and only if requested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions
from jepa_runtime.backends.openvino.backend import OpenVINOBackend
from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.cli import main
from jepa_runtime.errors import BackendError, BundleError
from jepa_runtime.model.compiled_graphs import runnable_precisions
from jepa_runtime.model.parity import golden_parity
from tests.bundles import ACTIONS, HORIZON
from tests.errors import code


@pytest.fixture
def bundle(toy_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle whose first variant is bf16."""
    folder = tmp_path / "bundle"
    shutil.copytree(toy_bundle, folder)
    fields: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    for variants in fields["graphs"].values():
        for variant in list(variants):
            if (variant["target"], variant["precision"]) == ("openvino", "fp32"):
                variants.insert(0, variant | {"precision": "bf16"})
    fields["golden"]["tolerances"]["bf16"] = {"min_cosine": 0.99, "max_abs": 0.3}
    return seal(folder, fields)


def has_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def computed_here(monkeypatch: pytest.MonkeyPatch, toy_bundle: Path) -> None:
    """On an x86 with AVX-512 but without bf16, OpenVINO emulates it: equal results, but slower."""
    compiled = openvino.Core().compile_model(
        str(toy_bundle / "encoder" / "openvino" / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}
    )
    if compiled.get_property("INFERENCE_PRECISION_HINT") != openvino.Type.bf16:
        pytest.skip("OpenVINO computes no bf16 on this CPU")
    monkeypatch.setattr(OpenVINOBackend, "_check_bf16", lambda *_: None)


def test_bf16_serves_only_where_it_is_selected(bundle: Bundle, computed_here: None) -> None:
    assert "bf16" not in runnable_precisions(bundle.manifest, ("openvino", "onnx"))
    actions = np.random.default_rng(0).uniform(-1, 1, (32, HORIZON, ACTIONS)).astype(np.float32)
    latents, result = bundle.golden().latents[:1], {}
    for precision in (None, "fp32", "bf16"):
        with WorldModel.open(bundle, precision=precision, num_samples=32, allow_untrained=True) as model:
            assert model.precision == (precision or "fp32")
            result[precision] = model.predict(actions, latents=latents).latents
    assert np.array_equal(result[None], result["fp32"])
    assert 1e-5 < np.abs(result["bf16"] - result["fp32"]).max() < 0.1
    assert all(parity.ok for parity in golden_parity(bundle, engine="openvino:CPU", precision="bf16"))


@pytest.mark.skipif(has_bf16(), reason="this CPU has bf16")
def test_cpu_without_bf16_rejects_it_and_verify_reports_it_as_not_checked(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BackendError, check=code("backend.precision_unsupported")):
        WorldModel.open(bundle, precision="bf16", options=BackendOptions(), allow_untrained=True)
    main(["verify", str(bundle.path), "--json"])
    output = json.loads(capsys.readouterr().out)
    (checked,) = [each for each in output["variants"] if each["precision"] == "bf16"]
    assert checked["status"] == "not checked" and "bf16 requires a CPU" in checked["reason"]


def test_bf16_requires_openvino(bundle: Bundle) -> None:
    with pytest.raises(BundleError, check=code("bundle.variant_missing")):
        WorldModel.open(bundle, engine="onnxruntime:CPU", precision="bf16", allow_untrained=True)
    fields = bundle.manifest.to_json_dict()
    fields["graphs"]["encoder"].append(
        {"target": "onnx", "precision": "bf16", "path": "encoder/onnx/model.onnx"}
    )
    with pytest.raises(BundleError, check=code("bundle.manifest_invalid")):
        seal(bundle.path, fields)
