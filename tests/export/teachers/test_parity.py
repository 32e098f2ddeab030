"""Teachers reproduce the outputs of the official code from the same checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jepa_export.errors import JepaExportError
from jepa_export.students.layers import unit_scale
from jepa_export.teachers.checkpoints import Teacher
from jepa_export.teachers.vjepa2_ac import next_state, pose_delta
from tests.errors import code
from tests.export.teachers.tiny import ACTION_DIM, CONTEXT, FRAMES, HISTORY, PX, SIDE, TARGET, draw, golden

Read = Callable[[str], Teacher]
CLIPS = draw(2, FRAMES, 3, PX, PX)
CONTEXT_IDS, TARGET_IDS = torch.tensor(CONTEXT), torch.tensor(TARGET)
VIDEO = ["vjepa2", "vjepa2_1", "vjepa2_1_levels"]


def close(actual: Tensor, expected: Tensor, *, atol: float = 2e-5) -> None:
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("case", VIDEO)
def test_clip_becomes_the_official_tokens(teacher: Read, case: str) -> None:
    close(teacher(case).model(CLIPS), golden(case)[1]["tokens"])


@pytest.mark.parametrize("case", VIDEO)
def test_partial_clip_gives_the_official_tokens(teacher: Read, case: str) -> None:
    encoder = teacher(case).model.encoder
    expected = golden(case)[1]["masked"]
    close(encoder(CLIPS, CONTEXT_IDS), expected)
    close(encoder(CLIPS, CONTEXT_IDS.expand(2, -1)), expected)


@pytest.mark.parametrize("case", VIDEO)
def test_masked_positions_are_predicted_as_officially(teacher: Read, case: str) -> None:
    predictor, expected = teacher(case).model.predictor, golden(case)[1]
    close(predictor(expected["masked"], CONTEXT_IDS, TARGET_IDS), expected["predicted"])


def test_mask_token_can_be_selected_and_wraps_around(teacher: Read) -> None:
    predictor, expected = teacher("vjepa2").model.predictor, golden("vjepa2")[1]
    for index in (0, 3):
        predicted = predictor(expected["masked"], CONTEXT_IDS, TARGET_IDS, mask_index=index)
        close(predicted, expected["predicted_0"])
    assert (expected["predicted"] - expected["predicted_0"]).abs().max() > 0.1


def test_samples_may_have_their_own_positions(teacher: Read) -> None:
    model = teacher("vjepa2").model
    context_ids = torch.tensor([CONTEXT, [2, 8, 9, 13, 15]])
    target_ids = torch.tensor([TARGET, [1, 12, 7]])
    predicted = model.predictor(model.encoder(CLIPS, context_ids), context_ids, target_ids)
    close(predicted, golden("vjepa2")[1]["predicted_mixed"])


def test_order_of_positions_does_not_matter(teacher: Read) -> None:
    predictor, expected = teacher("vjepa2").model.predictor, golden("vjepa2")[1]
    context, context_ids = expected["masked"].flip(1), CONTEXT_IDS.flip(0)
    close(predictor(context, context_ids, TARGET_IDS.flip(0)).flip(1), expected["predicted"])


def test_anticipation_equals_the_official_evaluation(teacher: Read) -> None:
    model = teacher("vjepa2").model
    close(model.anticipate(model(CLIPS), skip=1, rounds=2), golden("vjepa2")[1]["anticipated"])


def test_anticipation_can_use_another_mask_token(teacher: Read) -> None:
    model = teacher("vjepa2").model
    latents, places = model(CLIPS), torch.arange(3 * SIDE**2)
    expected = model.predictor(latents, places[:18], places[18:], mask_index=0)
    assert torch.equal(model.anticipate(latents, mask_index=0), expected)
    assert (model.anticipate(latents) - expected).abs().max() > 0.1


def test_anticipation_stays_within_the_known_frames(teacher: Read) -> None:
    model = teacher("vjepa2").model
    latents = model(CLIPS)
    assert model.anticipate(latents, skip=1).shape == (2, SIDE**2, 40)
    assert model.anticipate(latents, steps=2).shape == (2, 2 * SIDE**2, 40)
    with pytest.raises(JepaExportError, check=code("teacher.horizon")):
        model.anticipate(latents, skip=2)


def test_predictions_in_teacher_space_are_not_fed_back(teacher: Read) -> None:
    model = teacher("vjepa2_1").model
    assert model.config.output_space == "teacher"
    assert model.anticipate(model(CLIPS)).shape == (2, SIDE**2, 36)
    with pytest.raises(JepaExportError, check=code("teacher.horizon")):
        model.anticipate(model(CLIPS), rounds=2)


def test_predictions_at_all_levels_are_fed_back(teacher: Read) -> None:
    model = teacher("vjepa2_1_levels").model
    assert model.config.output_space == "encoder"
    assert model.anticipate(model(CLIPS), rounds=2).shape == (2, 2 * SIDE**2, 160)


@pytest.mark.parametrize("case", ["vjepa2_1", "vjepa2_1_levels"])
def test_v_jepa_2_1_encodes_a_single_image_separately(teacher: Read, case: str) -> None:
    model, expected = teacher(case).model, golden(case)[1]
    close(model(CLIPS[:, :1]), expected["image"])
    predicted = model.predictor(expected["image"], torch.arange(SIDE**2), TARGET_IDS[:1], image=True)
    close(predicted, expected["predicted_image"])


def test_v_jepa_2_requires_complete_tubelets_of_its_size(teacher: Read) -> None:
    model = teacher("vjepa2").model
    for frames in (1, 10):
        with pytest.raises(JepaExportError, check=code("teacher.shape")):
            model(draw(1, frames, 3, PX, PX))
    with pytest.raises(JepaExportError, check=code("teacher.shape")):
        model(draw(1, 3, 2, PX, PX))


def test_frames_and_actions_give_the_official_next_frames(teacher: Read) -> None:
    model, expected = teacher("vjepa2_ac").model, golden("vjepa2_ac")[1]
    actions, states = draw(1, 3, 7, seed=2), draw(1, 3, 7, seed=3)
    close(model(draw(1, 3, 3, PX, PX)), expected["latents"])
    close(model.predictor(expected["latents"], actions, states), expected["raw"])
    close(model.predict(expected["latents"], actions, states), unit_scale(expected["raw"]))


def test_three_steps_are_rolled_out_as_by_the_official_planner(teacher: Read) -> None:
    model, expected = teacher("vjepa2_ac").model.double(), golden("vjepa2_ac")[1]
    actions, states = draw(2, 3, 7, seed=4).double(), draw(1, 3, 7, seed=3).double()
    first, state = expected["latents"][:, :1].double(), states[:, :1]
    latents, reached = model.rollout(first.expand(2, -1, -1, -1), actions, state.expand(2, -1, -1))
    assert (expected["rollout"][:, 2] - expected["rollout"][:, 1]).abs().max() > 0.1
    close(latents, expected["rollout"], atol=1e-5)
    close(reached, expected["rollout_states"], atol=1e-5)


def test_predictor_is_causal(teacher: Read) -> None:
    model = teacher("vjepa2_ac").model
    latents, actions, states = draw(1, 3, SIDE**2, 40), draw(1, 3, 7, seed=2), draw(1, 3, 7, seed=3)
    before = model.predict(latents, actions, states)
    after = model.predict(latents, actions.index_fill(1, torch.tensor(1), 0.0), states)
    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1:] - after[:, 1:]).abs().amax(dim=(0, 2, 3)).min() > 0.01


def test_action_leads_to_the_official_next_state() -> None:
    state, action = draw(1, 3, 7, seed=3)[0], draw(1, 3, 7, seed=2)[0]
    close(next_state(state, action), golden("vjepa2_ac")[1]["pose"], atol=1e-5)


def test_change_of_a_pose_is_the_action_that_leads_to_it() -> None:
    states = draw(2, 5, 7, seed=7).double()
    states[..., 6] = states[..., 6].sigmoid()
    close(next_state(states[0], pose_delta(states[0], states[1]))[..., :3], states[1][..., :3], atol=1e-12)
    action = 0.3 * draw(5, 7, seed=8).double()
    action[..., 6] = 0
    close(pose_delta(states[0], next_state(states[0], action)), action, atol=1e-9)


@pytest.mark.parametrize(
    ("shapes", "tensor"),
    [
        (((1, 5, 9, 40), (1, 5, 7), (1, 5, 7)), "latents"),
        (((1, 2, 9, 39), (1, 2, 7), (1, 2, 7)), "latents"),
        (((1, 2, 9, 40), (1, 1, 7), (1, 2, 7)), "actions"),
        (((1, 2, 9, 40), (1, 2, 7), (1, 2, 6)), "states"),
    ],
)
def test_invalid_inputs_of_the_action_predictor_are_named(
    teacher: Read, shapes: tuple[tuple[int, ...], ...], tensor: str
) -> None:
    with pytest.raises(JepaExportError, check=code("teacher.shape")) as error:
        teacher("vjepa2_ac").model.predict(*(draw(*shape) for shape in shapes))
    assert str(error.value).startswith(f"{tensor}: ")


def test_lewm_encodes_predicts_and_rolls_out_as_officially(teacher: Read) -> None:
    model, expected = teacher("lewm").model, golden("lewm")[1]
    actions = draw(2, 5, ACTION_DIM, seed=2)
    close(model(draw(2, 2, 3, 28, 28)), expected["latents"])
    close(model.predict(expected["latents"], actions[:, :2]), expected["predicted"])
    close(model.rollout(expected["latents"], actions), expected["rollout"])


def test_lewm_attends_to_its_context_only(teacher: Read) -> None:
    model = teacher("lewm").model
    with pytest.raises(JepaExportError, check=code("teacher.shape")):
        model.predict(draw(1, HISTORY + 1, 24), draw(1, HISTORY + 1, ACTION_DIM))
    with pytest.raises(JepaExportError, check=code("teacher.shape")):
        model.predict(draw(1, 2, 24), draw(1, 1, ACTION_DIM))


def test_i_jepa_encodes_and_predicts_as_officially(teacher: Read) -> None:
    model, expected = teacher("ijepa").model, golden("ijepa")[1]
    images, context_ids, target_ids = draw(2, 3, 42, 42), torch.tensor([0, 4, 8]), torch.tensor([1, 5])
    close(model(images), expected["tokens"])
    close(model.encoder(images, context_ids), expected["masked"])
    close(model.predictor(expected["masked"], context_ids, target_ids), expected["predicted"])
    each = context_ids.expand(2, -1), target_ids.expand(2, -1)
    close(model.predictor(expected["masked"], *each), expected["predicted"])
    with pytest.raises(JepaExportError, check=code("teacher.shape")):
        model(draw(2, 3, 28, 28))
