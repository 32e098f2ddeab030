"""benchmarks/planning.py: the exported rollout is LeWM's, and a small run reports what it measured."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_export.distillation.teacher import open_teacher
from jepa_runtime.backends.select import create_backend
from tests.scripts import load

planning = load("planning")


def test_the_exported_rollout_predicts_what_lewm_predicts(tmp_path: Path) -> None:
    model = open_teacher("lewm", untrained=True, depth=1, seed=0, accept_non_commercial=False).model
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((1, 1, 192), dtype=np.float32)
    actions = rng.standard_normal((3, 5, 10), dtype=np.float32)
    graph = planning.export(model, 5, tmp_path)
    with closing(create_backend("openvino:CPU")) as backend:
        session = backend.load(graph, {"latent": latent.shape, "actions": actions.shape})
        session.inputs["latent"][:], session.inputs["actions"][:] = latent, actions
        futures = session.run()["futures"].copy()
        session.close()
    with torch.no_grad():
        expected = model.rollout(torch.from_numpy(latent).expand(3, -1, -1), torch.from_numpy(actions))
    assert np.abs(np.diff(futures, axis=0)).max() > 1e-4  # Actions matter.
    np.testing.assert_allclose(futures, expected.numpy(), atol=1e-4)


def test_a_small_run_reports_every_search_and_how_often_it_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "new" / "planning.json"
    assert planning.main(["--plans", "0", "--iterations", "25", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["search"]["lewm"]["candidates"] == [300, 5, 10]
    assert set(report["search"]) == set(planning.PRESETS)
    for found in report["search"].values():
        for part in ("ask", "tell"):
            assert found["ms"][part]["n"] == 25 and found["ms"][part]["p50"] > 0
    assert report["lewm"] is None


def test_a_plan_is_measured_in_all_its_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(planning.preset("two_rooms"), iterations=2)
    monkeypatch.setattr(planning, "preset", lambda _: few)
    found = planning.lewm_plans(2, threads=1, depth=1)
    assert found["candidates"] == [64, 8, 10] and found["blocks"] == 1
    assert found["predict_ms"]["n"] == 4 and found["plan_ms"]["n"] == 2
    assert 0 < found["share_of_search"] < 1
