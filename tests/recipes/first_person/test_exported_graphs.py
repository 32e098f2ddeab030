"""The graphs of the bundle: poses in meters and radians, energies, and futures of K candidates."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.bundling.student_graphs import write_graph
from jepa_export.targets.npu import compile_blob
from jepa_recipes.first_person.exported_graphs import EnergyGraph, PredictorGraph, RelativePoseGraph
from jepa_recipes.first_person.networks import TOKENS, ActionPredictor, RelativePoseHead
from jepa_recipes.first_person.sizes import STUDENT
from jepa_runtime.bundle import POSE_BATCH
from tests.export.compilers import needs_compiler

CERTAIN = -20.0
GOAL = torch.zeros(1, TOKENS, STUDENT.dim)


class Head(RelativePoseHead):
    """A head that reads given values, whatever it sees."""

    def __init__(self, read: Tensor) -> None:
        super().__init__()
        self.read = read

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.read


def reading(
    x: float,
    y: float,
    yaw: float,
    log_scales: tuple[float, float, float] = (CERTAIN,) * 3,
    length: float = 1.0,
) -> Tensor:
    """Return what the head outputs for a pose; ``length`` is that of its direction and heading vectors."""
    distance, bearing = math.hypot(x, y), math.atan2(y, x)
    vectors = [length * math.cos(bearing), length * math.sin(bearing)]
    heading = [length * math.cos(yaw), length * math.sin(yaw)]
    return torch.tensor([[*vectors, math.log(distance + 0.15), *heading, *log_scales]])


def pose(read: Tensor) -> Tensor:
    found: Tensor = RelativePoseGraph(Head(read))(GOAL, GOAL)
    return found[0]


def energy(read: Tensor) -> float:
    return float(EnergyGraph(Head(read))(GOAL, GOAL))


@pytest.mark.parametrize("values", [(1.0, 0.5, 0.3), (-0.4, 0.2, -2.0), (0.0, -2.0, 3.1), (0.3, 0.0, 0.0)])
@pytest.mark.parametrize("length", [1.0, 0.4])
def test_relative_pose_graph_returns_the_pose_that_was_read(
    values: tuple[float, float, float], length: float
) -> None:
    found = pose(reading(*values, length=length))
    torch.testing.assert_close(found[:3], torch.tensor(values), atol=1e-5, rtol=1e-5)


def test_relative_pose_graph_returns_the_expected_errors_in_meters_and_radians() -> None:
    scales = (math.log(0.1), math.log(0.2), math.log(0.05))
    found = pose(reading(3.0, 4.0, 1.0, scales))
    assert float(found[3]) == pytest.approx(math.hypot(0.2 * 5.15, 0.1 * 5.0), rel=1e-4)
    assert float(found[4]) == pytest.approx(0.05, rel=1e-4)


def test_energy_graph_is_the_time_to_drive_and_turn() -> None:
    certain = math.exp(-4.0)
    expected_errors = certain * 0.15 / 0.6 + certain / 0.7
    assert energy(reading(0.0, 0.0, 0.0)) == pytest.approx(expected_errors, abs=1e-4)
    assert energy(reading(0.0, 0.0, 0.7)) - expected_errors == pytest.approx(1.0, abs=1e-3)
    assert energy(reading(3.0, 0.0, 0.0)) == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        (reading(0.5, 0.0, 0.0), reading(0.6, 0.0, 0.0)),
        (reading(1.5, 0.0, 0.0), reading(0.0, 1.5, 0.0)),
        (reading(1.5, 0.0, 0.0), reading(-1.5, 0.0, 0.0)),
        (reading(0.2, 0.0, 0.1), reading(0.2, 0.0, -0.3)),
        (reading(1.0, 1.0, math.pi / 4), reading(1.0, 1.0, 0.0)),
        (reading(0.0, 0.0, 3.0), reading(0.0, 0.0, -3.1)),
    ],
)
def test_energy_graph_is_higher_where_more_is_to_be_driven(lower: Tensor, higher: Tensor) -> None:
    assert energy(lower) < energy(higher) - 0.01


def test_energy_graph_weighs_the_tolerances_of_distance_and_heading_equally() -> None:
    assert energy(reading(0.3, 0.0, 0.0)) == pytest.approx(
        energy(reading(0.0, 0.0, math.radians(20))), abs=0.03
    )
    assert energy(reading(0.0, 0.3, 0.0)) == pytest.approx(energy(reading(0.3, 0.0, 0.0)), abs=0.05)


def test_energy_graph_is_high_where_nothing_matches() -> None:
    assert energy(reading(0.1, 0.0, 0.0, (0.3, 0.0, 0.3))) > energy(reading(0.5, 0.0, 0.3)) + 0.5


@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_graphs_are_finite_for_any_output_of_the_head(value: float) -> None:
    read = torch.full((3, 8), value)
    assert torch.isfinite(EnergyGraph(Head(read))(GOAL, GOAL)).all()
    if value:
        assert torch.isfinite(RelativePoseGraph(Head(read))(GOAL, GOAL)).all()


@pytest.fixture
def predictor() -> ActionPredictor:
    torch.manual_seed(0)
    network = ActionPredictor().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@torch.no_grad()
def test_predictor_graph_predicts_step_by_step_with_the_previous_actions(predictor: ActionPredictor) -> None:
    history, actions = torch.randn(1, 2, TOKENS, STUDENT.dim), torch.randn(3, 2, 2)
    between = torch.randn(1, 1, 2)
    futures = PredictorGraph(predictor)(history, actions, between)
    assert futures.shape == (3, 2, TOKENS, STUDENT.dim)
    for candidate, predicted in zip(actions, futures, strict=True):
        one = predictor(history[:, 1], between[0], candidate[:1])
        two = predictor(one, candidate[:1], candidate[1:])
        torch.testing.assert_close(predicted, torch.cat([one, two]), atol=1e-4, rtol=1e-4)
    assert not torch.equal(PredictorGraph(predictor)(history, actions, between + 1), futures)
    changed = torch.cat([history[:, :1] + 1, history[:, 1:]], dim=1)
    torch.testing.assert_close(PredictorGraph(predictor)(changed, actions, between), futures)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("platform", ["4000", "5010"])
def test_npu_compiler_accepts_the_relative_pose_graph(platform: str, tmp_path: Path) -> None:
    latents = torch.randn(POSE_BATCH, TOKENS, STUDENT.dim, generator=torch.Generator().manual_seed(0))
    samples = [{"latents": latents.numpy(), "goal": latents[:1].numpy()}]
    variants = (("onnx", "fp32"), ("npu", "fp16"))
    graph = RelativePoseGraph(RelativePoseHead()).eval()
    write_graph(graph, samples, "relative_pose", tmp_path, variants, free_axis=("latents",))
    schedule = compile_blob(tmp_path / "npu" / "model_fp16.xml", tmp_path / "model.blob", platform)
    assert schedule.total_ms > 0
