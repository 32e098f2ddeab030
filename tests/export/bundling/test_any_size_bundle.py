"""jepa-export build --teacher vjepa2: the bundle of a checkpoint of any size."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from jepa_export.cli import main
from jepa_export.commands import build_teacher as command
from jepa_export.commands.teacher_request import TeacherRequest
from jepa_export.teachers.checkpoints import Settings, read
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2
from jepa_runtime import Bundle, WorldModel
from tests.export.teachers.reference import (
    checkpoint,
    encoder_2_1_shapes,
    encoder_shapes,
    predictor_shapes,
)

SHORT = ["--frames", "4", "--horizon", "2", "--only", "onnx/fp32"]
OPTIONS = ["--heads", "2", "--predictor-heads", "2", "--resolution", "28x42", "--max-frames", "8"]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    content = checkpoint(encoder_shapes(40, 2, patch=14), predictor_shapes(28, 2, 40))
    torch.save(content, tmp_path / "own.pt")
    return tmp_path / "own.pt"


def build(folder: Path, *arguments: str | Path) -> int:
    return main(["build", *map(str, arguments), *SHORT, "--output", str(folder)])


def check_latents(folder: Path, model: VJEPA2) -> None:
    """Compare the bundle with the model on frames of its own size."""
    height, width = model.config.encoder.frame_size
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    clips = normalize(torch.from_numpy(frames).float())[:, None]
    expected = model(clips.expand(-1, model.config.encoder.tubelet, -1, -1, -1))
    with WorldModel.open(folder, engine="onnxruntime:CPU") as world:
        encoded = np.stack([world.encode(frame) for frame in frames])
        np.testing.assert_allclose(encoded, expected, atol=1e-4, rtol=0)
        futures = world.predict(np.zeros((1, 2, 1), np.float32), latents=expected.numpy())
    anticipated = model.anticipate(expected.flatten(0, 1)[None], steps=2)
    np.testing.assert_allclose(futures.latents.reshape(anticipated.shape), anticipated, atol=1e-4, rtol=0)


def test_checkpoint_becomes_a_bundle_with_its_sizes(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    assert build(folder, "--teacher", "vjepa2", "--checkpoint", file, *OPTIONS) == 0
    sizes = "width 40, depth 2, 2 heads; 28x42 px in patches of 14 px; clips of up to 8 frames"
    assert f"sizes: {sizes}" in " ".join(capsys.readouterr().out.split())
    manifest = Bundle.open(folder).manifest
    assert (manifest.io.frame.height, manifest.io.frame.width) == (28, 42)
    assert (manifest.io.latent.tokens, manifest.io.latent.dim) == (6, 40)
    assert manifest.trained and sizes in manifest.description
    settings = Settings(heads=2, predictor_heads=2, frame_size=(28, 42), frames=8)
    model = read("vjepa2", file, settings=settings).model
    assert isinstance(model, VJEPA2)
    check_latents(folder, model)


def test_training_configuration_next_to_the_checkpoint_replaces_the_options(tmp_path: Path) -> None:
    content = checkpoint(
        encoder_2_1_shapes(48, 12, patch=16, hidden=96),
        predictor_shapes(24, 4, 48, levels=4, modalities=True, hidden=48),
    )
    torch.save(content, tmp_path / "latest.pt")
    (tmp_path / "config.json").write_text(
        '{"model_type": "vjepa2", "num_attention_heads": 3, "pred_num_attention_heads": 2,'
        ' "crop_size": 32, "frames_per_clip": 8}'
    )
    folder = tmp_path / "bundle"
    arguments = ["--teacher", "vjepa2_1", "--checkpoint", tmp_path / "latest.pt"]
    # A port does not state whether positions are stretched.
    assert build(folder, *arguments) == 1
    training = {
        "data": {"crop_size": 32, "dataset_fpcs": [8], "fps": 8},
        "model": {"pred_num_heads": 2, "interpolate_rope": True},
    }
    with (tmp_path / "params-pretrain.yaml").open("w") as stream:
        YAML(typ="safe", pure=True).dump(training, stream)
    assert build(folder, *arguments, "--heads", "3") == 0
    model = read("vjepa2_1", tmp_path / "latest.pt", settings=Settings(heads=3)).model
    assert isinstance(model, VJEPA2) and model.config.encoder.span == 16
    assert Bundle.open(folder).manifest.io.step_s == 0.25
    check_latents(folder, model)


def test_build_without_the_settings_writes_nothing_and_names_them(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    assert build(folder, "--teacher", "vjepa2", "--checkpoint", file) == 1
    said = capsys.readouterr().err
    assert "--heads" in said and "--resolution" in said and "params-pretrain.yaml" in said
    assert not folder.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--teacher", "vjepa2", "--untrained"],
        ["--teacher", "vjepa2_vitl_256", "--untrained", "--heads", "4"],
        ["--teacher", "vjepa2_vitl_256", "--checkpoint", "nothing.pt", "--resolution", "64"],
        ["--teacher", "vjepa2", "--checkpoint", "nothing.pt", "--max-frames", "64"],
    ],
)
def test_family_requires_a_checkpoint_and_a_model_no_settings(tmp_path: Path, arguments: list[str]) -> None:
    folder = tmp_path / "bundle"
    assert build(folder, *arguments) == 1
    assert not folder.exists()


@pytest.mark.parametrize("value", ["", "0", "-1", "64x", "64x64x64", "9999", "x64", "6e1", "٣"])
def test_malformed_resolution_is_a_usage_error(file: Path, tmp_path: Path, value: str) -> None:
    with pytest.raises(SystemExit) as error:
        build(tmp_path / "bundle", "--teacher", "vjepa2", "--checkpoint", file, f"--resolution={value}")
    assert error.value.code == 2


def test_student_has_no_settings(tmp_path: Path) -> None:
    arguments = ["--student", "vit_ti", "--untrained", "--heads", "3", "--output", str(tmp_path / "bundle")]
    with pytest.raises(SystemExit) as error:
        main(["build", *arguments])
    assert error.value.code == 2


def request_of(command_line: str) -> TeacherRequest:
    """Return the request that ``command_line`` passes to the builder."""
    taken: list[TeacherRequest] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "build_teacher", lambda request: taken.append(request) or 0)
        assert main([*shlex.split(command_line)[1:], "--output", "x"]) == 0
    return taken[0]


def test_recorded_command_contains_the_settings(file: Path) -> None:
    line = ["jepa-export", "build", "--teacher", "vjepa2", "--checkpoint", "owner/name", *OPTIONS]
    request = request_of(shlex.join([*line, "--training-config", "my training.yaml"]))
    assert request.settings.training_config == Path("my training.yaml")
    assert request_of(request.command) == request
