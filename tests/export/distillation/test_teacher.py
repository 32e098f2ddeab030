"""Targets of teachers, and which teachers are accepted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jepa_export.cli import main
from jepa_export.distillation import distill as distillation
from jepa_export.distillation.frozen_encoders import PooledTeacher
from jepa_export.distillation.requests import DistillationRequest
from jepa_export.distillation.teacher_targets import TeacherFeatures, open_teacher
from jepa_export.errors import JepaExportError
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.checkpoints import Settings, Teacher
from jepa_export.teachers.normalization import normalize
from tests.errors import code
from tests.export.distillation.tiny import families

NAMES = ("vjepa2", "vjepa2_1", "vjepa2_1_levels", "vjepa2_ac", "lewm", "ijepa")


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with families():
        yield


def teacher(name: str, **changed: object) -> Teacher:
    options = {"untrained": True, "depth": None, "seed": 0, "accept_non_commercial": False} | changed
    return open_teacher(name, **options)  # type: ignore[arg-type]


def frames(count: int, px: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, count, px, px, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_teacher_targets_are_unit_scale_tokens_on_its_grid(name: str) -> None:
    features = TeacherFeatures(teacher(f"tiny_{name}"), frames=2)
    tokens = features(frames(3, features.px))
    assert tokens.shape == (2, features.side**2, features.dim)
    torch.testing.assert_close(tokens, unit_scale(tokens), atol=1e-3, rtol=0)


def test_teacher_levels_have_equal_weight() -> None:
    """V-JEPA 2.1 is trained on levels that are normalized separately (``forward_target`` of its training)."""
    features = TeacherFeatures(teacher("tiny_vjepa2_1_levels"), frames=2)
    norms = features.model.encoder.norms
    for size, norm in enumerate(norms, 1):
        norm.weight.fill_(float(size**2))
    levels = features(frames(2, features.px)).unflatten(-1, (len(norms), -1))
    torch.testing.assert_close(levels, unit_scale(levels), atol=1e-3, rtol=0)


def test_target_of_a_frame_comes_from_the_clip_that_ends_with_it() -> None:
    features = TeacherFeatures(teacher("tiny_vjepa2"), frames=4)
    clip = frames(6, features.px)
    with torch.no_grad():
        tokens = features.model.encoder(normalize(clip[:, 2:]))
    torch.testing.assert_close(features(clip), unit_scale(tokens[:, features.side**2 :]))
    longer = torch.cat([frames(6, features.px).flip(0)[:, :2], clip[:, 2:]], dim=1)
    torch.testing.assert_close(features(longer), features(clip))
    clip[:, 2] = 255 - clip[:, 2]
    assert not torch.allclose(features(longer), features(clip), atol=1e-3)


def test_frames_of_another_size_are_resized() -> None:
    features = TeacherFeatures(teacher("tiny_vjepa2"), frames=2)
    gray = torch.full((1, 2, 20, 20, 3), 90, dtype=torch.uint8)
    exact = torch.full((1, 2, features.px, features.px, 3), 90, dtype=torch.uint8)
    torch.testing.assert_close(features(gray), features(exact), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_teacher_as_encoder_has_at_most_16_tokens(name: str) -> None:
    features = TeacherFeatures(teacher(f"tiny_{name}"), frames=2)
    encoder = PooledTeacher(features)
    latents = encoder(frames(1, features.px)[:, 0])
    assert latents.shape == (2, encoder.config.tokens, encoder.config.dim)
    assert encoder.config.tokens <= 16
    torch.testing.assert_close(latents, unit_scale(latents), atol=1e-3, rtol=0)


def test_random_weights_follow_from_the_seed_and_are_reported() -> None:
    one, same, other = (teacher("tiny_vjepa2", depth=1, seed=seed) for seed in (0, 0, 1))
    clip = frames(2, 48)
    features = [TeacherFeatures(each, frames=2)(clip) for each in (one, same, other)]
    assert torch.equal(features[0], features[1]) and not torch.allclose(features[0], features[2])
    assert "random weights" in one.provenance and "1 of 2 blocks: not the published" in one.provenance


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("missing", {}, "teacher.unknown"),
        ("tiny_vjepa2", {"depth": 0}, "export.invalid_option"),
        ("tiny_vjepa2", {"depth": 3}, "export.invalid_option"),
        ("tiny_vjepa2=file.pt", {}, "export.option_not_applicable"),
        ("tiny_vjepa2=file.pt", {"untrained": False, "depth": 1}, "export.option_not_applicable"),
        ("tiny_ijepa=x.pt", {"untrained": False}, "export.non_commercial"),
        (
            "tiny_ijepa=x.pt",
            {"untrained": False, "accept_non_commercial": True},
            "teacher.checkpoint_not_found",
        ),
        ("vjepa2_ac_vitg_256", {"untrained": False}, "teacher.no_checkpoint"),
    ],
)
def test_invalid_teacher_is_reported(name: str, changed: dict[str, object], expected: str) -> None:
    with pytest.raises(JepaExportError, check=code(expected)):
        teacher(name, **changed)


@pytest.mark.parametrize("length", [0, 1, 3, 10])
def test_clips_that_the_teacher_cannot_read_are_rejected(length: int) -> None:
    with pytest.raises(JepaExportError, check=code("export.invalid_option")):
        TeacherFeatures(teacher("tiny_vjepa2"), frames=length)


def test_single_image_suffices_for_an_image_teacher() -> None:
    features = TeacherFeatures(teacher("tiny_vjepa2_1"), frames=1)
    assert features(frames(1, features.px)).shape == (2, features.side**2, features.dim)


def test_settings_of_a_teacher_reach_the_distillation_and_its_recorded_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[DistillationRequest] = []
    monkeypatch.setattr(distillation, "distill", lambda request, _: taken.append(request))
    options = shlex.split(
        "--heads 2 --predictor-heads 4 --resolution 96 --max-frames 16 --training-config a.yaml"
    )
    command = ["distill", "--teacher", "vjepa2=own.pt", "--data", "two_rooms", *options]
    assert main([*command, "--output", str(tmp_path)]) == 0
    assert main([*shlex.split(taken[0].command)[1:], "--output", str(tmp_path)]) == 0
    expected = Settings(
        heads=2, predictor_heads=4, frame_size=(96, 96), frames=16, training_config=Path("a.yaml")
    )
    assert [request.settings for request in taken] == [expected, expected]
