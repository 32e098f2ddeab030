"""The ports to Hugging Face: folders written by transformers are read, with the same outputs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.teachers.checkpoints import read
from jepa_export.teachers.checkpoints.layouts import recognize
from jepa_export.teachers.family import FAMILY
from tests.export.teachers.tiny import PRED_WIDTH, PX, SIDE, WIDTH, draw, seeded, shapes_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra dev)")
CLIPS = draw(2, 4, 3, PX, PX)
# Layer names of transformers before version 5, which the Hub still uses.
OLD_NAMES = [
    (r"\blayers\.(\d+)\.attention\.q_proj\.", r"encoder.layer.\1.attention.attention.query."),
    (r"\blayers\.(\d+)\.attention\.k_proj\.", r"encoder.layer.\1.attention.attention.key."),
    (r"\blayers\.(\d+)\.attention\.v_proj\.", r"encoder.layer.\1.attention.attention.value."),
    (r"\blayers\.(\d+)\.attention\.o_proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"\blayers\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"\blayers\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
    (r"\blayers\.(\d+)\.", r"encoder.layer.\1."),
]


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.1
    # fp32 sums with another vector length differ by this much.
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def old(name: str) -> str:
        for pattern, replacement in OLD_NAMES:
            name = re.sub(pattern, replacement, name)
        return name

    return {old(name): tensor for name, tensor in state.items()}


def filled(model: nn.Module) -> nn.Module:
    model.load_state_dict(seeded(shapes_of(model.state_dict())))
    return model.eval()


@pytest.fixture(scope="module")
def vjepa2() -> nn.Module:
    config = transformers.VJEPA2Config(
        crop_size=PX,
        frames_per_clip=8,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        pred_hidden_size=PRED_WIDTH,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=2,
        pred_num_mask_tokens=3,
    )
    return filled(transformers.VJEPA2Model(config))


@pytest.fixture(scope="module")
def ijepa() -> nn.Module:
    config = transformers.IJepaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=42,
        patch_size=14,
        layer_norm_eps=1e-6,
    )
    return filled(transformers.IJepaModel(config, add_pooling_layer=False))


@pytest.mark.parametrize("shard", ["5GB", "40KB"])
def test_v_jepa_2_files_of_transformers_are_read(vjepa2: nn.Module, tmp_path: Path, shard: str) -> None:
    vjepa2.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "40KB")
    teacher = read("vjepa2", tmp_path)
    places = torch.arange(2 * SIDE**2)
    for context, target in [(places[:9], places[9:]), (places[::2], places[1::2]), (places, places)]:
        masks = [context.expand(2, -1)], [target.expand(2, -1)]
        expected = vjepa2(CLIPS, *masks)
        tokens = teacher.model(CLIPS)
        close(tokens, expected.last_hidden_state)
        close(
            teacher.model.predictor(tokens[:, context], context, target),
            expected.predictor_output.last_hidden_state,
        )
    assert teacher.provenance == (
        f"vjepa2 (V-JEPA 2), encoder as ported (which one is not recorded) of {tmp_path.name}, MIT"
    )


def test_i_jepa_files_of_transformers_are_read(ijepa: nn.Module, tmp_path: Path) -> None:
    ijepa.save_pretrained(tmp_path)
    teacher = read("ijepa", tmp_path)
    images = draw(2, 3, 42, 42)
    close(teacher.model(images), ijepa(images).last_hidden_state)
    assert teacher.model.predictor is None
    assert not teacher.member.commercial


def test_names_of_both_generations_of_transformers_are_known(ijepa: nn.Module) -> None:
    # The installed version writes one of both, so both are created here.
    new = dict(ijepa.state_dict())
    old = old_names(new)
    assert "encoder.layer.1.attention.attention.key.bias" in old
    assert "layers.1.attention.k_proj.bias" in new
    one, other = (recognize(state, "a test").weights("", levels=1) for state in (new, old))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("missing", ["model-00002-of-", "index"])
def test_incomplete_folder_is_rejected(vjepa2: nn.Module, tmp_path: Path, missing: str) -> None:
    vjepa2.save_pretrained(tmp_path, max_shard_size="40KB")
    next(file for file in tmp_path.iterdir() if missing in file.name).unlink()
    with pytest.raises(JepaExportError) as error:
        read("vjepa2", tmp_path)
    assert error.value.code in ("teacher.checkpoint_damaged", "teacher.checkpoint_ambiguous")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vjepa2_vitl_256", {}),
        ("vjepa2_vith_256", {"hidden_size": 1280, "num_hidden_layers": 32}),
        (
            "vjepa2_vitg_384",
            {
                "hidden_size": 1408,
                "num_hidden_layers": 40,
                "num_attention_heads": 22,
                "mlp_ratio": 48 / 11,
                "crop_size": 384,
            },
        ),
        (
            "ijepa_vith14_224",
            {
                "hidden_size": 1280,
                "num_hidden_layers": 32,
                "num_attention_heads": 16,
                "intermediate_size": 5120,
                "patch_size": 14,
            },
        ),
    ],
)
def test_every_weight_has_its_place_at_full_size(name: str, config: dict[str, int]) -> None:
    family = FAMILY[name]
    with torch.device("meta"):
        if family.family == "V-JEPA 2":
            port = transformers.VJEPA2Model(transformers.VJEPA2Config(**config))
        else:
            port = transformers.IJepaModel(transformers.IJepaConfig(**config), add_pooling_layer=False)
        ours = family.config.build()
    weights = shapes_of(recognize(dict(port.state_dict()), "the Hub").weights("", levels=1))
    expected = shapes_of(ours.state_dict())
    assert weights == {key: shape for key, shape in expected.items() if key in weights}
    assert all(key.startswith("predictor.") for key in expected.keys() - weights.keys())
    assert (expected.keys() == weights.keys()) == (family.family == "V-JEPA 2")
