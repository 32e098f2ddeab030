"""Training of a teacher and of the networks that learn from it: stages resume, and depend on each other."""

from __future__ import annotations

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.errors import JepaExportError
from jepa_recipes.first_person import training
from jepa_recipes.first_person.distillation import DistillationStage
from jepa_recipes.first_person.joint import JointStage
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.training import (
    DistilledNetworks,
    TeacherTraining,
    distill,
    load_networks,
    train,
)
from tests.errors import code
from tests.recipes.first_person.runs import BATCH, TINY, assert_same, checkpoint, interrupt, tables

STEPS = 6
TEACHER = TeacherTraining(masked_frames=STEPS * BATCH, frames=STEPS * BATCH, odometry_weight=1.0)
STAGES = ("masked", "teacher_joint", "distillation", "distilled_prediction")


def distill_tiny(folder: Path, **settings: Any) -> DistilledNetworks:
    frames = {"frames": STEPS * BATCH, "prediction_frames": STEPS * BATCH}
    given = frames | {"seed": 0, "teacher": TEACHER, "recipe": TINY, "threads": 1}
    return distill(folder, **given | {"checkpoint_every": 2} | settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DistilledNetworks]:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, distill_tiny(folder)


@pytest.fixture
def prepared(finished: tuple[Path, DistilledNetworks], tmp_path: Path) -> Path:
    """Return a folder that has the drives of the finished run, and nothing else."""
    folder = tmp_path / "run"
    for name in ("drives", "held_out_drives"):
        shutil.copytree(finished[0] / name, folder / name)
    return folder


@pytest.fixture
def copied(finished: tuple[Path, DistilledNetworks], tmp_path: Path) -> Path:
    """Return a copy of the finished run."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "checkpoints" / f"{table}.csv").open()))


def test_distilled_run_writes_losses_and_tables_of_each_stage(
    finished: tuple[Path, DistilledNetworks],
) -> None:
    folder, _ = finished
    for stage in STAGES:
        assert [int(row["step"]) for row in rows(folder, stage)] == list(range(STEPS))
    evaluated = {
        "masked": ("held_out",),
        "teacher_joint": (),
        "distillation": ("of_teacher",),
        "distilled_prediction": (),
    }
    for stage, further in evaluated.items():
        readings = ("bearing_deg", "heading_deg", "prediction_error") if stage != "masked" else ()
        for table in (*readings, *further):
            assert [int(row["step"]) for row in rows(folder, f"{stage}_{table}")] == [2, 5]


def test_distillation_has_terms_of_the_teacher_and_of_the_joint_stage(
    finished: tuple[Path, DistilledNetworks],
) -> None:
    for row in rows(finished[0], "distillation"):
        began = int(row["step"]) >= 2
        for term in ("latent", "reading", "pose", "match"):
            assert float(row[term]) != 0
        for term in ("rollout", "rollout_reading", "prediction", "grounding"):
            assert (float(row[term]) != 0) == began


def test_teacher_starts_from_the_average_of_the_masked_stage(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[tuple[dict[str, torch.Tensor], bool]]()

    class Recorded(JointStage):
        def __init__(self, networks: Networks, *given: Any, **settings: Any) -> None:
            trainable = all(parameter.requires_grad for parameter in networks.encoder.parameters())
            started.append((copy.deepcopy(dict(networks.encoder.state_dict())), trainable))
            super().__init__(networks, *given, **settings)

    interrupt(monkeypatch, "teacher_joint", 0)
    monkeypatch.setattr(training, "JointStage", Recorded)
    with pytest.raises(KeyboardInterrupt):
        distill_tiny(prepared)
    average = checkpoint(prepared, "masked")["extra"]["target"]
    ((weights, trainable),) = started
    assert_same(
        {f"frame.{name}": value for name, value in weights.items()} | {"times": average["times"]}, average
    )
    assert trainable


def test_distilled_run_interrupted_in_each_stage_ends_with_identical_losses_and_weights(
    finished: tuple[Path, DistilledNetworks], prepared: Path
) -> None:
    for stage in STAGES:
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, stage, 3)
            with pytest.raises(KeyboardInterrupt):
                distill_tiny(prepared)
    distill_tiny(prepared)
    assert tables(prepared) == tables(finished[0])
    for stage in STAGES:
        assert_same(checkpoint(prepared, stage), checkpoint(finished[0], stage), stage)


def test_networks_of_the_checkpoints_are_those_of_the_run(finished: tuple[Path, DistilledNetworks]) -> None:
    folder, found = finished
    for networks, name, size in (
        (found.teacher, "teacher_joint", (TINY.teacher,)),
        (found.student, "distillation", ()),
    ):
        predictor = folder / "checkpoints" / "distilled_prediction.pt" if name == "distillation" else None
        loaded = load_networks(folder / "checkpoints" / f"{name}.pt", *size, prediction=predictor)
        for part in ("encoder", "head", "predictor"):
            trained = getattr(networks, part)
            assert_same(dict(getattr(loaded, part).state_dict()), dict(trained.state_dict()), part)
            assert not trained.training


def test_student_starts_from_the_joint_stage_if_asked(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has learned all terms before, so they all count from the first step on."""
    from_joint = replace(TEACHER, starts_from_joint=True)
    with pytest.raises(JepaExportError, check=code("training.no_joint_stage")):
        distill_tiny(prepared, teacher=from_joint)
    train(prepared, seed=0, frames=STEPS * BATCH, prediction_frames=BATCH, threads=1, recipe=TINY)
    trained = checkpoint(prepared, "joint")["modules"]
    started = list[dict[str, torch.Tensor]]()

    class Recorded(DistillationStage):
        def __init__(self, student: Networks, *given: Any, **settings: Any) -> None:
            started.append(copy.deepcopy(dict(student.encoder.state_dict())))
            super().__init__(student, *given, **settings)

    monkeypatch.setattr(training, "DistillationStage", Recorded)
    distill_tiny(prepared, teacher=from_joint)
    assert_same(
        {f"encoder.{name}": value for name, value in started[0].items()},
        {name: value for name, value in trained.items() if name.startswith("encoder.")},
    )
    assert all(float(row["rollout"]) != 0 for row in rows(prepared, "distillation"))


def test_distillation_brings_held_out_latents_nearer_to_the_teacher(copied: Path) -> None:
    """From the teacher alone; on drives that are never trained on."""
    for path in (copied / "checkpoints").glob("distillation*"):
        path.unlink()
    alone = replace(TEACHER, odometry_weight=0.0)
    distill_tiny(copied, frames=24 * BATCH, teacher=alone, checkpoint_every=100)
    found = [float(row["explained_variance"]) for row in rows(copied, "distillation_of_teacher")]
    assert len(found) == 8 and 1 - found[-1] < 0.5 * (1 - found[0])
    losses = rows(copied, "distillation")
    assert "pose" not in losses[0] and float(losses[-1]["latent"]) < float(losses[0]["latent"]) - 0.3


def test_finished_distillation_continues_with_more_frames(
    finished: tuple[Path, DistilledNetworks], copied: Path
) -> None:
    distill_tiny(copied, frames=(STEPS + 1) * BATCH)
    assert len(rows(copied, "distillation")) == STEPS + 1
    for stage in STAGES[:2]:
        assert_same(checkpoint(copied, stage), checkpoint(finished[0], stage), stage)


@pytest.mark.parametrize(
    "other",
    [
        replace(TEACHER, masked_frames=(STEPS + 1) * BATCH),
        replace(TEACHER, frames=(STEPS + 1) * BATCH),
        replace(TEACHER, odometry_weight=0.5),
    ],
)
def test_distilled_run_rejects_a_stage_that_began_from_another_one(
    copied: Path, other: TeacherTraining
) -> None:
    """The stage that changed is trained to its new end; the one that began from it is not continued."""
    before = checkpoint(copied, "distillation")
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        distill_tiny(copied, teacher=other)
    assert_same(checkpoint(copied, "distillation"), before)
