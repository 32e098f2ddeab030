"""Behavior cloning: the policy learns what the expert says, resumes exactly, and is read back."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_export.errors import JepaExportError
from jepa_recipes.first_person import cloning, train_command
from jepa_recipes.first_person.batches import draw_batch
from jepa_recipes.first_person.cloning import CloningBatch, Policy, PolicyGraph, advise, evaluate_policy
from jepa_recipes.first_person.expert import Expert
from jepa_recipes.first_person.library import DriveLibrary
from jepa_recipes.first_person.networks import Networks, create_networks
from jepa_recipes.first_person.policy_files import write_policy
from jepa_recipes.first_person.sizes import STUDENT
from jepa_recipes.first_person.train_command import train_policy
from jepa_recipes.first_person.training import clone, train
from jepa_sim.closed_loop.first_person.cloned_policy import ClonedPolicy
from tests.errors import code
from tests.recipes.first_person.runs import BATCH, TINY, assert_same, checkpoint, interrupt, tables

STEPS = 7


def clone_tiny(folder: Path, steps: int = STEPS, **settings: Any) -> Policy:
    return clone(
        folder,
        **{
            "seed": 0,
            "frames": steps * BATCH,
            "recipe": TINY,
            "amount": TINY.amount,
            "threads": 1,
            "checkpoint_every": 2,
        }
        | settings,
    )


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    return Policy(create_networks(STUDENT)).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny run with a joint stage."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_tiny(folder, 5)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def train_tiny(folder: Path, steps: int) -> Networks:
    frames = steps * BATCH
    return train(folder, seed=0, frames=frames, prediction_frames=BATCH, recipe=TINY, threads=1)


def test_advice_is_that_of_the_expert_in_the_layout_of_each_drive(drives: DriveLibrary) -> None:
    batch = draw_batch(drives, TINY.amount, 0, 5)
    advice = advise(drives, batch)
    frames = TINY.amount.clips.frames
    for pair in (0, -1):
        first, second = (int(numbers[pair]) for numbers in batch.pairs)
        drive = first // frames
        poses = batch.clips.poses[drive]
        expert = Expert(drives.layouts, int(batch.clips.which[drive]))
        command, distance_m = expert.advise(poses[first % frames], poses[second % frames])
        np.testing.assert_allclose(advice.commands[pair], command, atol=1e-6)
        assert advice.distances_m[pair] == pytest.approx(distance_m)


def test_graph_has_the_units_of_the_advice(drives: DriveLibrary, policy: Policy) -> None:
    """What the head learns becomes speed, turning rate and distance again."""
    advice = advise(drives, draw_batch(drives, TINY.amount, 0, 5))
    targets = advice.targets()
    graph = PolicyGraph(policy.head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(graph.head), "forward", lambda *_: targets)
        found = graph(torch.zeros(0), torch.zeros(0)).numpy()
    np.testing.assert_allclose(found[:, :2], advice.commands, atol=1e-5)
    np.testing.assert_allclose(found[:, 2], advice.distances_m, atol=1e-5)


def test_policy_starts_from_the_networks_of_the_joint_stage() -> None:
    networks = create_networks(STUDENT)
    policy = Policy(networks)
    assert policy.encoder is networks.encoder
    own, of_poses = policy.head.state_dict(), networks.head.state_dict()
    assert own.keys() == {name for name in of_poses if not name.startswith("gate.")}
    for name in own:
        if name.startswith("output.2."):
            assert len(own[name]) == 3
        else:
            assert torch.equal(own[name], of_poses[name]), name


def test_cloning_resumes_with_identical_losses_and_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = tmp_path / "finished"
    shutil.copytree(run, finished)
    clone_tiny(finished)
    interrupt(monkeypatch, "cloning", 5)
    with pytest.raises(KeyboardInterrupt):
        clone_tiny(run)
    monkeypatch.undo()
    clone_tiny(run)
    assert tables(run) == tables(finished)
    assert_same(checkpoint(run, "cloning"), checkpoint(finished, "cloning"))


def test_cloning_starts_over_after_a_longer_joint_stage(run: Path) -> None:
    clone_tiny(run, 2)
    before = checkpoint(run, "cloning")
    train_tiny(run, 6)
    policy = clone_tiny(run, 2)
    after = checkpoint(run, "cloning")
    assert after["extra"]["depends_on"] == {"joint": 6} != before["extra"]["depends_on"]
    encoder = {
        name.removeprefix("encoder."): weights
        for name, weights in checkpoint(run, "joint")["modules"].items()
        if name.startswith("encoder.")
    }
    assert_same(dict(policy.encoder.state_dict()), encoder)


def test_cloning_without_a_joint_stage_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(JepaExportError, check=code("training.no_joint_stage")):
        clone_tiny(tmp_path)
    assert not list(tmp_path.iterdir())


def test_cloning_on_one_batch_lowers_the_losses(
    drives: DriveLibrary, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(TINY.amount.schedule, evaluation=1000 * BATCH)
    amount = replace(TINY.amount, schedule=schedule)
    batch = draw_batch(drives, amount, 0, 0)
    drawn = CloningBatch(batch, advise(drives, batch))
    monkeypatch.setattr(cloning.CloningStage, "draw", lambda *_: drawn)
    clone_tiny(run, 40, amount=amount, checkpoint_every=100)
    rows = list(csv.DictReader((run / "checkpoints" / "cloning.csv").open()))
    for name in ("command", "distance"):
        losses = [float(row[name]) for row in rows]
        assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3]), name


def test_policy_read_from_its_files_decides_as_the_trained_one(policy: Policy, tmp_path: Path) -> None:
    write_policy(policy, tmp_path, command="a test", joint_steps=5, errors={"speed_mps": 0.1})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2_000_000
    assert json.loads((tmp_path / "policy.json").read_text())["command"] == "a test"
    images = np.random.default_rng(0).integers(0, 255, (20, 72, 96, 3)).astype(np.uint8)
    with torch.no_grad():
        latents = policy.encoder(torch.from_numpy(images))
        expected = PolicyGraph(policy.head)(latents, latents[:1]).numpy()
    read = ClonedPolicy(tmp_path)
    encoded = np.stack([read.encode(image) for image in images])
    np.testing.assert_allclose(encoded, latents.numpy(), atol=0.02)
    # Weights are rounded to fp16.
    np.testing.assert_allclose(read.distances(encoded, encoded[0]), expected[:, 2], atol=0.01)
    decision = read.decide(encoded[-1], encoded[0])
    np.testing.assert_allclose([*decision.command, decision.distance_m], expected[-1], atol=0.01)
    read.close()


def test_evaluation_of_a_policy_without_errors_is_zero(drives: DriveLibrary, policy: Policy) -> None:
    errors = evaluate_policy(policy, drives, batches=1)
    assert errors["speed_mps"] > 0.05 and errors["median_turn_radps"] > 0.1
    with pytest.MonkeyPatch.context() as patch:
        targets: list[torch.Tensor] = []
        ask = cloning.advise

        def remember(library: DriveLibrary, batch: Any) -> cloning.Advice:
            targets.append(ask(library, batch).targets())
            return ask(library, batch)

        patch.setattr(cloning, "advise", remember)
        evaluate_policy(policy, drives, batches=1)
        patch.setattr(type(policy.head), "forward", lambda *_: targets[0])
        perfect = evaluate_policy(policy, drives, batches=1)
    assert [perfect[name] for name in ("speed_mps", "turn_radps", "log_distance")] == [0, 0, 0]
    assert perfect["median_turn_radps"] == errors["median_turn_radps"]


def test_train_policy_writes_the_trained_policy(
    drives: DriveLibrary, policy: Policy, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_command, "clone", lambda *_, **__: policy)
    monkeypatch.setattr(train_command, "sample_drives", lambda *_, **__: (drives, drives))
    monkeypatch.setattr(train_command, "_POLICY_BATCHES", 1)
    assert train_policy(run, layouts=7, seed=3, frames=240, threads=1, bf16=False, command="a test") == 0
    provenance = json.loads((run / "policy" / "policy.json").read_text())
    assert provenance["held_out_errors"] and provenance["joint_steps"] == 5
    ClonedPolicy(run / "policy").close()
