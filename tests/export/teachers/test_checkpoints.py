"""A checkpoint is read completely with its origin, or rejected with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints import Teacher, read
from jepa_export.teachers.checkpoints.files import load
from jepa_export.teachers.checkpoints.layouts import recognize
from tests.errors import code
from tests.export.teachers.tiny import TINY, official

Save = Callable[..., Path]
CASES = sorted(TINY)


def refused(expected: str, name: str, source: str | Path, **more: str) -> str:
    with pytest.raises(JepaExportError, check=code(expected)) as error:
        read(name, source, **more)
    return str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_loaded_teacher_names_its_weights_and_is_in_evaluation_mode(
    teacher: Callable[[str], Teacher], case: str
) -> None:
    loaded = teacher(case)
    member = TINY[case]
    assert loaded.provenance == (
        f"{case} ({member.family}), {member.weights} of official.pt, {member.license}"
    )
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_another_encoder_of_the_file_can_be_selected(saved: Save) -> None:
    content = official("vjepa2")
    path = saved(content)
    assert read("vjepa2", path).model.encoder.norms[0].weight.any()
    other = read("vjepa2", path, weights="encoder")
    assert other.weights == "encoder"
    assert not other.model.encoder.norms[0].weight.any()
    message = refused("teacher.unknown_encoder", "vjepa2", path, weights="ema_encoder")
    assert "encoder, target_encoder" in message


def test_only_i_jepa_is_non_commercial() -> None:
    assert {case for case, member in TINY.items() if not member.commercial} == {"ijepa"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("other", CASES)
def test_read_checkpoint_of_another_family_names_the_family(saved: Save, case: str, other: str) -> None:
    families = TINY[case].family, TINY[other].family
    if families[0] != families[1]:
        message = refused("teacher.wrong_family", case, saved(official(other)))
        assert families[1] in message and other in message


def test_checkpoint_of_another_size_names_the_differing_weights(saved: Save) -> None:
    message = refused("teacher.weights_mismatch", "vjepa2_vitl_256", saved(official("vjepa2")))
    assert "missing: encoder.blocks.2.norm1.weight, " in message
    assert "encoder.patch_embed.proj.weight [40, 1536] instead of [1024, 1536]" in message


def test_missing_and_unexpected_weights_are_named(saved: Save) -> None:
    content = official("vjepa2")
    encoder = content["target_encoder"]
    encoder["module.backbone.norm2.weight"] = encoder.pop("module.backbone.norm.weight")
    message = refused("teacher.weights_mismatch", "vjepa2", saved(content))
    assert "missing: encoder.norms.0.weight; unexpected: encoder.norm2.weight" in message


@pytest.mark.parametrize(
    ("network", "name"), [("predictor", "mask_tokens.0"), ("target_encoder", "patch_embed.proj.weight")]
)
def test_weight_without_dimensions_is_rejected(saved: Save, network: str, name: str) -> None:
    content = official("vjepa2")
    content[network]["module.backbone." + name] = torch.zeros(3)
    refused("teacher.weights_mismatch", "vjepa2", saved(content))


def test_absolute_positions_in_older_files_are_ignored(saved: Save) -> None:
    content = official("vjepa2")
    content["target_encoder"]["module.backbone.pos_embed"] = torch.zeros(1, 18, 40)
    content["predictor"]["module.backbone.predictor_pos_embed"] = torch.zeros(1, 18, 28)
    read("vjepa2", saved(content))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_rejected(saved: Save, value: float) -> None:
    content = official("vjepa2")
    content["predictor"]["module.backbone.predictor_proj.bias"][3] = value
    message = refused("teacher.checkpoint_damaged", "vjepa2", saved(content))
    assert "predictor.proj.bias" in message


def test_half_precision_weights_are_read_as_fp32(saved: Save) -> None:
    content = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in official("lewm").items()
    }
    model = read("lewm", saved(content)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_trainer_and_safetensors_files_give_the_same_weights(saved: Save, tmp_path: Path) -> None:
    state = official("lewm")
    plain = read("lewm", saved(state)).model.state_dict()
    trained = saved(
        {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 1}, "a.ckpt"
    )
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    for other in (trained, tmp_path / "a.safetensors"):
        model = read("lewm", other).model
        assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


def test_lewm_folder_has_its_weights_and_action_size(saved: Save, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    saved(official("lewm"), "weights.pt")
    assert read("lewm", tmp_path).model.config.action_dim == 4
    saved({}, "weights_epoch_2.pt")
    message = refused("teacher.checkpoint_ambiguous", "lewm", tmp_path)
    assert "weights.pt, weights_epoch_2.pt" in message


class Code:
    """Represent an object that a pickle could contain in addition to tensors."""


@pytest.mark.parametrize("old", [False, True])
def test_file_with_code_is_not_executed(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "object.ckpt"
    torch.save({"encoder": Code()}, path, _use_new_zipfile_serialization=not old)
    refused("teacher.checkpoint_unsafe", "lewm", path)


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
@pytest.mark.parametrize("kind", ["pt", "old.pt", "safetensors"])
def test_truncated_file_is_rejected(tmp_path: Path, kind: str, size: int) -> None:
    path, state = tmp_path / f"whole.{kind}", official("lewm")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pt")
    read("lewm", path)
    path.write_bytes(path.read_bytes()[:size])
    refused("teacher.checkpoint_damaged", "lewm", path)


@settings(max_examples=60)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_random_bytes_raise_only_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"file{suffix}"
    path.write_bytes(data)
    with pytest.raises(JepaExportError) as error:
        recognize(load(path), str(path))
    assert error.value.code in ("teacher.checkpoint_damaged", "teacher.checkpoint_unknown")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "nothing"),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "a, b, c, …;"),
        ({"encoder": {"x": torch.zeros(1)}}, "encoder;"),
        ([1], "list"),
    ],
)
def test_file_of_another_format_is_rejected(saved: Save, content: Any, reason: str) -> None:
    assert reason in refused("teacher.checkpoint_unknown", "vjepa2", saved(content))


def test_missing_sources_are_rejected(tmp_path: Path) -> None:
    refused("teacher.unknown", "vit", tmp_path)
    refused("teacher.checkpoint_not_found", "vjepa2", tmp_path / "nothing.pt")
    refused("teacher.checkpoint_not_found", "vjepa2", "a/nothing.pt")
    refused("teacher.checkpoint_ambiguous", "vjepa2", tmp_path)


def test_hub_name_requires_the_hub_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    refused("teacher.missing_package", "vjepa2", "facebook/nothing")


def test_hub_download_failure_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed (extra dev)"
    )
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    refused(
        "teacher.download_failed",
        "vjepa2",
        "facebook/nothing",
    )


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ("{", "index"),
        ("[]", "index"),
        ('{"weight_map": 3}', "index"),
        (json.dumps({"weight_map": {"a": "../x.safetensors"}}), "outside the folder: ../x.safetensors"),
        (json.dumps({"weight_map": {"a": "x.safetensors"}}), "x.safetensors missing"),
    ],
)
def test_damaged_index_is_rejected(tmp_path: Path, index: str, named: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert named in refused("teacher.checkpoint_damaged", "vjepa2", tmp_path)


def test_golden_files_are_small() -> None:
    files = list(Path(__file__).with_name("golden").glob("*.npz"))
    assert {file.stem for file in files} == set(TINY)
    assert max(file.stat().st_size for file in files) < 300_000
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            assert "shapes" in arrays.files
