"""Training of the first-person model: it learns, resumes exactly, and can be extended."""

from __future__ import annotations

import argparse
import csv
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.errors import JepaExportError
from jepa_export.training.recipes import TrainingRecipe
from jepa_export.training.stage import TrainingStage
from jepa_recipes.first_person import train_command
from jepa_recipes.first_person.batches import draw_batch
from jepa_recipes.first_person.joint import JointStage
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.networks import Networks
from jepa_recipes.first_person.outputs import compute_outputs
from jepa_recipes.first_person.recipe import RECIPE
from jepa_recipes.first_person.schedule import Schedule
from jepa_recipes.first_person.sizes import STUDENTS, NetworkSize
from jepa_recipes.first_person.training import TeacherTraining, load_networks, train
from jepa_runtime.commands import UsageError
from tests.errors import code
from tests.recipes.first_person.runs import BATCH, TINY, assert_same, checkpoint, interrupt, tables

STEPS, PREDICTION_STEPS = 8, 4


def train_tiny(folder: Path, steps: int = STEPS, **settings: Any) -> Networks:
    return train(
        folder,
        **{
            "seed": 0,
            "frames": steps * BATCH,
            "prediction_frames": PREDICTION_STEPS * BATCH,
            "recipe": TINY,
            "threads": 1,
            "checkpoint_every": 2,
        }
        | settings,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train_tiny(folder)
    return folder


@pytest.fixture
def prepared(finished: Path, tmp_path: Path) -> Path:
    """Return a folder that has the drives of the finished run, and nothing else."""
    folder = tmp_path / "run"
    for name in ("drives", "held_out_drives"):
        shutil.copytree(finished / name, folder / name)
    return folder


def test_batch_follows_from_seed_and_step_alone(drives: DriveLibrary) -> None:
    one, same = (draw_batch(drives, TINY.amount, 0, 5) for _ in range(2))
    np.testing.assert_array_equal(one.clips.images, same.clips.images)
    np.testing.assert_array_equal(one.pairs, same.pairs)
    np.testing.assert_array_equal(one.clips.odometry, same.clips.odometry)
    for seed, step in ((1, 5), (0, 6)):
        other = draw_batch(drives, TINY.amount, seed, step)
        assert not np.array_equal(other.clips.images, one.clips.images)


def test_schedule_is_in_frames() -> None:
    schedule = Schedule()
    assert [schedule.pose_weight(seen) for seen in (0, 40_000, 67_000, 94_000, 10**7)] == pytest.approx(
        [0.1, 0.1, 0.55, 1, 1]
    )
    assert [schedule.reach_m(seen) for seen in (0, 150_000, 300_000, 450_000, 10**7)] == pytest.approx(
        [1.2, 1.2, 2.2, 3.2, 3.2]
    )


def test_run_writes_losses_tables_and_checkpoints(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "checkpoints" / "joint.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(STEPS))
    for row in rows:
        terms = [float(row[name]) for name in ("pose", "match", "prediction", "grounding")]
        assert float(row["loss"]) == pytest.approx(sum(terms), rel=1e-4)
        began = int(row["step"]) >= 2
        assert (float(row["prediction"]) != 0) == began and (float(row["grounding"]) != 0) == began
    for name in ("bearing_deg", "heading_deg", "log_distance", "prediction_error"):
        evaluated = csv.DictReader((finished / "checkpoints" / f"joint_{name}.csv").open())
        assert [int(row["step"]) for row in evaluated] == [2, 5, 7]


@pytest.mark.parametrize(("stage", "at"), [("joint", 3), ("joint", 6), ("prediction", 1), ("prediction", 3)])
def test_interrupted_run_resumes_with_identical_losses_and_weights(
    finished: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, stage: str, at: int
) -> None:
    interrupt(monkeypatch, stage, at)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(prepared)
    monkeypatch.undo()
    train_tiny(prepared)
    assert tables(prepared) == tables(finished)
    for name in ("joint", "prediction"):
        assert_same(checkpoint(prepared, name), checkpoint(finished, name))


def test_bf16_has_nearly_the_gradients_of_fp32(
    drives: DriveLibrary, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = TINY.amount.schedule.continued()
    recipe = replace(TINY, amount=replace(TINY.amount, schedule=schedule))
    batch, gradients = draw_batch(drives, recipe.amount, 0, 0), list[torch.Tensor]()
    monkeypatch.setattr("jepa_recipes.first_person.joint.draw_batch", lambda *_: batch)

    class Stopped(Exception):
        pass

    def stop(stage: TrainingStage, *_: Any, **__: Any) -> None:
        weights = list(stage.network.parameters())
        assert all(weight.dtype == torch.float32 for weight in weights)
        gradients.append(torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]))
        raise Stopped

    # The first step has made the gradients when its outcome is logged.
    monkeypatch.setattr(JointStage, "after_step", stop)
    for bf16 in (False, True):
        with pytest.raises(Stopped):
            train_tiny(prepared, recipe=recipe, bf16=bf16)
        shutil.rmtree(prepared / "checkpoints")
    exact, fast = gradients
    assert not torch.equal(exact, fast)
    assert torch.cosine_similarity(exact, fast, dim=0) > 0.99


def test_interrupted_bf16_run_resumes_with_identical_weights(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(prepared, whole)
    train_tiny(whole, bf16=True)
    interrupt(monkeypatch, "joint", at=5)
    with pytest.raises(KeyboardInterrupt):
        train_tiny(prepared, bf16=True)
    monkeypatch.undo()
    train_tiny(prepared, bf16=True)
    for stage in ("joint", "prediction"):
        assert_same(checkpoint(prepared, stage), checkpoint(whole, stage))


def test_prediction_stage_changes_the_predictor_alone(finished: Path) -> None:
    before, after = load_networks(finished / "checkpoints" / "joint.pt"), train_tiny(finished)
    for name in ("encoder", "head"):
        one, other = getattr(before, name), getattr(after, name)
        assert_same(dict(one.state_dict()), dict(other.state_dict()), name)
    assert not torch.equal(before.predictor.output.weight, after.predictor.output.weight)
    rows = list(csv.DictReader((finished / "checkpoints" / "prediction.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(PREDICTION_STEPS))
    assert rows[0].keys() == {"step", "loss", "prediction", "grounding"}


def test_finished_run_continues_as_a_longer_one_would_have_been(finished: Path, prepared: Path) -> None:
    shutil.copytree(finished / "checkpoints", prepared / "checkpoints")
    shutil.copy(finished / "settings.json", prepared)
    train_tiny(prepared, STEPS + 1)
    longer = prepared.parent / "longer"
    for name in ("drives", "held_out_drives"):
        shutil.copytree(finished / name, longer / name)
    train_tiny(longer, STEPS + 1)
    assert tables(prepared) == tables(longer) != tables(finished)
    for name in ("joint", "prediction"):
        assert_same(checkpoint(prepared, name), checkpoint(longer, name))


def test_networks_of_a_checkpoint_are_those_of_the_run(finished: Path) -> None:
    joint, prediction = (finished / "checkpoints" / f"{name}.pt" for name in ("joint", "prediction"))
    trained, loaded = train_tiny(finished), load_networks(joint, prediction=prediction)
    for name in ("encoder", "head", "predictor"):
        network = getattr(loaded, name)
        assert_same(dict(network.state_dict()), dict(getattr(trained, name).state_dict()), name)
        assert not network.training


def test_shorter_run_is_rejected_and_the_longer_one_is_intact(finished: Path, prepared: Path) -> None:
    shutil.copytree(finished / "checkpoints", prepared / "checkpoints")
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        train_tiny(prepared, STEPS - 2)
    assert_same(checkpoint(prepared, "joint"), checkpoint(finished, "joint"))


def test_run_with_other_settings_is_rejected(finished: Path) -> None:
    before = tables(finished)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        train_tiny(finished, seed=1)
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        train_tiny(finished, recipe=replace(TINY, amount=replace(TINY.amount, pairs=5)))
    with pytest.raises(JepaExportError, check=code("training.settings_mismatch")):
        train_tiny(finished, recipe=replace(TINY, student=STUDENTS["large"]))
    assert tables(finished) == before


def test_run_trains_networks_of_its_size(prepared: Path) -> None:
    size = NetworkSize(dim=32, encoder_depth=1, encoder_heads=2, predictor_depth=1)
    networks = train_tiny(prepared, recipe=replace(TINY, student=size))
    assert networks.encoder.dim == size.dim
    assert len(networks.encoder.blocks) == len(networks.predictor.blocks) == 1
    loaded = load_networks(prepared / "checkpoints" / "joint.pt", size)
    assert_same(dict(loaded.head.state_dict()), dict(networks.head.state_dict()))


def test_prediction_stage_on_one_batch_lowers_the_loss(
    drives: DriveLibrary, finished: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "checkpoints", prepared / "checkpoints")
    schedule = replace(TINY.prediction.schedule, evaluation=1000 * BATCH)
    recipe = replace(TINY, prediction=replace(TINY.prediction, schedule=schedule))
    (prepared / "checkpoints" / "prediction.pt").unlink()
    batch = draw_batch(drives, TINY.prediction, 0, 0)
    # Three steps of two rollouts in each of two drives are compared with the same frames all the time.
    monkeypatch.setattr("jepa_recipes.first_person.prediction.draw_batch", lambda *_: batch)
    outputs = partial(compute_outputs, goals=torch.arange(12).reshape(3, 4) % 6)
    monkeypatch.setattr("jepa_recipes.first_person.prediction.compute_outputs", outputs)
    train_tiny(prepared, prediction_frames=90 * BATCH, checkpoint_every=100, recipe=recipe)
    rows = list(csv.DictReader((prepared / "checkpoints" / "prediction.csv").open()))
    losses = [float(row["loss"]) for row in rows[-90:]]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:2])


def test_training_on_one_batch_lowers_the_losses(
    drives: DriveLibrary, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(TINY.amount.schedule, evaluation=1000 * BATCH)
    recipe = replace(TINY, amount=replace(TINY.amount, schedule=schedule))
    batch = draw_batch(drives, TINY.amount, 0, 0)
    monkeypatch.setattr("jepa_recipes.first_person.joint.draw_batch", lambda *_: batch)
    train_tiny(prepared, 30, checkpoint_every=100, recipe=recipe)
    rows = list(csv.DictReader((prepared / "checkpoints" / "joint.csv").open()))
    # The weights of the terms are constant from the third step on.
    for name, start, least in (("match", 0, 1.0), ("pose", 2, 0.5)):
        losses = [float(row[name]) for row in rows]
        assert np.mean(losses[-6:]) < np.mean(losses[start : start + 2]) - least, name


def recorded_call(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *given: str, function: str = "train_and_bundle"
) -> tuple[Path, dict[str, Any]]:
    """Return what the recipe does with command line arguments: how it calls this function."""
    assert isinstance(RECIPE, TrainingRecipe)
    parser = argparse.ArgumentParser()
    RECIPE.add_arguments(parser)
    calls = list[tuple[Path, dict[str, Any]]]()

    def record(folder: Path, **settings: Any) -> int:
        calls.append((folder, settings))
        return 0

    monkeypatch.setattr(train_command, function, record)
    arguments = parser.parse_args(list(given), argparse.Namespace(out=folder, seed=3))
    assert RECIPE.train(arguments) == 0
    (call,) = calls
    return call


def test_recipe_trains_the_number_of_frames(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {
        "seed": 3, "frames": 20_000_000, "prediction_frames": 5000, "threads": 1, "episodes": 7,
        "teacher": None, "size": "base", "layouts": 40, "bf16": False, "schedule_scale": 1.0,
    }  # fmt: skip
    settings["command"] = (
        "jepa-export train first_person --size base --seed 3 --layouts 40 --frames 20000000 "
        "--prediction-frames 5000"
    )
    given = ("--frames", "20000000", "--prediction-frames", "5000", "--threads", "1", "--episodes", "7")
    assert recorded_call(monkeypatch, tmp_path, *given, "--layouts", "40") == (tmp_path, settings)


def test_recipe_scales_the_schedule_if_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, settings = recorded_call(monkeypatch, tmp_path, "--schedule-scale", "0.1")
    assert settings["schedule_scale"] == 0.1
    assert "--schedule-scale 0.1" in settings["command"]


def test_recipe_with_distill_trains_a_teacher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ("--distill", "--frames", "90", "--masked-frames", "50", "--teacher-frames", "70")
    _, settings = recorded_call(monkeypatch, tmp_path, *given, "--odometry-weight", "0.5", "--size", "large")
    assert settings["size"] == "large"
    assert settings["teacher"] == TeacherTraining(masked_frames=50, frames=70, odometry_weight=0.5)
    assert settings["command"] == (
        "jepa-export train first_person --size large --seed 3 --layouts 5000 --frames 90 "
        "--prediction-frames 400000 --distill --masked-frames 50 --teacher-frames 70 --odometry-weight 0.5"
    )


def test_recipe_distills_from_the_joint_stage_if_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, settings = recorded_call(monkeypatch, tmp_path, "--distill", "--from-joint")
    assert settings["teacher"].starts_from_joint and settings["command"].endswith(" --from-joint")


def test_recipe_with_cloning_frames_trains_a_policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ("--cloning-frames", "700", "--threads", "1", "--precision", "bf16-mixed")
    _, settings = recorded_call(monkeypatch, tmp_path, *given, function="train_policy")
    command = "jepa-export train first_person --size base --seed 3 --layouts 5000"
    assert settings == {
        "layouts": 5000, "seed": 3, "frames": 700, "threads": 1, "bf16": True,
        "command": f"{command} --precision bf16-mixed --cloning-frames 700",
    }  # fmt: skip


def test_recipe_rejects_a_policy_of_another_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = ("--cloning-frames", "700", "--size", "small")
    with pytest.raises(UsageError, match="policies have the size base"):
        recorded_call(monkeypatch, tmp_path, *given, function="train_policy")


@pytest.mark.parametrize(
    "given",
    [
        ("--size", "huge"),
        ("--frames", "0"),
        ("--layouts", "0"),
        ("--threads", "0"),
        ("--precision", "bf16"),
        ("--odometry-weight", "-1"),
        ("--cloning-frames", "0"),
    ],
)
def test_recipe_rejects_values_out_of_range(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[str, str]
) -> None:
    with pytest.raises(SystemExit):
        recorded_call(monkeypatch, tmp_path, *given)
