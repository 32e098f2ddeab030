"""jepa-export add-variant: variants for other devices, built from the contents of a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import openvino
import pytest

from jepa_export.bundling import add_variants as add_variants_module
from jepa_export.bundling.add_variants import add_blobs, add_variants
from jepa_export.bundling.builder import BundleBuilder
from jepa_export.bundling.variants import VariantKey, model_path
from jepa_export.cli import main
from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler, tensorrt_check
from jepa_export.targets.npu import first_step
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.bundle import ROLES, seal
from jepa_runtime.cli import main as runtime
from jepa_runtime.model.parity import golden_parity
from tests.bundles import ACTIONS, HORIZON, SIZE, make_arm_bundle, make_bundle
from tests.errors import code

NPU: tuple[VariantKey, ...] = (("npu", "int8"), ("npu", "fp16"))
TENSORRT: tuple[VariantKey, ...] = (("tensorrt", "int8"), ("tensorrt", "fp16"))


@pytest.fixture(autouse=True)
def without_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the vendors' compilers; test_vendor_compilers.py tests them and takes minutes."""

    def absent() -> None:
        raise JepaExportError("not installed: install it", code="target.npu_compiler_missing")

    monkeypatch.setattr(npu_compiler, "find", absent)
    monkeypatch.setattr(tensorrt_check, "missing", lambda: "not installed: pip install it")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of calibration frames."""
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for index in range(100):
        image = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((SIZE // 4, SIZE // 4, 1)))
        cv2.imwrite(str(folder / f"{index:03}.png"), image.astype(np.uint8))
    return folder


def variants_in(bundle: Bundle, role: str) -> set[tuple[str, str]]:
    return {(each.target, each.precision) for each in bundle.manifest.graphs.variants(role)}  # type: ignore[arg-type]


def add(base: Bundle, out: Path, variants: tuple[VariantKey, ...], **given: Any) -> Bundle:
    """Add variants, calibrated on the golden frames by default."""
    rest = {"frames": base.golden().frames, "command": "a test", "progress": lambda _: None}
    return add_variants(base, out, variants, **rest | given)


def without_targets(bundle: Bundle, *targets: str) -> Bundle:
    """Remove all variants for ``targets`` from a bundle."""
    fields = bundle.manifest.to_json_dict()
    for role, variants in fields["graphs"].items():
        fields["graphs"][role] = [each for each in variants if each["target"] not in targets]
        for target in targets:
            shutil.rmtree(bundle.path / role / target, ignore_errors=True)
        if not fields["graphs"][role]:
            shutil.rmtree(bundle.path / role, ignore_errors=True)
    return seal(bundle.path, fields)


def only(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_add_variants_adds_tensorrt_and_npu_variants_and_keeps_the_others(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = make_bundle(tmp_path / "toy", relative_pose=True), tmp_path / "new"
    options = ["--target", "npu", "--target", "tensorrt", "--calibration", str(images), "--frames", "16"]
    assert (
        main(["add-variant", str(base.path), *options, "--bundle-version", "2.0.0", "--output", str(out)])
        == 0
    )
    bundle = Bundle.open(out)
    assert variants_in(bundle, "encoder") == variants_in(base, "encoder") | set(NPU) | set(TENSORRT)
    assert variants_in(bundle, "step") == set(NPU)
    for role in ("energy", "relative_pose"):
        assert variants_in(bundle, role) == variants_in(base, role) | {("npu", "fp16"), ("tensorrt", "fp16")}
    for record in base.manifest.files:
        if record.path != "report.json":
            assert bundle.read(record.path) == base.read(record.path)
    assert bundle.manifest.graphs.encoder[: len(base.manifest.graphs.encoder)] == base.manifest.graphs.encoder
    unchanged = ("model_id", "release_seq", "io", "error_bounds", "surprise_threshold", "goal_threshold")
    assert all(getattr(bundle.manifest, name) == getattr(base.manifest, name) for name in unchanged)
    assert bundle.manifest.version == "2.0.0"
    assert bundle.manifest.provenance.commit == base.manifest.provenance.commit
    command = f"jepa-export add-variant toy {' '.join(options)}"
    made_by = f"{command} (bundle {base.sha256})"
    assert bundle.manifest.provenance.command == f"{base.manifest.provenance.command}; {made_by}"
    report = bundle.report()
    assert report["note"] == base.report()["note"]
    (note,) = report["added"]
    assert (note["command"], note["base_sha256"], note["frames"]) == (command, base.sha256, 16)
    rows = {(row["graph"], row["target"], row["precision"]) for row in note["agreement"]}
    assert rows == {(graph, *kind) for graph in ("encoder", "predictor") for kind in NPU + TENSORRT}
    assert {(row["target"], row["precision"]) for row in report["parity"]} == set(NPU) | set(TENSORRT)
    assert all(0 <= row["error_of_bound"] < 2 for row in note["agreement"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "error bounds, thresholds and normal scores are those of toy" in printed
    assert "a robot compiles the IRs itself: not installed: install it" in printed
    assert runtime(["info", str(out)]) == 0
    for engine in ("openvino:CPU", "onnxruntime:CPU"):
        assert runtime(["verify", str(out), "--engine", engine]) == 0, capsys.readouterr().err


def test_shipped_bundle_without_device_variants_gets_all_of_them_again(
    two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = Bundle.open(two_rooms_bundle)
    base = without_targets(
        Bundle.open(shutil.copytree(two_rooms_bundle, tmp_path / "base")), "npu", "tensorrt"
    )
    assert {each.target for each in base.manifest.graphs.encoder} == {"openvino", "onnx"}
    options = ["--target", "tensorrt", "--target", "npu", "--calibration", "two_rooms", "--frames", "32"]
    assert main(["add-variant", str(base.path), *options, "--output", str(tmp_path / "new")]) == 0
    bundle = Bundle.open(tmp_path / "new")
    for role in ROLES:
        assert variants_in(bundle, role) == variants_in(shipped, role)
    for name in ("error_bounds", "surprise_threshold", "goal_threshold", "normal_scores", "version"):
        assert getattr(bundle.manifest, name) == getattr(shipped.manifest, name)
    capsys.readouterr()
    assert runtime(["verify", str(bundle.path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    named = {(each["target"], each["precision"]) for each in report["variants"]}
    assert named == variants_in(bundle, "encoder")
    assert all(each["status"] == "checked" or each["reason"] for each in report["variants"])


@pytest.mark.parametrize("history_size", [1, 3])
@pytest.mark.parametrize("kind", NPU + TENSORRT)
def test_added_variant_computes_the_golden_outputs(
    kind: VariantKey, history_size: int, tmp_path: Path
) -> None:
    base = make_bundle(tmp_path / "toy", history_size=history_size, relative_pose=True)
    bundle = add(base, tmp_path / "new", (kind,))
    target, precision = kind
    engine = "openvino:CPU" if target == "npu" else "onnxruntime:CPU"
    reports = golden_parity(bundle, engine=engine, precision=precision, target=target)
    assert [parity.graph for parity in reports if parity.ok] == [
        "encoder", "predictor", *(["step"] if target == "npu" else []), "energy", "relative_pose",
    ]  # fmt: skip
    assert all(parity.min_cosine > (0.95 if precision == "int8" else 0.999) for parity in reports)


def test_bundle_with_step_graphs_gets_them_for_every_target(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy", step=True, energy=False)
    bundle = add(base, tmp_path / "new", NPU + TENSORRT)
    assert variants_in(bundle, "step") == variants_in(bundle, "predictor")
    assert variants_in(bundle, "energy") == variants_in(bundle, "relative_pose") == set()


def test_int8_npu_variant_reuses_int8_openvino_weights_without_frames(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy")
    on_cpu = add(base, tmp_path / "cpu", (("openvino", "int8"),))
    bundle = add(on_cpu, tmp_path / "npu", (("npu", "int8"),), frames=None)

    def weights(kind: VariantKey) -> list[bytes]:
        model = openvino.Core().read_model(bundle.path / model_path("encoder", kind))
        constants = [op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
        return sorted(op.get_data().tobytes() for op in constants if op.get_data().size > 8)

    assert weights(("npu", "int8")) == weights(("openvino", "int8")) != []


def test_step_graph_is_the_first_predictor_step_with_one_action(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy")
    golden = base.golden()
    predictor = openvino.Core().read_model(base.path / "predictor" / "openvino" / "model.xml")
    step = first_step(predictor)
    assert {port.get_any_name(): list(port.shape) for port in step.inputs} == {
        "history_latents": [1, 1, *golden.latents.shape[1:]],
        "actions": [1, 1, ACTIONS],
    }
    compiled = openvino.compile_model(step, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for latent, futures in zip(golden.latents, golden.futures, strict=True):
        given = {"history_latents": latent[None, None], "actions": golden.actions[1:2, :1]}
        np.testing.assert_allclose(compiled(given)["futures"], futures[1:2, :1], atol=1e-5)
    assert list(predictor.input("actions").partial_shape)[1] == HORIZON


def test_predictor_whose_first_step_looks_ahead_gets_no_npu_variant(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy", energy=False)
    path = base.path / "predictor" / "onnx" / "model.onnx"
    model = onnx.load(path)
    # The first effect is that of the last action.
    cut = next(node for node in model.graph.node if node.output == ["push0"])
    cut.input[1:3] = [f"from{HORIZON - 1}", f"to{HORIZON - 1}"]
    onnx.save(model, path)
    fields = base.manifest.model_dump(mode="json")
    for role in ("encoder", "predictor"):
        fields["graphs"][role] = [each for each in fields["graphs"][role] if each["target"] == "onnx"]
        shutil.rmtree(base.path / role / "openvino")
    arrays = dict(np.load(base.path / "golden.npz"))
    session = __import__("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays["futures"] = np.stack(
        [
            session.run(None, {"history_latents": latent[None, None], "actions": arrays["actions"]})[0]
            for latent in arrays["latents"]
        ]
    )
    np.savez(base.path / "golden.npz", **arrays)
    with pytest.raises(JepaExportError, check=code("export.parity_failed")):
        add(seal(base.path, fields), tmp_path / "new", (("npu", "fp16"),))
    assert only(tmp_path) == ["toy"]


def test_onnx_graphs_that_miss_the_golden_outputs_are_rejected(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy")
    other = make_bundle(tmp_path / "other", seed=1)
    shutil.copy(other.path / "encoder/onnx/model.onnx", base.path / "encoder/onnx/model.onnx")
    wrong = seal(base.path, base.manifest)
    with pytest.raises(JepaExportError, check=code("export.parity_failed")):
        add(wrong, tmp_path / "new", TENSORRT)
    assert only(tmp_path) == ["other", "toy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "openvino", "--precision", "fp32"], "already has openvino/fp32: leave it out"),
        (["--target", "tensorrt"], "tensorrt/int8 must be calibrated: pass --calibration SOURCE"),
        (["--target", "npu"], "npu/int8 must be calibrated"),
        (
            ["--target", "tensorrt", "--precision", "fp32"],
            "does not support this --precision: it supports int8, fp16",
        ),
        (["--target", "tensorrt", "--calibration", "/nowhere"], "/nowhere"),
        (["--target", "npu", "--precision", "fp16", "--bundle-version", "2"], "version"),
    ],
)
def test_impossible_variant_is_rejected_with_the_reason(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_bundle(tmp_path / "toy")
    assert main(["add-variant", str(base.path), *options, "--output", str(tmp_path / "new")]) == 1
    stderr = capsys.readouterr().err
    assert message in stderr and "Traceback" not in stderr
    assert only(tmp_path) == ["toy"]


def test_bundle_without_onnx_graphs_is_rejected_with_its_build_command(tmp_path: Path) -> None:
    base = without_targets(make_bundle(tmp_path / "toy"), "onnx")
    with pytest.raises(JepaExportError, check=code("export.no_onnx_source")):
        add(base, tmp_path / "new", NPU)


def test_bundle_with_an_energy_graph_in_another_precision_only_is_rejected(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy")
    fields = base.manifest.model_dump(mode="json")
    for energy in fields["graphs"]["energy"]:
        if energy["target"] == "onnx":
            energy["precision"] = "fp16"
    with pytest.raises(JepaExportError, match="graph of: energy", check=code("export.no_onnx_source")):
        add(seal(base.path, fields), tmp_path / "new", NPU)


@pytest.mark.parametrize("command", ["add-variant", "compile-npu"])
@pytest.mark.parametrize("inside", ["new", "encoder/new", "link/new"])
def test_output_inside_the_bundle_is_rejected(
    command: str, inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = add(make_bundle(tmp_path / "toy"), tmp_path / "npu", (("npu", "fp16"),), frames=None)
    (tmp_path / "link").symlink_to(base.path)
    out = tmp_path / inside if inside.startswith("link") else base.path / inside
    options = ["--target", "tensorrt", "--precision", "fp16"] if command == "add-variant" else []
    assert main([command, str(base.path), *options, "--output", str(out)]) == 1
    assert "[export.output_in_bundle]" in capsys.readouterr().err
    assert Bundle.open(base.path).sha256 == base.sha256


def test_frames_of_another_size_are_rejected(tmp_path: Path) -> None:
    base = make_bundle(tmp_path / "toy")
    with pytest.raises(JepaExportError, check=code("export.invalid_frames")):
        add(base, tmp_path / "new", TENSORRT, frames=np.zeros((4, 16, 16, 3), np.uint8))


def test_nothing_is_overwritten_even_if_created_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = make_bundle(tmp_path / "toy"), tmp_path / "new"
    other = make_bundle(tmp_path / "other", seed=2)
    options = ["--target", "tensorrt", "--precision", "fp16"]
    assert main(["add-variant", str(base.path), *options, "--output", str(other.path)]) == 1
    assert f"{other.path} exists and is not replaced: choose another --output" in capsys.readouterr().err
    real = BundleBuilder.finish

    def slow(*given: Any, **named: Any) -> Bundle:
        shutil.copytree(other.path, out)
        return real(*given, **named)

    monkeypatch.setattr(BundleBuilder, "finish", slow)
    assert main(["add-variant", str(base.path), *options, "--output", str(out)]) == 1
    assert f"{out} cannot be written: Directory not empty; nothing was written" in capsys.readouterr().err
    assert Bundle.open(out).sha256 == other.sha256
    assert only(tmp_path) == ["new", "other", "toy"]


def test_blobs_without_an_npu_variant_or_compiler_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_bundle(tmp_path / "toy")
    assert main(["compile-npu", str(base.path), "--output", str(tmp_path / "new")]) == 1
    assert "has no NPU variant: add one first (jepa-export add-variant)" in capsys.readouterr().err
    bundle = add(base, tmp_path / "npu", (("npu", "fp16"),))
    with pytest.raises(JepaExportError, check=code("target.npu_compiler_missing")):
        add_blobs(bundle, tmp_path / "new", progress=print)
    assert only(tmp_path) == ["npu", "toy"]


def test_variants_can_be_added_repeatedly(tmp_path: Path) -> None:
    first = add(make_bundle(tmp_path / "toy"), tmp_path / "first", (("npu", "fp16"),), frames=None)
    second = add(first, tmp_path / "second", (("npu", "int8"), ("tensorrt", "fp16")))
    assert variants_in(second, "step") == set(NPU)
    assert [note["variants"] for note in second.report()["added"]] == [
        ["npu/fp16"],
        ["npu/int8", "tensorrt/fp16"],
    ]
    json.dumps(second.report(), allow_nan=False)
    with WorldModel.open(second, engine="openvino:CPU", target="npu") as model:
        assert (model.precision, "step" in model.variants) == ("fp16", True)


@pytest.mark.parametrize("history_size", [1, 2])
def test_model_that_reads_states_gets_variants_calibrated_on_them(tmp_path: Path, history_size: int) -> None:
    base = make_arm_bundle(tmp_path / "arm", history_size=history_size)
    variants = (("openvino", "int8"), *NPU, *TENSORRT)
    frames = np.random.default_rng(0).integers(0, 256, (24, SIZE, SIZE, 3), np.uint8)
    states = np.random.default_rng(1).uniform(-1, 1, (24, 7)).astype(np.float32)
    recorded = add(base, tmp_path / "recorded", variants, frames=frames, states=states)
    golden = add(base, tmp_path / "golden", (("tensorrt", "fp16"), ("npu", "fp16")), frames=None)
    for bundle in (recorded, golden):
        for note in bundle.report()["added"][0]["agreement"]:
            assert note["mean_cosine"] > 0.99
        for engine in ("openvino:CPU", "onnxruntime:CPU"):
            assert runtime(["verify", str(bundle.path), "--engine", engine]) == 0


def test_states_of_each_calibration_sample_are_those_at_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_arm_bundle(tmp_path / "arm", history_size=2)
    used: list[Any] = []
    measure = add_variants_module.measure_agreement
    monkeypatch.setattr(
        add_variants_module, "measure_agreement", lambda *given: used.extend(given[3]) or measure(*given)
    )
    frames = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    states = np.arange(16 * 7, dtype=np.float32).reshape(16, 7)
    add(base, tmp_path / "new", (("openvino", "int8"),), frames=frames, states=states)
    with WorldModel.open(base, allow_untrained=True) as model:
        latents = np.stack([model.encode(frame) for frame in frames])
    assert len(used) > 4
    for sample in used:
        distances = np.abs(latents - sample["history_latents"][0, -1]).max(axis=(1, 2))
        row = int(distances.argmin())
        assert distances[row] < 1e-4
        np.testing.assert_array_equal(sample["history_states"][0], states[row - 1 : row + 1])
