"""The success benchmark: missed limits are reported, and its peer is fair."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.errors import BundleError
from jepa_sim.closed_loop.episodes import Driver, episode_seeds, run_episode
from jepa_sim.worlds import TwoRooms
from tests.errors import code
from tests.scripts import load

success = load("success")


def scores(fp32: float, int8: float, *, plan_ms: float = 10.0) -> dict[str, dict[str, Any]]:
    return {name: {"rate": rate, "plan_ms_p95": plan_ms} for name, rate in (("fp32", fp32), ("int8", int8))}


@pytest.mark.parametrize(
    ("report_scores", "failures"),
    [
        (scores(0.98, 0.97), []),
        (scores(0.97, 0.96), ["int8 reaches 96.0%"]),
        (scores(0.96, 0.97), ["fp32 reaches 96.0%"]),
        (scores(1.0, 0.985), ["int8 reaches 98.5% of the goals, required 99.0% (fp32)"]),
        (scores(0.98, 0.98, plan_ms=50.1), ["fp32 decides in 50.1 ms", "int8 decides in 50.1 ms"]),
        ({"int8": {"rate": 0.98, "plan_ms_p95": 50.0}}, []),
    ],
)
def test_missed_limit_is_reported(report_scores: dict[str, Any], failures: list[str]) -> None:
    messages = success.check_limits(report_scores, 0.97, 50.0)
    assert len(messages) == len(failures)
    assert all(failure in message for failure, message in zip(failures, messages, strict=True))


def test_emulated_duration_is_not_evaluated_but_goals_are() -> None:
    report_scores = scores(1.0, 1.0) | {"bf16": {"rate": 0.98, "plan_ms_p95": 900.0}}
    (failure,) = success.check_limits(report_scores, 0.97, 50.0, emulated=["bf16"])
    assert failure == "bf16 reaches 98.0% of the goals, required 99.0% (fp32)"
    assert len(success.check_limits(report_scores, 0.97, 50.0)) == 2


@pytest.mark.slow
def test_bundle_without_bf16_is_driven_in_it(
    two_rooms_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra export)")
    if not success.bf16.is_computed():
        pytest.skip("OpenVINO computes no bf16 on this CPU")
    monkeypatch.setattr("jepa_sim.worlds.two_rooms_world.MAX_STEPS", 2)
    out = tmp_path / "success.json"
    options = [
        "--bundle", str(two_rooms_bundle), "--episodes", "1", "--seed", "0", "--precision", "fp32", "bf16",
        "--no-peer", "--no-baselines", "--goal", "0", "--plan-ms", "1e6",
    ]  # fmt: skip
    assert success.main([*options, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert list(report["scores"]) == ["fp32", "bf16"]
    assert report["sha256"] == Bundle.open(two_rooms_bundle).sha256
    assert report["parity_bf16"].keys() == {"encoder", "predictor", "energy"}
    # Not fp32 under another name.
    assert report["parity_bf16"]["encoder"]["max_abs"] > 1e-4


def test_bf16_where_openvino_would_compute_fp32_is_rejected(
    two_rooms_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(success.bf16, "is_computed", lambda: False)
    out = tmp_path / "success.json"
    options = ["--bundle", str(two_rooms_bundle), "--precision", "fp32", "bf16", "--no-peer"]
    assert success.main([*options, "--json", str(out)]) == 2
    assert "neither computes nor emulates it on this processor" in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def peer() -> ModuleType:
    for package in ("torch", "onnx"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra export)")
    return load("peers.torch_cem")


def test_peer_has_the_networks_of_the_bundle_and_reaches_goals(
    peer: ModuleType, two_rooms_bundle: Path
) -> None:
    driver = Driver(peer.TorchCEM(Bundle.open(two_rooms_bundle), ControllerConfig()))
    world = TwoRooms(seed=0)
    driven = [run_episode(world, driver, seed=seed, step_s=0.2) for seed in episode_seeds((0,), 4)]
    assert sum(episode.outcome == "reached" for episode in driven) >= 3


def test_peer_respects_the_limits_and_refits_to_the_cheapest(
    peer: ModuleType, two_rooms_bundle: Path
) -> None:
    import torch

    manifest = Bundle.open(two_rooms_bundle).manifest
    search = peer._Search(ControllerConfig().search, manifest, 0)
    candidates = search.draw()
    assert tuple(candidates.shape) == (64, 8, 2)
    assert float(candidates.norm(dim=-1).max()) <= 1.25 * (1 + 1e-6)
    assert (candidates[0] == 0).all() and (candidates[-1] == candidates[-1, :1]).all()
    search.refit(candidates, -candidates[:, :, 0].sum(dim=1))
    assert float(search.next_action()[0]) > 0.3
    assert torch.isfinite(search.draw()).all()


def test_networks_with_different_outputs_are_rejected(
    peer: ModuleType, two_rooms_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "loaded", lambda module, _path: module.eval())
    with pytest.raises(BundleError, check=code("bundle.golden_mismatch")):
        peer.TorchCEM(Bundle.open(two_rooms_bundle), ControllerConfig())


def test_small_run_compares_all_in_one_report(
    peer: ModuleType, two_rooms_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("jepa_sim.worlds.two_rooms_world.MAX_STEPS", 5)
    out = tmp_path / "new" / "success.json"
    options = ["--bundle", str(two_rooms_bundle), "--episodes", "1", "--seed", "0", "--json", str(out)]
    assert success.main([*options, "--goal", "0", "--plan-ms", "1e6"]) == 0
    report = json.loads(out.read_text())
    assert list(report["scores"]) == ["fp32", "int8", "torch_cem", "straight_line", "random"]
    assert report["plan_time_ratio"].keys() == {"fp32", "int8"}
    assert min(report["plan_time_ratio"].values()) > 0
    assert "torch_cem takes" in capsys.readouterr().out
    assert (
        success.main([*options, "--goal", "1.01", "--no-peer", "--no-baselines", "--precision", "int8"]) == 1
    )
    assert list(json.loads(out.read_text())["scores"]) == ["int8"]
    assert np.isfinite(json.loads(out.read_text())["scores"]["int8"]["plan_ms_p50"])


def test_missing_torch_message_says_how_to_skip_the_peer(
    two_rooms_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(success, "find_spec", lambda _name: None)
    assert success.main(["--bundle", str(two_rooms_bundle), "--json", str(tmp_path / "s.json")]) == 2
    assert "pip install 'jepa-edge[export]' or use --no-peer" in capsys.readouterr().err
