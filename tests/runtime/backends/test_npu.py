"""OpenVINO on an Intel NPU: matching blobs only, turbo, and proof that the NPU did the work.

The device is simulated on the CPU (tests/runtime/backends/simulated_npu.py).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jepa_runtime import WorldModel
from jepa_runtime.backends import BackendOptions, Graph, create_backend
from jepa_runtime.backends.openvino.npu import Origin
from jepa_runtime.bundle import POSE_BATCH, Bundle, seal
from jepa_runtime.errors import BackendError, BundleError
from jepa_runtime.model.compiled_graphs import runnable_precisions
from jepa_runtime.model.parity import golden_parity
from tests.bundles import ACTIONS, DIM, HORIZON, NUM_SAMPLES, TOKENS, make_bundle
from tests.errors import code
from tests.runtime.backends.simulated_npu import SimulatedCore

REQUIREMENTS = "meta=2.7;ov=2026.4.1;desc=[compiler=8.4;npu=4000;t=4;elf=1.2.2;mi=11.4.10]"
HERE = {"platform": "4000", "compiler": "8.4", "openvino": "2026.4.1", "ir_sha256": "ab"}
RELEASE = openvino.get_version().partition("-")[0]


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[SimulatedCore]:
    """The class of all created cores; attributes set on it apply to them."""
    busy = tmp_path / "npu_busy_time_us"
    busy.write_text("0")
    monkeypatch.setattr("jepa_runtime.backends.openvino.backend.Core", SimulatedCore)
    monkeypatch.setattr("jepa_runtime.backends.openvino.npu.BUSY_TIME", str(busy))
    monkeypatch.setattr(SimulatedCore, "busy", busy)
    return SimulatedCore


@pytest.fixture
def npu_bundle(tmp_path: Path) -> Callable[..., Path]:
    """A bundle with variants for NPUs and their blobs; arguments replace fields of the blob metadata."""

    def make(**other: str) -> Path:
        folder = tmp_path / "bundle"
        manifest = make_bundle(folder, relative_pose=True).manifest.model_dump(mode="json")
        # Without fixed shapes the predictor also runs one candidate: only the NPU has the step.
        whole = make_bundle(tmp_path / "whole", step=True)
        shutil.copytree(whole.path / "step", folder / "step")
        for role, shapes in _SHAPES.items():
            _add_form(folder, role, shapes, other)
            form = {"target": "npu", "precision": "fp32", "path": f"{role}/npu/model.xml"}
            manifest["graphs"][role] = [*manifest["graphs"][role], form]
        shutil.rmtree(folder / "step" / "openvino")
        shutil.rmtree(folder / "step" / "onnx")
        seal(folder, manifest)
        return folder

    return make


_SHAPES = {
    "encoder": {},
    "predictor": {"actions": [9, HORIZON, ACTIONS]},
    "step": {"actions": [1, 1, ACTIONS]},
    "energy": {"latents": [NUM_SAMPLES * HORIZON, TOKENS, DIM]},
    "relative_pose": {"latents": [POSE_BATCH, TOKENS, DIM]},
}


def _add_form(folder: Path, role: str, shapes: dict[str, list[int]], other: dict[str, str]) -> None:
    real = openvino.Core()
    model = real.read_model(folder / role / "openvino" / "model.xml")
    if shapes:
        model.reshape(shapes)
    xml = folder / role / "npu" / "model.xml"
    openvino.save_model(model, xml, compress_to_fp16=False)
    blob = xml.with_name("model_4000.blob")
    compiled = real.compile_model(
        real.read_model(xml), "CPU", {"INFERENCE_PRECISION_HINT": openvino.Type.f32}
    )
    blob.write_bytes(compiled.export_model().getvalue())
    digest = Graph.read(xml).sha256
    origin = {
        "platform": "4000", "compiler": "8.4", "openvino": RELEASE, "ir_sha256": digest,
        "requirements": REQUIREMENTS,
    }  # fmt: skip
    Path(f"{blob}.json").write_text(json.dumps(origin | other))


def test_blob_describes_its_target() -> None:
    origin = Origin.parse(REQUIREMENTS, "ab")
    assert (origin.platform, origin.compiler, origin.openvino) == ("4000", "8.4", "2026.4.1")
    assert origin.requirements == REQUIREMENTS


@pytest.mark.parametrize("field", ["npu", "compiler", "ov"])
def test_blob_without_a_description_is_rejected(field: str) -> None:
    with pytest.raises(BackendError, check=code("backend.blob_invalid")):
        Origin.parse(REQUIREMENTS.replace(f"{field}=", "x="), "ab")


def test_blob_of_this_machine_is_compatible() -> None:
    assert Origin.parse(REQUIREMENTS, "ab").mismatches(**HERE) == []


def test_blob_is_compatible_with_a_newer_driver_compiler() -> None:
    assert Origin.parse(REQUIREMENTS, "ab").mismatches(**HERE | {"compiler": "8.10"}) == []


def test_blob_needs_no_compiler_on_the_robot() -> None:
    assert Origin.parse(REQUIREMENTS, "ab").mismatches(**HERE | {"compiler": ""}) == []


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("platform", "5010", "for platform 4000, this NPU is 5010"),
        ("compiler", "8.3", "by NPU compiler 8.4, the driver supports up to 8.3"),
        ("openvino", "2026.4.0", "by OpenVINO 2026.4.1, this is 2026.4.0"),
        ("ir_sha256", "cd", "from another IR"),
    ],
)
def test_blob_of_another_machine_is_incompatible(field: str, value: str, reason: str) -> None:
    (result,) = Origin.parse(REQUIREMENTS, "ab").mismatches(**HERE | {field: value})
    assert reason in result


def test_blob_origin_round_trips() -> None:
    origin = Origin.parse(REQUIREMENTS, "ab")
    assert Origin.read(json.dumps(asdict(origin)).encode(), "here") == origin


@given(
    st.binary() | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
@example(b"[" * 10_000)
@example(b'{"platform": "4000"}')
@example(json.dumps(dict.fromkeys(HERE | {"requirements": ""}, 3)).encode())
def test_malformed_blob_origin_raises_a_coded_error(content: bytes) -> None:
    with pytest.raises(BackendError, check=code("backend.blob_invalid")):
        Origin.read(content, "here")


def test_ir_with_other_weights_has_another_identity() -> None:
    assert len({Graph("", *ir).sha256 for ir in ((b"a", b"b"), (b"a", b"c"), (b"b", b"b"))}) == 3


def kinds(core: SimulatedCore) -> list[str]:
    return [kind for kind, _ in core.calls if kind in ("compile", "import")]


def test_compatible_blob_is_imported_and_computes_the_golden_outputs(
    core: type[SimulatedCore], npu_bundle: Callable[..., Path]
) -> None:
    folder = npu_bundle()
    parities = golden_parity(Bundle.open(folder), engine="openvino:NPU")
    assert [parity.graph for parity in parities] == [*_SHAPES]
    assert all(parity.ok for parity in parities)
    with WorldModel.open(folder, engine="openvino:NPU", num_samples=9) as model:
        reported = model._backend._core  # type: ignore[attr-defined]
        assert (model.engine, model.device, model.skipped_engines) == ("openvino", "NPU", ())
        assert "import" in kinds(reported)
        assert all(inputs["NPU_TURBO"] for kind, inputs in reported.calls if kind in ("compile", "import"))
        assert ("COMPATIBILITY_CHECK", {"RUNTIME_REQUIREMENTS": REQUIREMENTS}) in reported.calls


def test_fixed_shapes_serve_fewer_candidates_and_single_states_with_equal_results(
    core: type[SimulatedCore], npu_bundle: Callable[..., Path]
) -> None:
    folder = npu_bundle()
    golden = Bundle.open(folder).golden()
    goal = golden.goal[0]
    with WorldModel.open(folder, engine="openvino:NPU", num_samples=5) as model:
        result = model.predict(golden.actions[:5], latents=golden.latents[0], goal=goal)
        (one,) = model.predict(golden.actions[:1, :1], latents=golden.latents[0]).latents
        np.testing.assert_allclose(result.latents, golden.futures[0, :5], atol=1e-4)
        np.testing.assert_allclose(one, golden.futures[0, 0, :1], atol=1e-4)
        assert result.energies is not None and golden.energy is not None
        np.testing.assert_allclose(model.energy(golden.latents[0], goal), golden.energy[0], atol=1e-4)
        np.testing.assert_allclose(result.energies[0], model.energy(result.latents[0], goal), atol=1e-6)
        assert golden.relative_pose is not None
        for count in (1, 3):
            poses = model.relative_poses(golden.latents[:count], goal)
            np.testing.assert_allclose(poses, golden.relative_pose[:count], atol=1e-4)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_shipped_model_opens_in_its_npu_variants(
    core: type[SimulatedCore], two_rooms_bundle: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(two_rooms_bundle)
    result = golden_parity(bundle, engine="openvino:NPU", precision=precision)
    assert [parity.graph for parity in result if parity.ok] == ["encoder", "predictor", "step", "energy"]
    assert "computes this fp32 graph in fp16" not in caplog.text
    assert runnable_precisions(bundle.manifest, ("npu", "openvino", "onnx")) == ["int8", "fp16", "fp32"]


def test_more_candidates_than_fixed_shapes_hold_are_rejected(
    core: type[SimulatedCore], npu_bundle: Callable[..., Path]
) -> None:
    with pytest.raises(BundleError, check=code("bundle.variant_missing")):
        WorldModel.open(npu_bundle(), engine="openvino:NPU", num_samples=17)


def test_npu_variants_are_checked_on_a_cpu(npu_bundle: Callable[..., Path]) -> None:
    bundle = Bundle.open(npu_bundle())
    result = golden_parity(bundle, engine="openvino:CPU", target="npu")
    assert [parity.graph for parity in result if parity.ok] == [*_SHAPES]
    on_cpu = golden_parity(bundle, engine="openvino:CPU")
    assert [parity.graph for parity in on_cpu if parity.ok] == [
        "encoder", "predictor", "energy", "relative_pose",
    ]  # fmt: skip


def test_precision_of_the_preferred_target_comes_first(
    npu_bundle: Callable[..., Path],
) -> None:
    manifest = Bundle.open(npu_bundle()).manifest
    fields = manifest.model_dump(mode="json")
    fields["graphs"]["encoder"].sort(key=lambda each: (each["precision"], each["target"]))
    reordered = type(manifest).model_validate_json(json.dumps(fields))
    assert runnable_precisions(reordered, ("npu", "openvino", "onnx")) == ["fp32", "fp16"]


@pytest.mark.parametrize("expected", [{"NPU_COMPILER_VERSION": 0}, {}])
def test_driver_without_a_compiler_runs_a_compatible_blob(
    core: type[SimulatedCore],
    npu_bundle: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, int],
) -> None:
    begin = SimulatedCore.__init__

    def without(self: SimulatedCore) -> None:
        begin(self)
        del self.properties["NPU_COMPILER_VERSION"]
        self.properties |= expected

    monkeypatch.setattr(SimulatedCore, "__init__", without)
    with WorldModel.open(npu_bundle(), engine="openvino:NPU", num_samples=9) as model:
        request = model._backend._core  # type: ignore[attr-defined]
        assert "compile" not in kinds(request) and "import" in kinds(request)


def test_operations_are_counted_in_a_graph_compiled_for_it(
    core: type[SimulatedCore], npu_bundle: Callable[..., Path]
) -> None:
    backend = create_backend("openvino:NPU", BackendOptions())
    graph = Graph.read(npu_bundle() / "encoder" / "npu" / "model.xml")
    with suppress(AttributeError):
        backend.layer_times(graph, {"frame": (1, 32, 32, 3)}, 1)
    (inputs,) = (inputs for kind, inputs in backend._core.calls if kind == "compile")  # type: ignore[attr-defined]
    assert inputs["PERF_COUNT"] and "import" not in kinds(backend._core)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"platform": "5010"}, "it is for platform 5010, this NPU is 4000"),
        ({"openvino": "2025.1.0"}, "it was compiled by OpenVINO 2025.1.0, this is"),
        ({"compiler": "9.1"}, "it was compiled by NPU compiler 9.1, the driver supports up to 8.4"),
        ({"ir_sha256": "ab"}, "it was compiled from another IR"),
    ],
)
def test_incompatible_blob_is_skipped_with_a_message(
    core: type[SimulatedCore],
    npu_bundle: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    other: dict[str, str],
    expected: str,
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        WorldModel.open(npu_bundle(**other), engine="openvino:NPU") as model,
    ):
        assert kinds(model._backend._core) == ["compile"] * len(_SHAPES)  # type: ignore[attr-defined]
    assert (
        "ignoring its blob" in caplog.text
        and expected in caplog.text
        and "compiling the graph" in caplog.text
    )


def test_blob_that_the_driver_cannot_run_is_skipped(
    core: type[SimulatedCore],
    npu_bundle: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SimulatedCore, "check", openvino.properties.CompatibilityCheck.UNSUPPORTED)
    with WorldModel.open(npu_bundle(), engine="openvino:NPU"):
        assert "the driver reports that it cannot run it" in caplog.text


def test_blob_that_cannot_be_imported_is_skipped(
    core: type[SimulatedCore],
    npu_bundle: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SimulatedCore, "breaks", True)
    with WorldModel.open(npu_bundle(), engine="openvino:NPU") as model:
        assert kinds(model._backend._core) == ["import", "compile"] * len(_SHAPES)  # type: ignore[attr-defined]
    assert "ignoring its blob: the blob is not accepted by the driver; compiling the graph" in caplog.text


def test_fp32_on_an_npu_is_reported_as_computed_in_fp16(
    core: type[SimulatedCore], toy_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with WorldModel.open(toy_bundle, engine="openvino:NPU"):
        assert "the NPU computes this fp32 graph in fp16" in caplog.text


def test_driver_compiler_error_states_the_reason(
    core: type[SimulatedCore], toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is that of OpenVINO 2025.1 and its driver."""

    def refuse(*_: Any) -> Any:
        raise RuntimeError(
            "Exception from src/inference/src/cpp/core.cpp:107:\n"
            "Exception from src/plugins/intel_npu/src/compiler_adapter/src/ze_graph_ext_wrappers.cpp:389:\n"
            "L0 pfnCreate2 result: ZE_RESULT_ERROR_INVALID_ARGUMENT, code 0x78000004 - generic error code "
            "for invalid arguments . [NPU_VCL] Compiler returned msg:\nUpper bounds were not specified\n\n"
        )

    monkeypatch.setattr(SimulatedCore, "compile_model", refuse)
    with pytest.raises(
        BackendError,
        match=r"Compiler returned msg: Upper bounds were not specified$",
        check=code("backend.graph_invalid"),
    ):
        WorldModel.open(toy_bundle, engine="openvino:NPU")


def test_bundle_without_blobs_is_compiled(core: type[SimulatedCore], toy_bundle: Path) -> None:
    with WorldModel.open(toy_bundle, engine="openvino:NPU") as model:
        assert set(kinds(model._backend._core)) == {"compile"}  # type: ignore[attr-defined]


def test_work_not_executed_on_the_npu_is_an_error(
    core: type[SimulatedCore], toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedCore, "idles", True)
    with pytest.raises(BackendError, check=code("backend.npu_idle")):
        WorldModel.open(toy_bundle, engine="openvino:NPU")


def test_kernel_without_npu_counters_is_reported_as_no_proof(
    core: type[SimulatedCore],
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("jepa_runtime.backends.openvino.npu.BUSY_TIME", str(tmp_path / "none"))
    with caplog.at_level(logging.INFO), WorldModel.open(toy_bundle, engine="openvino:NPU"):
        assert "cannot verify that the NPU ran it" in caplog.text


def test_fallback_engine_is_used_only_if_listed_and_states_the_reason(
    toy_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if "NPU" in openvino.Core().available_devices:
        pytest.skip("this machine has an NPU")
    with pytest.raises(BackendError, check=code("backend.device_not_found")):
        WorldModel.open(toy_bundle, engine="openvino:NPU")
    with WorldModel.open(toy_bundle, engine="openvino:NPU, openvino:CPU") as model:
        assert (model.engine, model.device) == ("openvino", "CPU")
        (reason,) = model.skipped_engines
        assert reason.startswith("openvino:NPU: openvino:NPU: no such device")
        assert f"using openvino:CPU instead of the preferred engine: {reason}" in caplog.text
    with WorldModel.open(toy_bundle, engine="openvino:CPU,openvino:NPU") as model:
        assert (model.device, model.skipped_engines) == ("CPU", ())


def test_unusable_listed_engines_each_state_the_reason(toy_bundle: Path) -> None:
    with pytest.raises(BackendError, check=code("backend.no_alternative")):
        WorldModel.open(toy_bundle, engine="no,openvino:X")


def test_npu_without_a_platform_name_is_an_error(
    core: type[SimulatedCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> Any:
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(SimulatedCore, "get_property", silent)
    with pytest.raises(BackendError, check=code("backend.device_not_found")):
        create_backend("openvino:NPU")


@pytest.mark.hardware
def test_npu_reproduces_the_golden_outputs(toy_bundle: Path) -> None:
    if "NPU" not in openvino.Core().available_devices:
        pytest.skip("OpenVINO sees no NPU")
    assert all(parity.ok for parity in golden_parity(Bundle.open(toy_bundle), engine="openvino:NPU"))
