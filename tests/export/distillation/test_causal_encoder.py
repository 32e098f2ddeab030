"""The gap between causal and two-way attention shrinks by training, and its result becomes a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from jepa_export.cli import main
from jepa_export.distillation.causal_encoder import (
    CausalDistillation,
    distill_causal_encoder,
    read_causal_encoder,
)
from jepa_export.errors import JepaExportError
from jepa_export.teachers.causal import CausalEncoder
from jepa_export.teachers.checkpoints import read
from jepa_export.teachers.family import FAMILY
from jepa_export.teachers.normalization import normalize
from jepa_export.teachers.vjepa2 import VJEPA2, Encoder
from jepa_runtime import Bundle, WorldModel
from tests.errors import code
from tests.export.teachers.tiny import PX, TINY, official

WINDOW, TOKENS = 3, 9
TEACHER = "vjepa2_1"
SETTINGS = CausalDistillation(window=WINDOW, steps=120, batch=8, learning_rate=5e-4, accelerator="cpu")


def recording(seed: int, length: int = 40) -> NDArray[np.uint8]:
    """Return frames of a window that moves over noise in a changing direction."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    picture = noise.repeat(16, 0).repeat(16, 1)
    steps = random.integers(-6, 7, (length, 2)).repeat(4, 0)[:length]
    places = np.clip(70 + steps.cumsum(0), 0, 192 - PX)
    return np.stack([picture[top : top + PX, left : left + PX] for top, left in places])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("teacher") / "weights.pt"
    torch.save(official(TEACHER), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILY, TEACHER, TINY[TEACHER])
        yield path


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> VJEPA2:
    teacher = read(TEACHER, checkpoint).model
    assert isinstance(teacher, VJEPA2)
    return teacher


@pytest.fixture(scope="module")
def trained(model: VJEPA2, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Path]:
    folder = tmp_path_factory.mktemp("run")
    recordings = [recording(seed, 80) for seed in range(10, 34)]
    return distill_causal_encoder(model, recordings, folder, SETTINGS), folder


@torch.no_grad()
def similarity(model: VJEPA2, encoder: Encoder) -> float:
    """Return the mean cosine with two-way attention, on a recording that no encoder was trained on."""
    frames = normalize(torch.from_numpy(recording(3)).float())
    clips = frames.unfold(0, 2 * WINDOW, 2).movedim(-1, 1)
    found, expected = CausalEncoder(encoder, WINDOW)(clips), model(clips)
    return float(cosine_similarity(found[:, -TOKENS:], expected[:, -TOKENS:], dim=-1).mean())


def test_training_closes_a_part_of_the_gap_on_other_frames(
    model: VJEPA2, trained: tuple[Encoder, Path]
) -> None:
    before, after = similarity(model, model.encoder), similarity(model, trained[0])
    assert before < 0.95 and 1 - after < 0.85 * (1 - before), (before, after)


def test_two_way_model_stays_unchanged(
    model: VJEPA2, checkpoint: Path, trained: tuple[Encoder, Path]
) -> None:
    again = read(TEACHER, checkpoint).model
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_interrupted_training_ends_with_the_same_weights(
    model: VJEPA2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, calls = np.random.default_rng, list[object]()

    def interrupt(seed: object) -> np.random.Generator:
        calls.append(seed)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return create(seed)

    settings = replace(SETTINGS, steps=8, batch=2, checkpoint_every=4)
    recordings = [recording(1), recording(2)]
    complete = distill_causal_encoder(model, recordings, tmp_path / "complete", settings)
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("jepa_export.distillation.causal_encoder.np.random.default_rng", interrupt)
        distill_causal_encoder(model, recordings, folder, settings)
    resumed = distill_causal_encoder(model, recordings, folder, settings)
    for name, tensor in resumed.state_dict().items():
        torch.testing.assert_close(tensor, complete.state_dict()[name], atol=1e-6, rtol=0)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        distill_causal_encoder(model, recordings, folder, replace(settings, steps=9))


def test_bundle_of_the_trained_encoder_reports_the_gap_before_and_after(
    model: VJEPA2, checkpoint: Path, trained: tuple[Encoder, Path], tmp_path: Path
) -> None:
    options = ["--frames", "4", "--horizon", "2", "--time", f"causal:{2 * WINDOW}", "--only", "openvino/fp32"]
    weights = ["--checkpoint", str(checkpoint), "--causal-encoder", str(trained[1] / "causal.pt")]
    arguments = ["--teacher", TEACHER, *weights, *options, "--output", str(tmp_path / "bundle")]
    assert main(["build", *arguments]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert {"before_training", "causal"} <= bundle.report()["causal_gap"].keys()
    assert "--causal-encoder causal.pt" in bundle.manifest.provenance.command
    shown = recording(3)[: 2 * WINDOW]
    with WorldModel.open(bundle) as opened, torch.no_grad():
        expected = CausalEncoder(trained[0], WINDOW)(normalize(torch.from_numpy(shown).float())[None])
        np.testing.assert_allclose(opened.encode(shown), expected[0, -TOKENS:], atol=1e-5, rtol=0)


def test_checkpoint_of_another_window_or_model_is_rejected(
    model: VJEPA2, trained: tuple[Encoder, Path], checkpoint: Path, tmp_path: Path
) -> None:
    saved = trained[1] / "causal.pt"
    with pytest.raises(JepaExportError, check=code("export.invalid_option")):
        read_causal_encoder(model, saved, WINDOW + 1)
    with pytest.raises(JepaExportError, check=code("export.invalid_option")):
        read_causal_encoder(model, checkpoint, WINDOW)
    other = TINY["vjepa2"].config.build()
    assert isinstance(other, VJEPA2)
    with pytest.raises(JepaExportError, check=code("export.invalid_option")):
        read_causal_encoder(other, saved, WINDOW)


@pytest.mark.parametrize(
    "shapes", [[], [(5, PX, PX, 3)], [(40, PX, 32, 3)]], ids=["none", "too short", "another size"]
)
def test_unusable_recordings_are_rejected(
    model: VJEPA2, shapes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    recordings = [np.zeros(shape, np.uint8) for shape in shapes]
    with pytest.raises(JepaExportError, check=code("export.invalid_frames")):
        distill_causal_encoder(model, recordings, tmp_path, SETTINGS)


@pytest.mark.parametrize("time", ["still", "clip:4"])
def test_causal_encoder_is_for_causal_bundles_only(
    checkpoint: Path, time: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--teacher", TEACHER, "--checkpoint", str(checkpoint), "--causal-encoder", "causal.pt"]
    assert main(["build", *weights, "--time", time, "--output", str(tmp_path / "bundle")]) == 1
    assert "[export.option_not_applicable]" in capsys.readouterr().err
