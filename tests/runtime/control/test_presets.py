"""Planner presets: the values of published ones are those of their sources."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from jepa_runtime.control.config import ControllerConfig
from jepa_runtime.control.presets import PRESETS, preset
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.mppi import MPPIConfig
from jepa_runtime.planning.planner import Planner
from jepa_runtime.planning.registry import create_search
from jepa_runtime.planning.search_method import SearchContext
from tests.errors import code

SEARCHES = [name for name in PRESETS if name != "steering"]


@pytest.mark.parametrize(
    ("name", "figures", "of_search"),
    [
        (
            "vjepa2_ac",
            {"extra_iterations": 10, "energy": "l1", "reduction": "last_step", "images_per_step": 1},
            {"num_samples": 400, "horizon": 2, "topk": 10, "init_std": 1.0}
            | {"momentum_mean": 0.15, "momentum_std": 0.15},
        ),
        (
            "lewm",
            {
                "extra_iterations": 30,
                "energy": "mean_squared",
                "reduction": "last_step",
                "images_per_step": 1,
            },
            {"num_samples": 300, "horizon": 5, "topk": 30, "init_std": 1.0, "momentum_mean": 0.0},
        ),
        (
            "eb_jepa",
            {"extra_iterations": 20, "energy": "mean_squared", "reduction": "sum", "images_per_step": 1},
            {"num_samples": 200, "horizon": 90, "topk": 20, "temperature": 200.0, "refit_std": True}
            | {"init_std": pytest.approx(2 / 2.45)},
        ),
        (
            "two_rooms",
            {"extra_iterations": 0, "energy": None, "reduction": "sum", "images_per_step": 6},
            {"num_samples": 64, "horizon": 8, "topk": 8, "init_std": 0.8, "min_std": 0.1},
        ),
    ],
)
def test_preset_values_equal_those_of_the_source(
    name: str, figures: dict[str, Any], of_search: dict[str, Any]
) -> None:
    settings = asdict(preset(name))
    assert settings | figures == settings
    assert settings["search"] | of_search == settings["search"]


@pytest.mark.parametrize("name", ["vjepa2_ac", "lewm", "eb_jepa"])
def test_options_absent_from_the_source_are_off(name: str) -> None:
    settings = preset(name)
    assert settings.reached_after == 1 and settings.recovery_s == 0
    assert settings.search.constant_fraction == settings.search.min_std == settings.search.noise_beta == 0


def test_only_eb_jepa_uses_mppi() -> None:
    assert [name for name in PRESETS if isinstance(preset(name).search, MPPIConfig)] == ["eb_jepa"]


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_by_energies_approaches_a_reachable_point(name: str) -> None:
    settings = preset(name)
    limits = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
    search = create_search(settings.search, SearchContext(limits=limits, seed=0))
    planner = Planner(search, iterations=settings.iterations_per_step, reduction=settings.reduction)
    target = np.float32([0.8, -0.6])

    def energies(actions: np.ndarray) -> np.ndarray:
        return np.square(actions.cumsum(axis=1) - target).sum(axis=-1)

    at_first = energies(search.mean[None])[0]
    result = energies(planner.plan(energies).mean[None])[0]
    evaluated = slice(-1, None) if settings.reduction == "last_step" else slice(None)
    assert result[evaluated].sum() < 0.7 * at_first[evaluated].sum()


@pytest.mark.parametrize("name", ["vjepa2_ac", "lewm", "eb_jepa"])
def test_preset_plans_start_as_their_first_one(name: str) -> None:
    settings = preset(name)
    limits = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
    search, fresh = (
        create_search(settings.search, SearchContext(limits=limits, seed=seed)) for seed in (0, 1)
    )
    planner = Planner(search, iterations=settings.iterations_per_step, reduction=settings.reduction)
    planner.plan(lambda actions: np.square(actions - np.float32([0.8, -0.6])).sum(axis=-1))
    search.shift()
    np.testing.assert_array_equal(search.mean, fresh.mean)
    assert search.ask().std() == pytest.approx(fresh.ask().std(), rel=0.05)


def test_preset_two_rooms_has_the_defaults() -> None:
    assert preset("two_rooms") == ControllerConfig()


def test_preset_unknown_name_raises_with_the_known_ones() -> None:
    with pytest.raises(JepaRuntimeError, check=code("planner.unknown_preset")) as error:
        preset("dreamer")
    assert all(name in str(error.value) for name in PRESETS)


@pytest.mark.parametrize(
    "wrong", [{"images_per_step": 0}, {"extra_iterations": -1}, {"reached_after": 0}, {"energy": "l3"}]
)
def test_controller_config_out_of_range_raises(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ControllerConfig(**wrong)


@pytest.mark.parametrize("name", SEARCHES)
def test_controller_config_fitted_is_reduced_to_what_the_model_predicts(name: str) -> None:
    usual = preset(name)
    fitted = usual.fitted(horizon=3, num_samples=6)
    assert fitted.search.horizon == min(3, usual.search.horizon)
    assert fitted.search.num_samples == 6 and fitted.search.topk == 6
    assert usual.fitted(horizon=1000) == usual
