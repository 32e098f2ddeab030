"""Students give the same results frame by frame or all at once, in torch or as OpenVINO's loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_export.bundling.student_graphs import write_predictor
from jepa_export.bundling.variants import DEFAULT_VARIANTS
from jepa_export.errors import JepaExportError
from jepa_export.students.family import FAMILY, Student, create, randomize
from jepa_export.students.layers import unit_scale
from jepa_export.students.predictor import (
    CONDITION_DIM,
    WINDOW,
    ParallelBlock,
    Past,
    Predictor,
    PredictorConfig,
    Step,
)
from jepa_export.targets.openvino import Sample
from jepa_export.targets.openvino_rollout import absent_table
from jepa_runtime.backends.registry import create_backend
from tests.errors import code

PREDICTOR = PredictorConfig(tokens=3, dim=16, width=32, depth=3, heads=2, action_scale=(0.5, 2.0))
SCALE = (1.25, 1.25)
HORIZON = WINDOW + 2
HISTORIES = range(1, WINDOW + 1)


def make(config: PredictorConfig, seed: int = 0) -> Predictor:
    """Return a predictor none of whose parameters is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        predictor = Predictor(config).eval().requires_grad_(False)
        for parameter in predictor.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return make(PREDICTOR)


@dataclass(frozen=True)
class Inputs:
    """``history`` [1, W, T, D], ``actions`` [K, H, A], ``between`` [1, W-1, A] or None if W is 1."""

    history: Tensor
    actions: Tensor
    between: Tensor | None

    @classmethod
    def draw(
        cls, config: PredictorConfig, size: int, *, count: int = 3, horizon: int = HORIZON, seed: int = 0
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        scale = torch.tensor(config.action_scale)

        def act(*shape: int) -> Tensor:
            return (2 * torch.rand(*shape, len(scale), generator=generator) - 1) * scale

        history = unit_scale(torch.randn(1, size, config.tokens, config.dim, generator=generator))
        return cls(history, act(count, horizon), act(1, size - 1) if size > 1 else None)

    def sample(self) -> Sample:
        """Return the inputs of the graph."""
        given = {"history_latents": self.history, "actions": self.actions, "history_actions": self.between}
        return {name: tensor.numpy() for name, tensor in given.items() if tensor is not None}

    def executed(self) -> Tensor:
        """Return the actions after each frame, those of the history first: [K, W-1+H, A]."""
        if self.between is None:
            return self.actions
        return torch.cat([self.between.expand(len(self.actions), -1, -1), self.actions], dim=1)


def step_through(predictor: Predictor, history: Tensor, actions: Tensor, horizon: int) -> Tensor:
    """Return futures by sequence mode: each frame is predicted from the whole sequence and appended to it."""
    sequence = history.expand(len(actions), -1, -1, -1)
    for _ in range(horizon):
        following = predictor.next_latents(sequence, actions[:, : sequence.shape[1]])[:, -1:]
        sequence = torch.cat([sequence, following], dim=1)
    return sequence[:, -horizon:]


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("size", HISTORIES)
def test_rollout_equals_sequence_mode_step_by_step(predictor: Predictor, size: int) -> None:
    given = Inputs.draw(PREDICTOR, size)
    futures = predictor(given.history, given.actions, given.between)
    close(futures, step_through(predictor, given.history, given.executed(), HORIZON))


def test_unknown_action_differs_from_a_zero_action(predictor: Predictor) -> None:
    given = Inputs.draw(PREDICTOR, 1)
    standing = predictor.next_latents(given.history, torch.zeros_like(given.actions[:1, :1]))
    assert (predictor.next_latents(given.history, None) - standing).abs().max() > 0.1


def test_predicted_tokens_have_unit_scale(predictor: Predictor) -> None:
    given = Inputs.draw(PREDICTOR, 2)
    futures = predictor(given.history, given.actions, given.between)
    close(futures.mean(-1), torch.zeros(futures.shape[:-1]))
    close(futures.std(-1, unbiased=False), torch.ones(futures.shape[:-1]), 1e-4)


def test_candidates_are_independent_of_each_other(predictor: Predictor) -> None:
    given = Inputs.draw(PREDICTOR, 3, count=4)
    futures = predictor(given.history, given.actions, given.between)
    for index, future in enumerate(futures):
        alone = predictor(given.history, given.actions[index : index + 1], given.between)
        close(alone[0], future)
    assert (futures[1:] - futures[:1]).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_actions_are_divided_by_their_scale(predictor: Predictor) -> None:
    given, plain = Inputs.draw(PREDICTOR, 2), make(replace(PREDICTOR, action_scale=(1.0, 1.0)))
    scaled = [actions / torch.tensor(PREDICTOR.action_scale) for actions in (given.actions, given.between)]
    close(predictor(given.history, given.actions, given.between), plain(given.history, *scaled))


def test_action_changes_only_later_frames(predictor: Predictor) -> None:
    given = Inputs.draw(PREDICTOR, 2)
    changed = given.actions.clone()
    changed[:, 3] *= -1
    before, after = (predictor(given.history, actions, given.between) for actions in (given.actions, changed))
    close(after[:, :3], before[:, :3])
    assert (after[:, 3] - before[:, 3]).abs().max() > 0.1


def test_sequence_mode_is_causal(predictor: Predictor) -> None:
    given = Inputs.draw(PREDICTOR, 6, count=1, horizon=1)
    changed = given.history.clone()
    changed[:, 4] *= -1
    before, after = (
        predictor.next_latents(history, given.executed()) for history in (given.history, changed)
    )
    close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amax(dim=(0, 2, 3)).min() > 0.01


def test_block_attends_within_its_window_only() -> None:
    shallow = make(replace(PREDICTOR, depth=1))
    given = Inputs.draw(PREDICTOR, WINDOW + 2, count=1, horizon=1)
    changed = given.history.clone()
    changed[:, 0] *= -1
    before, after = (shallow.next_latents(history, given.executed()) for history in (given.history, changed))
    close(after[:, WINDOW:], before[:, WINDOW:])
    assert (after[:, WINDOW - 1] - before[:, WINDOW - 1]).abs().max() > 0.01


@pytest.mark.parametrize("size", HISTORIES)
@pytest.mark.parametrize("filler", [0.0, 3.0])
def test_past_and_step_graphs_equal_the_flat_rollout(predictor: Predictor, size: int, filler: float) -> None:
    given = Inputs.draw(PREDICTOR, size)
    count = len(given.actions)
    latent, *frames = (
        part.expand(count, *part.shape[1:]) for part in Past(predictor)(given.history, given.between)
    )
    missing = WINDOW - size
    assert not any(frame.any() for frame in frames[:missing])
    # The values of absent frames do not matter: the table masks them.
    frames[:missing] = [torch.full_like(frame, filler) for frame in frames[:missing]]
    futures = []
    for step, absent in enumerate(
        torch.from_numpy(absent_table(WINDOW, size - 1, HORIZON)).split(WINDOW, dim=1)
    ):
        latent, frame_made = Step(predictor)(latent, given.actions[:, step : step + 1], absent, *frames)
        frames = [*frames[1:], frame_made]
        futures.append(latent)
    close(torch.cat(futures, dim=1), predictor(given.history, given.actions, given.between))


def test_table_names_the_frames_that_do_not_exist_yet() -> None:
    table = absent_table(4, 1, 4)
    assert table.shape == (1, 16, 1, 1)
    assert (table.reshape(4, 4) < 0).tolist() == [
        [True, True, False, False],
        [True, False, False, False],
        [False] * 4,
        [False] * 4,
    ]


@pytest.mark.parametrize("name", FAMILY)
def test_networks_of_a_student_fit_together(name: str) -> None:
    student = create(name, px=32, action_scale=SCALE, seed=0)
    latent = student.encoder(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    assert latent.shape == (1, FAMILY[name].tokens, FAMILY[name].dim)
    futures = student.predictor(latent[None], torch.zeros(2, 3, len(SCALE)))
    assert futures.shape == (2, 3, *latent.shape[1:])


def weights(student: Student) -> Tensor:
    return torch.cat(
        [
            parameter.detach().flatten()
            for network in (student.encoder, student.predictor)
            for parameter in network.parameters()
        ]
    )


def test_weights_depend_only_on_the_seed() -> None:
    state = torch.get_rng_state()
    one, same, other = (weights(create("vit_ti", px=32, action_scale=SCALE, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_new_predictor_returns_the_present_and_a_randomized_one_uses_the_action() -> None:
    fresh = create("vit_ti", px=32, action_scale=SCALE, seed=0).predictor
    given = Inputs.draw(fresh.config, 1)
    close(fresh(given.history, given.actions), given.history.expand(3, HORIZON, -1, -1), 1e-4)
    randomize(fresh, 5)
    futures = fresh(given.history, given.actions)
    assert torch.cosine_similarity(futures, given.history, dim=-1).max() < 0.99
    assert (futures[1:] - futures[:1]).abs().amax(dim=(1, 2, 3)).min() > 0.01


@torch.no_grad()
def test_new_block_is_an_identity() -> None:
    tokens, condition = torch.ones(2, 3, 32), torch.ones(1, 3, CONDITION_DIM)
    assert torch.equal(ParallelBlock(32, 2)(tokens, condition)[0], tokens)


def test_randomize_uses_only_the_given_seed() -> None:
    state = torch.get_rng_state()
    one, same, other = (make_stirred(seed).out.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def make_stirred(seed: int) -> Predictor:
    predictor = create("vit_ti", px=32, action_scale=SCALE, seed=0).predictor.requires_grad_(False)
    randomize(predictor, seed)
    return predictor


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"width": 34}, r"width must be a multiple of 2 x heads \(4\), got 34"),
        ({"action_scale": ()}, r"action_scale must be positive numbers, got \(\)"),
        ({"action_scale": (1.0, 0.0)}, r"action_scale must be positive numbers, got \(1.0, 0.0\)"),
    ],
)
def test_invalid_predictor_size_is_named(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(PREDICTOR, **changed)


@pytest.mark.parametrize(
    ("name", "px", "scale", "expected"),
    [
        ("vit_xl", 32, SCALE, "student.unknown"),
        ("vit_ti", 40, SCALE, "student.sizes"),
        ("vit_ti", 32, (), "student.sizes"),
    ],
)
def test_impossible_student_is_rejected(name: str, px: int, scale: tuple[float, ...], expected: str) -> None:
    with pytest.raises(JepaExportError, check=code(expected)):
        create(name, px=px, action_scale=scale, seed=0)


@dataclass(frozen=True)
class Exported:
    """A predictor, and the folder of its graphs, which take ``size`` frames."""

    predictor: Predictor
    size: int
    folder: Path

    def run(self, engine: str, graph: str, given: Inputs) -> Tensor:
        """Return futures as a robot computes them."""
        backend = create_backend(engine)
        sample = given.sample()
        session = backend.load(
            self.folder / graph, {name: array.shape for name, array in sample.items()}, rows=("actions",)
        )
        for name, array in sample.items():
            session.inputs[name][...] = array
        futures = torch.from_numpy(np.array(session.run()["futures"]))
        session.close()
        backend.close()
        return futures


@pytest.fixture(scope="module", params=[1, 3], ids=lambda size: f"W={size}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    predictor = make_stirred(0)
    folder = tmp_path_factory.mktemp("predictor")
    drawn = [Inputs.draw(predictor.config, request.param, count=16, seed=seed) for seed in range(1, 5)]
    write_predictor(predictor, [given.sample() for given in drawn], folder, DEFAULT_VARIANTS)
    return Exported(predictor, request.param, folder)


@pytest.mark.parametrize("count", [16, 40])
def test_loop_graph_computes_what_torch_computes(exported: Exported, count: int) -> None:
    given = Inputs.draw(exported.predictor.config, exported.size, count=count)
    futures = exported.run("openvino:CPU", "openvino/model_fp32.xml", given)
    close(futures, exported.predictor(given.history, given.actions, given.between), 1e-4)


def test_loop_graph_in_int8_is_close_to_torch(exported: Exported) -> None:
    given = Inputs.draw(exported.predictor.config, exported.size, count=32)
    futures = exported.run("openvino:CPU", "openvino/model_int8.xml", given)
    expected = exported.predictor(given.history, given.actions, given.between)
    assert torch.cosine_similarity(futures, expected, dim=-1).min() > 0.99
    assert not torch.equal(futures, expected)


def test_flat_graph_computes_what_torch_computes(exported: Exported) -> None:
    pytest.importorskip("onnxruntime")
    given = Inputs.draw(exported.predictor.config, exported.size, count=5)
    futures = exported.run("onnxruntime:CPU", "onnx/model_fp32.onnx", given)
    close(futures, exported.predictor(given.history, given.actions, given.between), 1e-4)
