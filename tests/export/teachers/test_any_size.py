"""Checkpoints of any size: the sizes are those of the weights, and the outputs those of references."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor

from jepa_export.distillation.teacher_targets import TeacherFeatures, open_teacher
from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints import Settings, Teacher, inspect, read
from jepa_export.teachers.checkpoints.architecture import derive_config, describe_config
from jepa_export.teachers.checkpoints.layouts import recognize
from jepa_export.teachers.checkpoints.settings import TrainingConfig
from jepa_export.teachers.family import ARCHITECTURES, FAMILY
from jepa_export.teachers.vjepa2 import VJEPA2, VJEPA2Config
from jepa_export.teachers.vjepa2_ac import VJEPA2AC
from tests.errors import code
from tests.export.teachers import reference
from tests.export.teachers.reference import (
    checkpoint,
    encoder_2_1_shapes,
    encoder_shapes,
    predictor_ac_shapes,
    predictor_shapes,
)
from tests.export.teachers.tiny import CONTEXT, FRAMES, PX, SIDE, TARGET, draw, golden, seeded, shapes_of

Save = Callable[..., Path]
GIVEN = Settings(heads=2, predictor_heads=2, frame_size=(32, 32), frames=4)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Keep the names of the families: no small teacher has one of them here."""
    with torch.inference_mode():
        yield


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=5e-5)


def refused(expected: str, name: str, source: Path, settings: Settings | None = None) -> str:
    with pytest.raises(JepaExportError, check=code(expected)) as error:
        read(name, source, settings=settings)
    return str(error.value)


def write_yaml(path: Path, content: object) -> Path:
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(content, file)
    return path


def network(content: dict[str, Any], name: str) -> dict[str, Tensor]:
    return {key.removeprefix("module.backbone."): tensor for key, tensor in content[name].items()}


def check_video(
    teacher: Teacher, content: dict[str, Any], *, key: str = "target_encoder", **more: Any
) -> None:
    """Compare the encoder and the predictor with the reference, on a whole clip and a shorter one."""
    model = teacher.model
    assert isinstance(model, VJEPA2)
    config, encoder, own = model.config, model.config.encoder, model.config.predictor
    more |= {"interleaved": encoder.pairing == "interleaved"}
    taps = encoder.taps if teacher.member.family == "V-JEPA 2.1" else None
    clips = draw(2, encoder.frames, 3, *encoder.frame_size)
    for length in {encoder.frames, encoder.tubelet}:
        actual = model(clips[:, :length])
        weights = network(content, key)
        span = more.get("span")
        expected = reference.encode(
            weights,
            clips[:, :length],
            heads=encoder.heads,
            interleaved=more["interleaved"],
            span=span,
            taps=taps,
        )
        close(actual, expected)
    places = list(range(encoder.places))
    context, target = places[::2], places[1::2]
    tokens = model(clips)[:, context]
    predicted = model.predictor(tokens, torch.tensor(context), torch.tensor(target))
    expected = reference.predict(
        network(content, "predictor"),
        tokens,
        context,
        target,
        heads=own.heads,
        rows=encoder.grid[0],
        mask=1 % own.mask_tokens,
        **more,
    )
    assert predicted.shape[-1] == config.output_dim
    close(predicted, expected)


@pytest.mark.parametrize("case", ["vjepa2", "vjepa2_1", "vjepa2_1_levels"])
def test_reference_equals_the_official_code(case: str) -> None:
    shapes, expected = golden(case)
    encoder, predictor = seeded(shapes["encoder"]), seeded(shapes["predictor"], 1)
    is_2_1 = case != "vjepa2"
    taps = {"vjepa2": None, "vjepa2_1": (11,), "vjepa2_1_levels": (2, 5, 8, 11)}[case]
    clips = draw(2, FRAMES, 3, PX, PX)
    span = 16 if is_2_1 else None
    tokens = reference.encode(encoder, clips, heads=2, interleaved=is_2_1, span=span, taps=taps)
    close(tokens, expected["tokens"])
    predicted = reference.predict(
        predictor, expected["masked"], CONTEXT, TARGET, heads=2, rows=SIDE, interleaved=is_2_1
    )
    close(predicted, expected["predicted"])
    if is_2_1:
        image = reference.encode(encoder, clips[:, :1], heads=2, interleaved=True, span=16, taps=taps)
        close(image, expected["image"])


def test_reference_of_the_action_predictor_equals_the_official_code() -> None:
    shapes, expected = golden("vjepa2_ac")
    predictor = seeded(shapes["predictor"], 1)
    actions, states = draw(1, 3, 7, seed=2), draw(1, 3, 7, seed=3)
    grid = SIDE, SIDE
    raw = reference.predict_actions(predictor, expected["latents"], actions, states, heads=2, grid=grid)
    close(raw, expected["raw"])


@pytest.mark.parametrize(
    ("size", "patch", "tubelet", "frames", "more"),
    [
        ((32, 32), 16, 2, 4, {}),
        ((28, 28), 14, 2, 4, {}),
        ((128, 128), 16, 1, 2, {}),
        ((32, 32), 8, 4, 8, {}),
        ((512, 512), 32, 2, 2, {}),
        ((32, 64), 16, 2, 4, {}),
        ((48, 32), 16, 2, 4, {}),
        ((32, 32), 16, None, 1, {}),
        ((32, 32), 16, 2, 4, {"bias": False, "hidden": 100}),
        ((32, 32), 16, 2, 4, {"gated": True, "hidden": 72}),
    ],
)
def test_v_jepa_2_of_any_size_gives_the_outputs_of_the_reference(
    saved: Save,
    size: tuple[int, int],
    patch: int,
    tubelet: int | None,
    frames: int,
    more: dict[str, Any],
) -> None:
    content = checkpoint(
        encoder_shapes(40, 3, patch=patch, tubelet=tubelet, **more), predictor_shapes(28, 2, 40, **more)
    )
    settings = Settings(heads=2, predictor_heads=2, frame_size=size, frames=frames)
    teacher = read("vjepa2", saved(content), settings=settings)
    encoder = teacher.model.config.encoder
    assert (encoder.width, encoder.depth, encoder.patch, encoder.tubelet) == (40, 3, patch, tubelet or 1)
    check_video(teacher, content)


@pytest.mark.parametrize(
    ("px", "patch", "tubelet", "frames", "ratio"),
    [(48, 16, 2, 4, 4), (28, 14, 1, 3, 2.5), (64, 8, 3, 6, 48 / 11)],
)
def test_folder_of_transformers_is_read_without_options(
    tmp_path: Path, px: int, patch: int, tubelet: int, frames: int, ratio: float
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra dev)")
    port = transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            crop_size=px,
            patch_size=patch,
            tubelet_size=tubelet,
            frames_per_clip=frames,
            mlp_ratio=ratio,
            hidden_size=44,
            num_hidden_layers=3,
            num_attention_heads=2,
            pred_hidden_size=28,
            pred_num_hidden_layers=2,
            pred_num_attention_heads=2,
            pred_num_mask_tokens=3,
        )
    ).eval()
    port.load_state_dict(seeded(shapes_of(port.state_dict())))
    port.save_pretrained(tmp_path)
    model = read("vjepa2", tmp_path).model
    assert isinstance(model, VJEPA2)
    encoder = model.config.encoder
    assert (encoder.px, encoder.patch, encoder.tubelet, encoder.frames) == (px, patch, tubelet, frames)
    clips, places = draw(2, frames, 3, px, px), torch.arange(encoder.places)
    context, target = places[::2], places[1::2]
    expected = port(clips, [context.expand(2, -1)], [target.expand(2, -1)])
    tokens = model(clips)
    close(tokens, expected.last_hidden_state)
    predicted = model.predictor(tokens[:, context], context, target)
    close(predicted, expected.predictor_output.last_hidden_state)


def test_i_jepa_folder_of_transformers_is_read_without_options(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra dev)")
    config = transformers.IJepaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=60,
        image_size=40,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    port = transformers.IJepaModel(config, add_pooling_layer=False).eval()
    port.load_state_dict(seeded(shapes_of(port.state_dict())))
    port.save_pretrained(tmp_path)
    teacher, images = read("ijepa", tmp_path), draw(2, 3, 40, 40)
    close(teacher.model(images), port(images).last_hidden_state)


@pytest.mark.parametrize("known", ["both", "frame_size", "frames"])
def test_position_table_replaces_rotary_positions_and_determines_the_clip(
    saved: Save, tmp_path: Path, known: str
) -> None:
    content = checkpoint(
        encoder_shapes(40, 2, places=2 * 9), predictor_shapes(28, 2, 40, places=2 * 9), key="target_encoder"
    )
    config = write_yaml(tmp_path / "a.yaml", {"model": {"use_rope": False}})
    settings = Settings(
        heads=2,
        predictor_heads=2,
        frame_size=(48, 48) if known != "frames" else None,
        frames=4 if known != "frame_size" else None,
        training_config=config,
    )
    teacher = read("vjepa2", saved(content), settings=settings)
    encoder = teacher.model.config.encoder
    assert (encoder.table, encoder.frame_size, encoder.frames) == (True, (48, 48), 4)
    check_video(teacher, content)


def test_leftover_position_table_is_not_used(saved: Save, tmp_path: Path) -> None:
    content = checkpoint(encoder_shapes(40, 2, places=500), predictor_shapes(28, 2, 40, places=500))
    path = saved(content)
    assert "use_rope" in refused("teacher.settings_unknown", "vjepa2", path, GIVEN)
    write_yaml(tmp_path / "params-pretrain.yaml", {"model": {"use_rope": True}})
    teacher = read("vjepa2", path, settings=GIVEN)
    for name in ("target_encoder", "predictor"):
        content[name] = {key: value for key, value in content[name].items() if "pos_embed" not in key}
    check_video(teacher, content)


@pytest.mark.parametrize(
    ("patch", "side", "stretched", "span", "images", "modalities", "levels"),
    [
        (16, 2, True, 16, True, True, 4),
        (14, 3, True, 18, True, True, 4),
        (16, 3, False, None, True, True, 1),
        (16, 2, False, None, False, True, 4),
        (16, 2, True, 16, True, False, 4),
        (8, 2, False, None, False, False, 4),
    ],
)
def test_v_jepa_2_1_of_any_size_gives_the_outputs_of_the_reference(
    saved: Save,
    tmp_path: Path,
    patch: int,
    side: int,
    stretched: bool,
    span: int | None,
    images: bool,
    modalities: bool,
    levels: int,
) -> None:
    content = checkpoint(
        encoder_2_1_shapes(40, 12, patch=patch, images=images, modalities=modalities),
        predictor_shapes(28, 4, 40, levels=levels, modalities=images and modalities),
    )
    px = side * patch
    write_yaml(
        tmp_path / "params-pretrain.yaml",
        {
            "model": {
                "model_name": "vit_own",
                "use_rope": True,
                "interpolate_rope": stretched,
                "pred_num_heads": 2,
            },
            "data": {"crop_size": px, "patch_size": patch, "tubelet_size": 2, "dataset_fpcs": [2, 4]},
        },
    )
    teacher = read("vjepa2_1", saved(content), settings=Settings(heads=2))
    config = teacher.model.config
    assert isinstance(config, VJEPA2Config)
    assert config.encoder.taps == ((2, 5, 8, 11) if levels == 4 else (11,))
    assert (config.encoder.frame_size, config.encoder.frames) == ((px, px), 4)
    assert config.output_space == "encoder"
    check_video(teacher, content, span=span)
    if images:
        clips = draw(2, 1, 3, px, px)
        weights = network(content, "target_encoder")
        expected = reference.encode(
            weights, clips, heads=2, interleaved=True, span=span, taps=config.encoder.taps
        )
        close(teacher.model(clips), expected)


@pytest.mark.parametrize("out", [36, 40])
def test_distilled_v_jepa_2_1_predicts_in_the_space_of_its_teacher(saved: Save, out: int) -> None:
    content = checkpoint(
        encoder_2_1_shapes(40, 12), predictor_shapes(28, 4, 40, out=out, modalities=True), key="ema_encoder"
    )
    settings = Settings(heads=2, predictor_heads=2, frame_size=(256, 256), frames=2)
    member = inspect("vjepa2_1", saved(content), settings)
    assert isinstance(member.config, VJEPA2Config)
    assert (member.weights, member.config.output_space) == ("ema_encoder", "teacher")
    assert member.config.output_dim == out


@pytest.mark.parametrize(("size", "patch"), [((32, 32), 16), ((42, 28), 14), ((32, 64), 16)])
def test_v_jepa_2_ac_of_any_size_gives_the_outputs_of_the_reference(
    saved: Save, size: tuple[int, int], patch: int
) -> None:
    content = checkpoint(
        encoder_shapes(40, 3, patch=patch), predictor_ac_shapes(28, 2, 40), key="target_encoder"
    )
    settings = Settings(heads=2, predictor_heads=2, frame_size=size, frames=5)
    model = read("vjepa2_ac", saved(content), settings=settings).model
    assert isinstance(model, VJEPA2AC)
    frames, actions, states = draw(1, 5, 3, *size), draw(1, 5, 7, seed=2), draw(1, 5, 7, seed=3)
    latents = model(frames)
    # The file has both encoders; the action-conditioned training evaluates the one without a prefix.
    weights = network(content, "encoder")
    for index in range(5):
        clip = frames[:, index : index + 1].expand(-1, 2, -1, -1, -1)
        expected = reference.encode(weights, clip, heads=2)
        close(latents[:, index], torch.nn.functional.layer_norm(expected, (40,)))
    raw = model.predictor(latents, actions, states)
    grid = size[0] // patch, size[1] // patch
    expected = reference.predict_actions(
        network(content, "predictor"), latents, actions, states, heads=2, grid=grid
    )
    close(raw, expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("patch", [14, 16])
def test_every_official_architecture_is_recognized_at_full_size(name: str, patch: int) -> None:
    sizes = ARCHITECTURES[name]
    shapes = {
        "target_encoder": encoder_shapes(sizes["width"], sizes["depth"], patch=patch, hidden=sizes["hidden"]),
        "predictor": predictor_shapes(384, 12, sizes["width"], masks=10),
    }
    content = {
        part: {key: torch.empty(shape, device="meta") for key, shape in each.items()}
        for part, each in shapes.items()
    }
    found = recognize(content, "a test")
    training = TrainingConfig(
        heads=sizes["heads"], predictor_heads=12, frame_size=(224, 224), frames=16, rotary=True
    )
    config = derive_config(found, "target_encoder", training)
    encoder = config.encoder
    assert {key: getattr(encoder, key) for key in sizes} == sizes
    assert (encoder.patch, encoder.px) == (patch, 224)
    with torch.device("meta"):
        model = config.build()
    assert shapes_of(model.state_dict()) == shapes_of(found.weights("target_encoder", levels=1))
    assert str(sizes["heads"]) in describe_config(config)


@pytest.mark.parametrize("name", sorted(name for name, member in FAMILY.items() if "V-JEPA" in member.family))
def test_presets_have_the_configuration_that_their_weights_show(name: str) -> None:
    member = FAMILY[name]
    config = member.config
    with torch.device("meta"):
        state = config.build().state_dict()
    assert isinstance(config.encoder.patch, int)
    content: dict[str, dict[str, Tensor]] = {member.weights: {}, "predictor": {}}
    for key, tensor in state.items():
        part, _, weight = key.partition(".")
        if weight in ("patch_embed.proj.weight", "patch_embed_img.proj.weight"):
            frames = 1 if "img" in weight else 2
            tensor = tensor.new_empty(len(tensor), 3, frames, 16, 16)
        if part == "encoder":
            weight = official_norm(weight, member.family, len(config.encoder.taps))
            content[member.weights][weight] = tensor
        elif weight == "mask_tokens":
            rows = tensor[:, None, None].unbind(0)
            content["predictor"] |= {f"mask_tokens.{index}": row for index, row in enumerate(rows)}
        else:
            prefix = "predictor_" if weight.split(".")[0] in ("embed", "blocks", "norm", "proj") else ""
            content["predictor"][prefix + weight] = tensor
    if member.family == "V-JEPA 2.1":
        norm = content[member.weights]["norms_block.3.weight"]
        content[member.weights] |= {f"norms_block.{index}.weight": norm for index in range(4)}
    frames = config.frames if member.family == "V-JEPA 2-AC" else config.encoder.frames
    training = TrainingConfig(
        heads=config.encoder.heads,
        predictor_heads=config.predictor.heads,
        frame_size=config.encoder.frame_size,
        frames=frames,
        rotary=True,
        stretched=member.family == "V-JEPA 2.1",
    )
    derived = derive_config(recognize(content, "a test"), member.weights, training)
    assert derived.encoder == config.encoder
    if isinstance(config, VJEPA2Config):
        # The published predictor is not stretched, unlike one of the official training.
        assert {**vars(derived.predictor), "span": None} == vars(config.predictor)
        assert derived.predictor.span == config.encoder.span
    else:
        assert derived == config


def official_norm(weight: str, family: str, levels: int) -> str:
    if not weight.startswith("norms."):
        return weight
    _, index, kind = weight.split(".")
    if family != "V-JEPA 2.1":
        return f"norm.{kind}"
    return f"norms_block.{index if levels > 1 else 3}.{kind}"


@pytest.mark.parametrize("form", ["training", "list", "port", "option"])
def test_settings_come_from_the_configuration_next_to_the_checkpoint(
    saved: Save, tmp_path: Path, form: str
) -> None:
    content = checkpoint(encoder_shapes(192, 12, patch=14), predictor_shapes(48, 2, 192))
    path = saved(content)
    training = {
        "app": "vjepa",
        "data": {"crop_size": 56, "patch_size": 14, "tubelet_size": 2, "dataset_fpcs": [4, 6], "fps": 5},
        "model": {
            "model_name": "vit_tiny",
            "pred_depth": 2,
            "pred_embed_dim": 48,
            "use_rope": True,
            "uniform_power": True,
        },
    }
    port = {
        "model_type": "vjepa2",
        "crop_size": 56,
        "frames_per_clip": 6,
        "num_attention_heads": 3,
        "pred_num_attention_heads": 3,
        "hidden_size": 192,
        "patch_size": 14,
        "layer_norm_eps": 1e-06,
        "hidden_act": "gelu",
    }
    settings = Settings()
    if form == "port":
        (tmp_path / "config.json").write_text(json.dumps(port))
    elif form == "option":
        (tmp_path / "params-pretrain.yaml").write_text("- nothing")
        settings = Settings(training_config=write_yaml(tmp_path / "other.yaml", training))
    else:
        write_yaml(tmp_path / "params-pretrain.yaml", [training] if form == "list" else training)
    teacher = read("vjepa2", path, settings=settings)
    encoder, predictor = teacher.model.config.encoder, teacher.model.config.predictor
    assert (encoder.heads, predictor.heads) == (3, 3)
    assert (encoder.frame_size, encoder.frames) == ((56, 56), 6)
    # A port does not state the frame rate: 4 Hz, as in the published models.
    assert teacher.model.config.step_s == (0.5 if form == "port" else 0.4)
    assert teacher.provenance == (
        "vjepa2 (V-JEPA 2), target_encoder of official.pt, not recorded in the checkpoint"
    )


def test_given_resolution_and_length_replace_those_of_the_training(saved: Save, tmp_path: Path) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    write_yaml(tmp_path / "params-pretrain.yaml", {"data": {"crop_size": 64, "dataset_fpcs": [8]}})
    given = Settings(heads=2, predictor_heads=2)
    encoder = inspect("vjepa2", path, given).config.encoder
    assert (encoder.px, encoder.frames) == (64, 8)
    encoder = inspect("vjepa2", path, GIVEN).config.encoder
    assert (encoder.px, encoder.frames) == (32, 4)


def test_settings_change_the_fingerprint(saved: Save) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    two, four = (
        read("vjepa2", path, settings=Settings(heads=heads, predictor_heads=2, frame_size=(32, 32), frames=4))
        for heads in (2, 4)
    )
    assert two.fingerprint != four.fingerprint
    assert two.fingerprint == read("vjepa2", path, settings=GIVEN).fingerprint


def test_other_file_of_the_name_config_json_is_ignored(saved: Save, tmp_path: Path) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_attention_heads": 4}')
    assert read("vjepa2", path, settings=GIVEN).model.config.encoder.heads == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (
            Settings(),
            ["--heads", "--predictor-heads", "--resolution", "--max-frames", "width 40 and depth 2"],
        ),
        (Settings(heads=2, predictor_heads=2, frame_size=(32, 32)), ["--max-frames"]),
        (Settings(heads=2, predictor_heads=2, frames=4), ["--resolution"]),
        (Settings(heads=2, frame_size=(32, 32), frames=4), ["--predictor-heads"]),
        (Settings(predictor_heads=2, frame_size=(32, 32), frames=4), ["no official architecture"]),
    ],
)
def test_settings_that_nothing_shows_are_named_together(
    saved: Save, settings: Settings, named: list[str]
) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    message = refused("teacher.settings_unknown", "vjepa2", path, settings)
    assert str(path) in message and all(each in message for each in named)
    options = {"--heads", "--predictor-heads", "--resolution", "--max-frames"}
    assert all(option in named for option in options if f"({option})" in message)


def test_heads_of_a_giant_are_ambiguous(saved: Save) -> None:
    # Two architectures of the official code have this width and depth.
    sizes = ARCHITECTURES["vit_giant"]
    shapes = encoder_shapes(sizes["width"], sizes["depth"], patch=14, hidden=8)
    content = {
        "target_encoder": {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()},
        "predictor": seeded(predictor_shapes(28, 1, sizes["width"])),
    }
    found = recognize(content, "a test")
    training = TrainingConfig(predictor_heads=2, frame_size=(28, 28), frames=2)
    with pytest.raises(JepaExportError, check=code("teacher.settings_unknown")) as error:
        derive_config(found, "target_encoder", training)
    assert "16 in vit_giant or 22 in vit_giant_xformers" in str(error.value)


def test_stretching_is_asked_for_where_it_matters(saved: Save) -> None:
    path = saved(
        checkpoint(encoder_2_1_shapes(40, 12), predictor_shapes(28, 4, 40, levels=4, modalities=True))
    )
    message = refused("teacher.settings_unknown", "vjepa2_1", path, GIVEN)
    assert "interpolate_rope" in message
    same = Settings(heads=2, predictor_heads=2, frame_size=(256, 256), frames=2)
    assert inspect("vjepa2_1", path, same).config.encoder.px == 256


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (Settings(heads=3, predictor_heads=2, frame_size=(32, 32), frames=4), "width 40, which 3 heads"),
        (Settings(heads=2, predictor_heads=3, frame_size=(32, 32), frames=4), "width 28, which 3 heads"),
        (Settings(heads=2, predictor_heads=2, frame_size=(40, 32), frames=4), "40x32 px"),
        (Settings(heads=2, predictor_heads=2, frame_size=(32, 32), frames=1), "tubelets of 2 frames"),
    ],
)
def test_settings_that_contradict_the_weights_are_rejected(
    saved: Save, settings: Settings, named: str
) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    assert named in refused("teacher.settings_contradict", "vjepa2", path, settings)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model": {"model_name": "vit_tiny"}}, "width is 40 by the weights, but a.yaml states 192"),
        ({"model": {"pred_depth": 3}}, "depth of the predictor is 2 by the weights, but a.yaml states 3"),
        ({"model": {"pred_embed_dim": 24}}, "width of the predictor"),
        ({"data": {"patch_size": 14}}, "patch size is 16 by the weights"),
        ({"data": {"tubelet_size": 1}}, "tubelet is 2 by the weights"),
        ({"model": {"use_rope": False}}, "no table of positions"),
        ({"model_type": "vjepa2", "num_hidden_layers": 5}, "depth is 2 by the weights"),
        ({"model_type": "vjepa2", "num_attention_heads": 4}, "--heads 2: a.yaml states 4"),
        ({"model": {"pred_num_heads": 4}}, "--predictor-heads 2: a.yaml states 4"),
    ],
)
def test_configuration_of_another_training_is_rejected(
    saved: Save, tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    file = write_yaml(tmp_path / "a.yaml", config)
    settings = Settings(
        heads=None if "model_name" in config.get("model", {}) else 2,
        predictor_heads=None if "model_name" in config.get("model", {}) else 2,
        frame_size=(32, 32),
        frames=4,
        training_config=file,
    )
    assert named in refused("teacher.settings_contradict", "vjepa2", path, settings)


@pytest.mark.parametrize(
    ("known", "places"),
    [({"frame_size": (32, 32), "frames": 4}, 9), ({"frames": 4}, 10), ({"frame_size": (64, 64)}, 9)],
)
def test_position_table_of_another_clip_is_rejected(
    saved: Save, tmp_path: Path, known: dict[str, Any], places: int
) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2, places=places), predictor_shapes(28, 2, 40, places=places)))
    config = write_yaml(tmp_path / "a.yaml", {"model": {"use_rope": False}})
    settings = Settings(heads=2, predictor_heads=2, training_config=config, **known)
    message = refused("teacher.settings_contradict", "vjepa2", path, settings)
    assert f"{places} positions" in message


@pytest.mark.parametrize(
    "entry",
    [
        {"model": {"use_area_attention": True}},
        {"model": {"n_registers": 4}},
        {"model": {"pred_is_causal": True}},
        {"model": {"pred_is_frame_causal": False}},
        {"loss": {"shift_by_n": 2}, "data": {}},
        {"model_type": "vjepa2", "layer_norm_eps": 1e-5},
        {"model_type": "vjepa2", "hidden_act": "relu"},
    ],
)
def test_configuration_that_computes_something_else_is_rejected(
    saved: Save, tmp_path: Path, entry: dict[str, Any]
) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    write_yaml(tmp_path / "params-pretrain.yaml", entry)
    message = refused("teacher.architecture_unsupported", "vjepa2", path, GIVEN)
    assert "params-pretrain.yaml" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # The official code has outputs for four depths only.
        ("vjepa2_1", checkpoint(encoder_2_1_shapes(40, 8), predictor_shapes(28, 2, 40, levels=4))),
        ("vjepa2_1", checkpoint(encoder_2_1_shapes(40, 12), predictor_shapes(28, 2, 40, levels=2))),
        (
            "vjepa2_ac",
            checkpoint(encoder_shapes(40, 2), predictor_ac_shapes(28, 2, 40, actions=9), key="encoder"),
        ),
        (
            "vjepa2",
            checkpoint(
                encoder_shapes(40, 2) | {"patch_embed.proj.weight": [40, 1, 2, 16, 16]},
                predictor_shapes(28, 2, 40),
            ),
        ),
    ],
)
def test_architecture_that_is_not_implemented_is_rejected(
    saved: Save, name: str, content: dict[str, Any]
) -> None:
    settings = Settings(heads=2, predictor_heads=2, frame_size=(256, 256), frames=4)
    refused("teacher.architecture_unsupported", name, saved(content), settings)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("model: [", "YAML"),
        ("a: 1", "section model"),
        ("[1, 2]", "section model"),
        ("data: {crop_size: large}", "data.crop_size"),
        ("data: {crop_size: -1}", "data.crop_size"),
        ("data: {crop_size: true}", "data.crop_size"),
        ("data: {dataset_fpcs: 16}", "data.dataset_fpcs"),
        ("data: {fps: 0}", "data.fps"),
        ("model: {use_rope: 'yes'}", "model.use_rope"),
        ("model: {pred_num_heads: 2.5}", "model.pred_num_heads"),
    ],
)
def test_unusable_configuration_is_rejected(saved: Save, tmp_path: Path, content: str, named: str) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    file = tmp_path / "a.yaml"
    file.write_text(content)
    settings = Settings(training_config=file)
    message = refused("teacher.settings_invalid", "vjepa2", path, settings)
    assert str(file) in message and named in message


def test_missing_configuration_is_rejected(saved: Save, tmp_path: Path) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    settings = Settings(training_config=tmp_path / "nothing.yaml")
    refused("teacher.settings_invalid", "vjepa2", path, settings)


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("target_encoder", "patch_embed.proj.weight"),
        ("target_encoder", "blocks.0.norm1.weight"),
        ("target_encoder", "blocks.1.mlp.fc1.weight"),
        ("target_encoder", "norm.bias"),
        ("predictor", "predictor_blocks.0.mlp.fc1.weight"),
        ("predictor", "predictor_proj.weight"),
    ],
)
def test_missing_weight_is_named(saved: Save, part: str, weight: str) -> None:
    content = checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40))
    del content[part]["module.backbone." + weight]
    message = refused("teacher.weights_mismatch", "vjepa2", saved(content), GIVEN)
    assert "missing" in message


@pytest.mark.parametrize(
    "weight", ["blocks.0.norm1.weight", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"]
)
def test_weight_of_an_impossible_shape_is_rejected(saved: Save, weight: str) -> None:
    content = checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40))
    content["target_encoder"]["module.backbone." + weight] = torch.tensor(1.0)
    with pytest.raises(JepaExportError) as error:
        read("vjepa2", saved(content), settings=GIVEN)
    assert error.value.code in ("teacher.weights_mismatch", "teacher.architecture_unsupported")


@pytest.mark.parametrize("weight", ["cls_token", "register_tokens", "norm2.weight"])
def test_weight_without_a_place_is_named(saved: Save, weight: str) -> None:
    content = checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40))
    content["target_encoder"]["module.backbone." + weight] = torch.zeros(1, 1, 40)
    message = refused("teacher.weights_mismatch", "vjepa2", saved(content), GIVEN)
    assert f"unexpected: encoder.{weight}" in message


def test_checkpoint_of_another_family_is_rejected(saved: Save) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    message = refused("teacher.wrong_family", "vjepa2_1", path, GIVEN)
    assert "vjepa2_vitl_256" in message and message.endswith("vjepa2, or use another file")


def test_checkpoint_that_no_published_model_fits_is_to_be_read_as_its_family(saved: Save) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    message = refused("teacher.weights_mismatch", "vjepa2_vitl_256", path)
    assert message.endswith("or as vjepa2, a model of any size")


def test_published_model_accepts_no_settings(saved: Save) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    refused("export.option_not_applicable", "vjepa2_vitl_256", path, GIVEN)
    with pytest.raises(JepaExportError, check=code("export.option_not_applicable")):
        inspect("vjepa2_vitl_256", path, GIVEN)


def opened(spec: str, **more: Any) -> Teacher:
    options = {"untrained": False, "depth": None, "seed": 0, "accept_non_commercial": False}
    return open_teacher(spec, **(options | more))


def test_distillation_reads_a_checkpoint_of_any_size(saved: Save) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_ac_shapes(28, 2, 40), key="encoder"))
    features = TeacherFeatures(opened(f"vjepa2_ac={path}", settings=GIVEN), frames=1)
    assert (features.px, features.side, features.dim) == (32, 2, 40)


def test_distillation_requires_square_frames(saved: Save) -> None:
    path = saved(checkpoint(encoder_shapes(40, 2), predictor_shapes(28, 2, 40)))
    wide = Settings(heads=2, predictor_heads=2, frame_size=(32, 64), frames=4)
    teacher = opened(f"vjepa2={path}", settings=wide)
    with pytest.raises(JepaExportError, check=code("export.teacher_unsupported")):
        TeacherFeatures(teacher, frames=2)


def test_family_without_a_checkpoint_is_rejected() -> None:
    for more in ({}, {"untrained": True}):
        with pytest.raises(JepaExportError, check=code("teacher.checkpoint_required")) as error:
            opened("vjepa2", **more)
        assert "vjepa2_vitl_256" in str(error.value)


def test_random_weights_accept_no_settings() -> None:
    with pytest.raises(JepaExportError, check=code("export.option_not_applicable")):
        opened("vjepa2_vitl_256", untrained=True, settings=GIVEN)


def ijepa_content(side: int, patch: int, **more: Any) -> dict[str, Any]:
    encoder = encoder_shapes(192, 12, patch=patch, tubelet=None, places=side**2, **more)
    predictor = predictor_shapes(24, 2, 192, masks=0, places=side**2)
    return {
        name: {f"module.{weight}": tensor for weight, tensor in seeded(shapes).items()}
        for name, shapes in {
            "target_encoder": encoder,
            "predictor": predictor | {"mask_token": [1, 1, 24]},
        }.items()
    }


@pytest.mark.parametrize(("side", "patch"), [(2, 14), (4, 8), (3, 16)])
def test_i_jepa_of_any_size_is_read_from_its_weights_alone(saved: Save, side: int, patch: int) -> None:
    content = ijepa_content(side, patch)
    model = read("ijepa", saved(content)).model
    encoder, predictor = model.config.encoder, model.config.predictor
    assert (encoder.px, encoder.patch, encoder.heads, predictor.heads) == (side * patch, patch, 3, 3)
    images = draw(2, 3, encoder.px, encoder.px)
    weights = {key.removeprefix("module."): tensor for key, tensor in content["target_encoder"].items()}
    close(model(images), reference.encode(weights, images[:, None], heads=3))


def test_i_jepa_of_any_size_is_for_non_commercial_use(saved: Save) -> None:
    path = saved(ijepa_content(2, 16))
    with pytest.raises(JepaExportError, check=code("export.non_commercial")):
        opened(f"ijepa={path}")
    assert not opened(f"ijepa={path}", accept_non_commercial=True).member.commercial


def test_i_jepa_reads_the_configuration_of_its_training(saved: Save, tmp_path: Path) -> None:
    path = saved(ijepa_content(2, 16))
    config = {"meta": {"model_name": "vit_small", "pred_depth": 2}, "data": {"crop_size": 32}}
    write_yaml(tmp_path / "params-ijepa.yaml", config)
    assert "width is 192" in refused("teacher.settings_contradict", "ijepa", path)
    config["meta"]["model_name"] = "vit_tiny"
    write_yaml(tmp_path / "params-ijepa.yaml", config)
    assert read("ijepa", path).model.config.encoder.heads == 3
    for other, stated in ((Settings(frame_size=(48, 48)), "48x48"), (Settings(frames=4), "state 4")):
        assert stated in refused("teacher.settings_contradict", "ijepa", path, other)


def test_i_jepa_positions_that_are_no_square_are_rejected(saved: Save) -> None:
    content = ijepa_content(2, 16)
    content["target_encoder"]["module.pos_embed"] = torch.zeros(1, 5, 192)
    refused("teacher.architecture_unsupported", "ijepa", saved(content))
