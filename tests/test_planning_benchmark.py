"""benchmarks/planning.py and lewm.py: small runs report correct measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_export.students.family import randomize
from tests.scripts import load

planning, lewm = load("planning"), load("lewm")
lewm_world, variants = load("peers.lewm_world"), load("peers.lewm_variants")


def test_small_run_reports_every_search_and_its_repetitions(tmp_path: Path) -> None:
    out = tmp_path / "new" / "planning.json"
    assert planning.main(["--iterations", "25", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["search"]["lewm"]["candidates"] == [300, 5, 10]
    assert set(report["search"]) == set(planning.ACTION_SIZES)
    for measured in report["search"].values():
        for part in ("ask", "tell"):
            assert measured["ms"][part]["n"] == 25 and measured["ms"][part]["p50"] > 0


def test_walls_stop_the_point_and_five_displacements_are_one_action() -> None:
    world = lewm_world.World(192)
    right = np.tile(np.float32([1, 0]), 5)
    moved = world.move(np.float32([[0, 0], [0.9, 0.5]]), np.stack([right, right]))
    np.testing.assert_allclose(moved, [[5 * lewm_world.REACH, 0], [1, 0.5]], atol=1e-6)
    places, actions = world.walk(np.random.default_rng(0), 3, 4)
    np.testing.assert_array_equal(places[:, 2], world.move(places[:, 1], actions[:, 1]))
    assert np.abs(actions).max() <= 1
    latents = world.encode(places)
    np.testing.assert_allclose(
        [latents.mean(-1), latents.std(-1)], [np.zeros((3, 5)), np.ones((3, 5))], atol=1e-5
    )


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return an untrained problem of LeWM's sizes, except for its depth, that depends on its actions."""
    folder = tmp_path_factory.mktemp("lewm")
    model, world = lewm_world.trained(1, folder, depth=1)
    student = lewm_world.trained_student(model, world, 1, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.nn.init.normal_(model.blocks[0].modulation[1].weight, std=0.1)
    randomize(student, seed=0)
    samples = list(lewm.calibration(world, 5))[:1]
    yield variants.Problem(
        model=model, student=student, count=32, horizon=5, threads=1, samples=samples, folder=folder
    )


@pytest.mark.parametrize("name", [name for name in variants.VARIANTS if name != "loop torch.compile"])
def test_every_implementation_predicts_like_its_network(problem: Any, name: str) -> None:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal(192, dtype=np.float32)
    actions = rng.uniform(-1, 1, (32, 5, 10)).astype(np.float32)
    with ExitStack() as stack:
        actual = variants.VARIANTS[name](problem, stack)(latent, actions).copy()
    with torch.inference_mode():
        known, acted = torch.from_numpy(latent), torch.from_numpy(actions)
        if name.startswith("student"):
            expected = problem.student(known[None, None, None], acted)[:, :, 0].numpy()
        else:
            expected = problem.model.rollout(known.expand(32, 1, -1), acted).numpy()
    assert np.abs(np.diff(expected, axis=0)).max() > 1e-3  # Actions matter.
    allowed = {"ours int8": 0.2, "student int8": 0.2, "ours bf16": 0.1}.get(name, 1e-4)
    assert np.abs(actual - expected).max() < allowed * np.abs(expected).max()


def test_rollout_with_caching_multiplies_less(problem: Any) -> None:
    assert problem.multiply_adds(variants.rollout) < 0.75 * problem.multiply_adds(variants.loop)


def test_student_of_the_lewm_size_learns_the_dynamics(tmp_path: Path) -> None:
    model, world = lewm_world.trained(1, tmp_path, depth=1)
    places, actions = world.walk(np.random.default_rng(1), 64, 4)
    latents = torch.from_numpy(world.encode(places))[:, :, None]

    def error(steps: int) -> float:
        student = lewm_world.trained_student(model, world, steps, tmp_path)
        with torch.inference_mode():
            predicted = student.next_latents(latents[:, :-1], torch.from_numpy(actions))
        return float((predicted - latents[:, 1:]).square().mean())

    assert error(60) < 0.8 * error(1)


def test_product_count_equals_the_counted_one(problem: Any) -> None:
    with ExitStack() as stack:
        variants.products_alone(problem, stack, 32, "int8")()
    graph = variants.Graph.read(problem.folder / "products_int8.xml")
    assert variants.multiply_adds(graph, {"rows": (32, 192)}) == lewm.multiply_adds(32)


def test_plan_reaches_its_goal_with_an_exact_model() -> None:
    world, settings = lewm_world.World(192), lewm.preset("lewm")

    def perfect(latent: np.ndarray, actions: np.ndarray) -> np.ndarray:
        places = np.repeat(start[None], len(actions), axis=0)
        for step in range(actions.shape[1]):
            places = world.move(places, actions[:, step])
        return world.encode(places)[:, None]

    start, goal = np.float32([-0.4, 0.2]), np.float32([0.5, -0.3])
    plan = lewm.plan(perfect, settings, world.encode(start), world.encode(goal), seed=0)
    end = start
    for action in plan.mean:
        end = world.move(end, action)
    assert np.linalg.norm(end - goal) < 0.05


@pytest.mark.slow
def test_small_run_times_every_implementation_and_checks_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = lewm.preset("lewm")
    few = replace(full, extra_iterations=2, search=replace(full.search, num_samples=32, topk=4))
    monkeypatch.setattr(lewm, "preset", lambda _: few)
    monkeypatch.setattr(lewm, "ROOT", tmp_path)
    monkeypatch.setattr(lewm, "CALIBRATION", (1, 32))
    out = tmp_path / "new" / "lewm.json"
    arguments = ["--depth", "1", "--training", "2", "--rounds", "2", "--calls", "1", "--plans", "2"]
    arguments += ["--problems", "2", "--threads", "1", "--variants", "loop torch", "--json", str(out)]
    assert lewm.main([*arguments, "--limit", "1e-4"]) == 1
    report = json.loads(out.read_text())
    names = set(report["iteration_ms"])
    assert names == {"student int8", "ours int8", "ours fp32", "loop torch"}
    timed = [*report["iteration_ms"].values(), *report["products_ms"].values()]
    assert all(of["n"] == 2 and of["p50"] > 0 for of in timed)
    assert {len(values) for values in report["plan_s"].values()} == {2}
    remaining = report["parity"]["remaining"]
    assert set(remaining) == {
        *(name for name in names if name != "loop torch"),
        lewm.ANYTIME,
        lewm.OTHER_SEED,
    }
    output = capsys.readouterr().out
    for name, (plan, parity) in zip(
        ("student int8", "ours int8"), (report["limits"][:2], report["limits"][2:4]), strict=True
    ):
        assert not plan["met"] and f"missed: plan: {plan['metric']}" in output
        difference = remaining[name]["distance"]["mean"] - remaining["ours fp32"]["distance"]["mean"]
        assert parity["value"] == pytest.approx(difference, abs=1e-5)
    longest, parity = report["limits"][4:]
    assert not longest["met"] and report["parity"]["anytime"]["iterations"] == [1, 1]
    difference = remaining[lewm.ANYTIME]["distance"]["mean"] - remaining["ours fp32"]["distance"]["mean"]
    assert parity["value"] == pytest.approx(difference, abs=1e-5)
