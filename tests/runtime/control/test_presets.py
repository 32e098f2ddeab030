"""Settings of the field by name: their figures are those of their sources."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from jepa_runtime.control.presets import PRESETS, preset
from jepa_runtime.control.synchronous_controller import ControlConfig, search_of
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.mppi import MPPIConfig
from jepa_runtime.planning.planner import Planner


@pytest.mark.parametrize(
    ("name", "figures", "of_search"),
    [
        (
            "vjepa2_ac",
            {"iterations": 10, "energy": "l1", "reduction": "last_step", "replan_every": 1},
            {"num_samples": 400, "horizon": 2, "topk": 10, "init_std": 1.0}
            | {"momentum_mean": 0.15, "momentum_std": 0.15},
        ),
        (
            "lewm",
            {"iterations": 30, "energy": "mean_squared", "reduction": "last_step", "replan_every": 5},
            {"num_samples": 300, "horizon": 5, "topk": 30, "init_std": 1.0, "momentum_mean": 0.0},
        ),
        (
            "eb_jepa",
            {"iterations": 20, "energy": "mean_squared", "reduction": "sum", "replan_every": 1},
            {"num_samples": 200, "horizon": 90, "topk": 20, "temperature": 200.0, "refit_std": True}
            | {"init_std": pytest.approx(2 / 2.45)},
        ),
        (
            "two_rooms",
            {"iterations": 6, "energy": None, "reduction": "sum", "patience": 8, "escape_steps": 3},
            {"num_samples": 64, "horizon": 8, "topk": 8, "init_std": 0.8, "min_std": 0.1},
        ),
    ],
)
def test_the_figures_are_those_of_the_source(
    name: str, figures: dict[str, Any], of_search: dict[str, Any]
) -> None:
    settings = asdict(preset(name))
    assert settings | figures == settings
    assert settings["search"] | of_search == settings["search"]


@pytest.mark.parametrize("name", ["vjepa2_ac", "lewm", "eb_jepa"])
def test_what_the_field_has_not_is_off(name: str) -> None:
    settings = preset(name)
    assert settings.patience is None
    assert settings.search.constant_fraction == settings.search.min_std == settings.search.noise_beta == 0


def test_only_eb_jepa_plans_by_path_integrals() -> None:
    assert [name for name in PRESETS if isinstance(preset(name).search, MPPIConfig)] == ["eb_jepa"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_comes_nearer_to_a_point_that_sums_of_actions_reach(name: str) -> None:
    settings = preset(name)
    limits = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
    search = search_of(settings.search, limits, seed=0)
    planner = Planner(search, iterations=settings.iterations, reduction=settings.reduction)
    target = np.float32([0.8, -0.6])

    def energies(actions: np.ndarray) -> np.ndarray:
        return np.square(actions.cumsum(axis=1) - target).sum(axis=-1)

    at_first = energies(search.mean[None])[0]
    found = energies(planner.plan(energies).mean[None])[0]
    judged = slice(-1, None) if settings.reduction == "last_step" else slice(None)
    assert found[judged].sum() < 0.7 * at_first[judged].sum()


@pytest.mark.parametrize("name", ["vjepa2_ac", "lewm", "eb_jepa"])
def test_each_plan_of_the_field_begins_as_its_first_did(name: str) -> None:
    settings = preset(name)
    limits = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
    search, fresh = (search_of(settings.search, limits, seed=seed) for seed in (0, 1))
    planner = Planner(search, iterations=settings.iterations, reduction=settings.reduction)
    planner.plan(lambda actions: np.square(actions - np.float32([0.8, -0.6])).sum(axis=-1))
    search.shift(settings.replan_every)
    np.testing.assert_array_equal(search.mean, fresh.mean)
    assert search.ask().std() == pytest.approx(fresh.ask().std(), rel=0.05)


def test_ours_are_what_a_controller_does_without_another_word() -> None:
    assert preset("two_rooms") == ControlConfig()


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(JepaRuntimeError, match="'dreamer'; there are: vjepa2_ac, lewm, eb_jepa, two_rooms"):
        preset("dreamer")
