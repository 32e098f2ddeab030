"""Distillation in Two Rooms: small networks learn from a large teacher alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from jepa_export.cli import main
from jepa_export.data.two_rooms_recordings import Recordings, record
from jepa_export.errors import JepaExportError
from jepa_export.training.stage import run_stage
from jepa_recipes.training_worlds.two_rooms import TwoRoomsTrainingWorld
from jepa_recipes.two_token import bundle as packing
from jepa_recipes.two_token import distillation, representation, train_command, training, vit_trunk
from jepa_recipes.two_token.distillation import (
    DynamicsDistillationStage,
    RepresentationDistillationStage,
)
from jepa_recipes.two_token.latent_library import read_library
from jepa_recipes.two_token.training import STUDENT, TEACHER, DistillationRecipe, Recipe, TrainedModel
from jepa_runtime.bundle import Bundle
from tests.errors import code

TINY = DistillationRecipe(representation_steps=2, dynamics_steps=4)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, like the other tests: two are ten times as slow when another test runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_LARGE_THREADS", 1)
        yield


def render_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Save the seconds in which another process imports torch; ``student_run`` uses such a process."""
    patch.setattr(training, "_renderer", lambda: ThreadPoolExecutor(1))


@pytest.fixture(scope="module")
def teacher_run(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedModel]:
    """Return a barely trained teacher, and the folder of its library."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    recipe = replace(tiny_recipe, representation_steps=2, teacher=True)
    with pytest.MonkeyPatch.context() as patch:
        render_in_this_process(patch)
        patch.setattr(representation, "LAYOUTS", 8)
        return folder, training.train(
            folder, seed=0, training_world=TwoRoomsTrainingWorld("random"), recipe=recipe
        )


@pytest.fixture(scope="module")
def student_run(
    teacher_run: tuple[Path, TrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainedModel]:
    folder = tmp_path_factory.mktemp("student") / "run"
    return folder, training.distill(teacher_run[1], teacher_run[0], folder, seed=0, recipe=TINY)


def few(step: int) -> Future[Recordings]:
    drawn: Future[Recordings] = Future()
    drawn.set_result(record((0, step), layouts=8, trajectories=2, frames=2, kind="random"))
    return drawn


@pytest.mark.slow
def test_encoder_learns_the_representation_of_its_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = TEACHER.encoder()
    teacher(torch.from_numpy(few(1000).result().frames).flatten(0, 2))  # Give its normalization a scale.
    stage = RepresentationDistillationStage(teacher.eval(), STUDENT.encoder(), steps=60, draw=few)
    run_stage(stage, tmp_path)
    losses = [float(row.split(",")[1]) for row in (tmp_path / "sight.csv").read_text().splitlines()[1:]]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("has_bf16", [True, False])
def test_teacher_is_trained_in_bf16_where_the_processor_supports_it(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vit_trunk, "supports_bf16", lambda: has_bf16)
    trunk, seen = vit_trunk.ViTTrunk(), []
    trunk.blocks[0].mlp.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    for learning in (True, False):
        trunk.train(learning)(torch.zeros(1, 3, 128, 128))
    assert seen == [torch.bfloat16 if has_bf16 else torch.float32, torch.float32]


def test_predictor_and_energy_learn_the_predictions_of_their_teacher(
    teacher_run: tuple[Path, TrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "LAYOUTS", 8)
    folder, teacher = teacher_run
    torch.manual_seed(0)
    whole = teacher.encoder, teacher.predictor, teacher.energy
    library = read_library(folder / training.LIBRARY)
    stage = DynamicsDistillationStage(
        whole, library, STUDENT.predictor(teacher.training_world.top_speed), STUDENT.energy(), steps=150
    )
    run_stage(stage, tmp_path)
    rows = [row.split(",") for row in (tmp_path / "imagination.csv").read_text().splitlines()]
    for column in ("futures", "distance"):
        values = [float(row[rows[0].index(column)]) for row in rows[1:]]
        assert sum(values[-10:]) < 0.5 * sum(values[:10]), column


def test_repeated_distillation_is_identical(
    teacher_run: tuple[Path, TrainedModel],
    student_run: tuple[Path, TrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    render_in_this_process(monkeypatch)
    again = training.distill(teacher_run[1], teacher_run[0], tmp_path, seed=0, recipe=TINY)
    taken_up = training.distill(teacher_run[1], teacher_run[0], student_run[0], seed=0, recipe=TINY)
    for model in (again, taken_up):
        for name in ("encoder", "predictor", "energy"):
            ours, theirs = getattr(model, name).state_dict(), getattr(student_run[1], name).state_dict()
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


def test_distillation_with_other_settings_is_rejected(
    teacher_run: tuple[Path, TrainedModel], student_run: tuple[Path, TrainedModel]
) -> None:
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        training.distill(teacher_run[1], teacher_run[0], student_run[0], seed=1, recipe=TINY)


@pytest.mark.slow
def test_distill_command_scores_teacher_and_student_together(
    teacher_run: tuple[Path, TrainedModel],
    student_run: tuple[Path, TrainedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from jepa_sim.worlds import two_rooms_world as worlds

    patches: list[tuple[ModuleType, str, Any]] = [
        (train_command, "train", lambda *_, **__: teacher_run[1]),
        (train_command, "distill", lambda *_, **__: student_run[1]),
        (worlds, "MAX_STEPS", 1),
        # Untrained networks: INT8 may differ by any amount.
        (
            packing,
            "TOLERANCES",
            {name: {"min_cosine": -1.0, "max_abs": 1e6} for name in ("fp32", "int8")},
        ),
    ]
    for module, name, value in patches:
        monkeypatch.setattr(module, name, value)
    command = ["train", "two_rooms", "--distill", "--output", str(tmp_path), "--episodes", "1"]
    assert main(command) == 0, capsys.readouterr().err
    student, teacher = Bundle.open(tmp_path / "bundle"), Bundle.open(tmp_path / "teacher")
    assert "ViT" in str(student.manifest.provenance.teacher) and teacher.manifest.provenance.teacher is None
    assert set(teacher.manifest.golden.tolerances) == {"fp32"}
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    assert set(report["closed_loop"]["scores"]) >= {"int8", "fp32", "straight_line"}
    assert set(report["teacher"]["closed_loop"]["scores"]) == {"fp32"}
    for role, count in report["multiply_adds"].items():
        assert count <= report["teacher"]["multiply_adds"][role] / 8, role
    assert "multiply-adds" in capsys.readouterr().out
