"""export_bundle: the networks of another project become a bundle, or an error says why not."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from jepa_export import IMAGENET, ActionSpace, ArrayRecording, JepaExportError, export_bundle
from jepa_export.bundling.staging import source_commit
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.cli import main as runtime
from tests.errors import code
from tests.export.bundling import own_networks as own
from tests.scripts import ROOT

TARGETS = ("openvino", "onnx", "npu", "tensorrt")


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, messages: list[str]) -> Bundle:
    folder = tmp_path_factory.mktemp("own") / "bundle"
    return export_bundle(folder, **own.arguments(targets=TARGETS, progress=messages.append))


def test_bundle_passes_jepa_runtime_verify(bundle: Bundle) -> None:
    assert runtime(["verify", str(bundle.path)]) == 0


def test_bundle_has_every_graph_of_all_targets(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs
    keys = {role: [(each.target, each.precision) for each in graphs.variants(role)] for role in
            ("encoder", "predictor", "step", "energy")}  # fmt: skip
    assert [target for target, _ in keys["energy"]] == list(TARGETS)
    assert keys["encoder"] == keys["predictor"]
    assert keys["step"] == [("npu", "int8"), ("npu", "fp16")]
    assert {("openvino", "int8"), ("onnx", "fp32"), ("tensorrt", "fp16")} <= set(keys["encoder"])


_OPTIONAL_TENSORS = ("history_states", "cache", "positions", "entry")


def documented_tensors() -> dict[str, dict[str, tuple[str, str]]]:
    """Return dtype and shape of each tensor by graph, from the table of the documentation.

    Those that only models with ``io.state`` or a cache of the encoder have are left out.
    """
    page = (ROOT / "docs/reference/bundle-format.md").read_text("utf-8")
    found: dict[str, dict[str, tuple[str, str]]] = {}
    role = ""
    for row in re.findall(r"^\|(.*)\|$", page.partition("## Graphs")[2].partition("\n- ")[0], re.MULTILINE):
        graph, tensor, direction, dtype, shape, _ = (cell.strip().replace("`", "") for cell in row.split("|"))
        role = graph or role
        if direction in ("input", "output") and tensor not in _OPTIONAL_TENSORS:
            found.setdefault(role, {})[tensor] = dtype, shape
    return found


def test_graphs_have_the_documented_tensors(bundle: Bundle) -> None:
    documented = documented_tensors()
    dtypes = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}
    sizes = {
        "1": 1,
        "3": 3,
        "h": own.PX,
        "w": own.PX,
        "T": own.TOKENS,
        "D": own.DIM,
        "A": 2,
        "W-1": 1,
        "W": 2,
        "F": 1,
    }
    for role in ("encoder", "predictor", "energy"):
        graph = onnx.load(bundle.path / role / "onnx" / "model_fp32.onnx").graph
        tensors = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
        assert tensors.keys() == documented[role].keys()
        for name, (dtype, shape) in documented[role].items():
            found = tensors[name]
            assert dtypes[found.elem_type] == dtype
            for length, symbol in zip(found.shape.dim, shape.strip("[]").split(", "), strict=True):
                free = symbol in ("K", "N")
                # The exporter leaves the sizes of some outputs open.
                assert length.dim_param if free else length.dim_value in (0, (sizes | {"H": 3})[symbol])


def test_opened_model_reproduces_the_networks(bundle: Bundle) -> None:
    networks = own.arguments()
    frames = own.recording(9).frames(np.arange(2))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    actions = np.random.default_rng(0).uniform(-1, 1, (9, 3, 2)).astype(np.float32)
    before = np.array([[0.5, -0.5]], np.float32)
    with torch.no_grad():
        images = (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std
        latents = networks["encoder"](images)
        known, executed = (
            latents[None].expand(9, -1, -1, -1),
            torch.from_numpy(before)[None].expand(9, -1, -1),
        )
        expected = []
        for action in torch.from_numpy(actions).unbind(1):
            executed = torch.cat([executed[:, -1:], action[:, None]], dim=1)
            expected.append(networks["predictor"](known, executed))
            known = torch.cat([known[:, 1:], expected[-1][:, None]], dim=1)
    with WorldModel.open(bundle, engine="onnxruntime:CPU", precision="fp32") as model:
        encoded = np.stack([model.encode(frame) for frame in frames])
        futures = model.predict(actions, latents=encoded, history_actions=before, goal=encoded[1])
    np.testing.assert_allclose(encoded, latents, atol=1e-5)
    np.testing.assert_allclose(futures.latents, torch.stack(expected, dim=1), atol=1e-4)
    distances = np.abs(futures.latents - encoded[1]).mean(axis=(2, 3))
    np.testing.assert_allclose(futures.energies, distances, atol=1e-5)


def test_errors_are_those_of_the_held_out_recording(bundle: Bundle) -> None:
    manifest, clip = bundle.manifest, own.recording(3)
    stamps = clip.stamps_ns
    actions = clip.actions(stamps, stamps + round(own.STEP_S * 1e9))
    errors, changes = [], []
    with WorldModel.open(bundle, engine="onnxruntime:CPU", precision="fp32") as model:
        latents = np.stack([model.encode(frame) for frame in clip.frames(np.arange(len(stamps)))])
        for now in range(1, len(stamps) - 3):
            futures = model.predict(
                actions[None, now : now + 3],
                latents=latents[now - 1 : now + 1],
                history_actions=actions[now - 1 : now],
            )
            difference = futures.latents[0] - latents[now + 1 : now + 4]
            errors.append(np.linalg.norm(difference.reshape(3, -1), axis=1))
    np.testing.assert_allclose(manifest.error_bounds, np.quantile(errors, 0.9, axis=0), rtol=1e-3)
    rmse = np.array(errors)[:, 0] / np.sqrt(own.TOKENS * own.DIM)
    assert manifest.surprise_threshold == pytest.approx(np.quantile(rmse, 0.999), rel=1e-3)
    changes = np.abs(np.diff(latents, axis=0)).mean(axis=(1, 2))
    assert 0.5 * changes.min() <= manifest.goal_threshold <= 0.5 * changes.max()


def test_provenance_states_commit_normalization_and_versions(bundle: Bundle, messages: list[str]) -> None:
    manifest, report = bundle.manifest, bundle.report()
    assert report is not None
    assert manifest.provenance.commit == source_commit(Path(__file__))
    assert manifest.provenance.command.endswith(Path(__file__).name)
    assert manifest.io.frame.mean == pytest.approx([255 * value for value in IMAGENET.mean])
    assert report["normalization"]["std"] == list(IMAGENET.std)
    assert report["versions"]["torch"] == installed_version("torch")
    assert report["open_loop"]["recordings"] == ["run 3"]
    assert [each["graph"] for each in report["int8"]] == ["encoder"]
    compared = {(row["target"], row["precision"]) for row in report["agreement"]}
    assert len(compared) == 6 and all(0 <= row["error_of_bound"] < 1 for row in report["agreement"])
    assert any("mean cosine" in message for message in messages)


def test_commit_of_a_file_is_that_of_its_repository(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        settings = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", *settings, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    model = tmp_path / "model.py"
    model.write_text("x = 1\n")
    assert source_commit(model) == "unknown"
    git("init", "-q")
    assert source_commit(model) == "unknown"
    git("add", "model.py")
    git("commit", "-q", "-m", "a model")
    assert git("rev-parse", "HEAD").startswith(source_commit(model))
    model.write_text("x = 2\n")
    assert source_commit(model).endswith("-dirty")
    assert source_commit(tmp_path / "missing" / "model.py") == "unknown"


def test_networks_of_the_caller_are_not_changed(tmp_path: Path) -> None:
    networks = own.arguments(targets=("onnx",))
    for name in ("encoder", "predictor"):
        networks[name].train().double()
    export_bundle(tmp_path / "bundle", **networks)
    for name in ("encoder", "predictor"):
        assert networks[name].training
        assert all(each.dtype == torch.float64 and each.requires_grad for each in networks[name].parameters())


def test_untrained_networks_get_no_error_bounds(tmp_path: Path) -> None:
    bundle = export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), trained=False))
    assert not bundle.manifest.trained and set(bundle.manifest.error_bounds) == {0.0}


def test_one_latent_and_one_step_are_supported(tmp_path: Path) -> None:
    changed = {"history": 1, "horizon": 1, "predictor": own.Predictor(1), "num_samples": 1}
    bundle = export_bundle(tmp_path / "bundle", **own.arguments(targets=("openvino", "npu"), **changed))
    assert runtime(["verify", str(bundle.path)]) == 0


def test_transformer_of_torch_is_exported(tmp_path: Path) -> None:
    fused = torch.backends.mha.get_fastpath_enabled()
    bundle = export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), encoder=own.Attention()))
    assert bundle.manifest.io.latent.dim == own.DIM
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_own_energy_sets_the_goal_threshold(tmp_path: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, latents: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            return 2 * (latents - goal).abs().flatten(1).mean(1)

    one, two = (
        export_bundle(tmp_path / name, **own.arguments(targets=("onnx",), energy=energy))
        for name, energy in (("one", None), ("two", Doubled()))
    )
    assert two.manifest.goal_threshold == pytest.approx(2 * one.manifest.goal_threshold, rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"encoder": own.Vector()}, "network.wrong_shape"),
        ({"predictor": own.WithTime()}, "network.wrong_shape"),
        ({"energy": own.Mean()}, "network.wrong_shape"),
        ({"encoder": own.Pair()}, "network.wrong_output"),
        ({"encoder": own.Infinite()}, "network.not_finite"),
        ({"encoder": own.Noise()}, "network.not_deterministic"),
        ({"encoder": own.Centered()}, "network.depends_on_batch"),
        ({"predictor": own.Mixing()}, "network.depends_on_batch"),
        ({"predictor": own.OtherActions()}, "network.forward_failed"),
        ({"encoder": own.NotExportable()}, "network.not_exportable"),
        ({"encoder": own.Branching()}, "export.parity_failed"),
        ({"predictor": own.FixedBatch()}, "network.not_runnable"),
        ({"horizon": 0}, "export.invalid_settings"),
        ({"history": 0}, "export.invalid_settings"),
        ({"step_s": 0.0}, "export.invalid_settings"),
        ({"model_id": "My Model"}, "export.invalid_settings"),
        ({"int8_cosine": 1.5}, "quantization.invalid_limit"),
        ({"targets": ("onnx", "toaster")}, "export.unknown_target"),
        ({"targets": ()}, "export.unknown_target"),
        ({"held_out": []}, "data.no_recordings"),
        ({"held_out": [own.recording(1)]}, "data.held_out_overlap"),
        ({"held_out": [own.recording(4, count=4)]}, "data.no_clip"),
        ({"held_out": [own.recording(4, px=24)]}, "data.size_mismatch"),
        ({"calibration": [own.recording(4, units=("km/h", "m/s"))]}, "data.action_mismatch"),
        ({"step_s": 0.05}, "data.rate_too_high"),
        (
            {"actions": ActionSpace(names=("v",), units=("m/s",), low=(-1.0,), high=(1.0,))},
            "data.action_mismatch",
        ),
        (
            {
                "actions": ActionSpace(
                    names=("vx", "vy"), units=("m/s", "m/s"), low=(1.0, 1.0), high=(0.0, 0.0)
                )
            },
            "export.invalid_settings",
        ),
    ],
)
def test_unusable_argument_is_an_error_and_writes_nothing(
    tmp_path: Path, changed: dict[str, Any], expected: str
) -> None:
    arguments = own.arguments(**{"targets": ("onnx",)} | changed)
    with pytest.raises(JepaExportError, check=code(expected)):
        export_bundle(tmp_path / "bundle", **arguments)
    assert not list(tmp_path.iterdir())


def test_unlikely_models_are_reported(tmp_path: Path) -> None:
    found: list[str] = []
    narrow = ActionSpace(names=("vx", "vy"), units=("m/s", "m/s"), low=(-0.1, -1.0), high=(0.1, 1.0))
    changed = {"predictor": own.Unconditional(), "actions": narrow, "progress": found.append}
    export_bundle(tmp_path / "bundle", **own.arguments(targets=("onnx",), **changed))
    warnings = [message for message in found if message.startswith("WARNING")]
    assert any("does not depend on the action" in warning for warning in warnings)
    assert any("vx" in warning and "outside the limits" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("images", "actions", "expected"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), np.zeros((3, 2)), "data.invalid_images"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.zeros((3, 2)), "data.invalid_images"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros((2, 2)), "data.invalid_actions"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.zeros((3, 1)), "data.invalid_actions"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.full((3, 2), np.nan), "data.invalid_actions"),
    ],
)
def test_unusable_arrays_are_an_error(images: Any, actions: Any, expected: str) -> None:
    with pytest.raises(JepaExportError, check=code(expected)):
        ArrayRecording(images, actions, action_names=("vx", "vy"), action_units=("m/s", "m/s"), step_s=0.2)
