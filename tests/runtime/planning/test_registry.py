"""The registry of searches: built-in ones, those of packages by entry point, and its use by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_runtime.control.presets import preset
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.action_limits import ActionLimits
from jepa_runtime.planning.cem import CEM, CEMConfig
from jepa_runtime.planning.registry import create_search, find_search, search_names
from jepa_runtime.planning.search import Search
from jepa_runtime.planning.search_method import SearchContext, SearchMethod
from jepa_runtime.planning.steering import Steering, SteeringConfig
from tests.errors import code

LIMITS = ActionLimits(low=np.full(2, -1, np.float32), high=np.ones(2, np.float32))
BUILT_IN = ["cem", "mppi", "policy_cem", "refined_cem", "hierarchical_cem", "steering"]


class ToyConfig(CEMConfig):
    METHOD = "toy"


TOY = SearchMethod(
    name="toy",
    summary="a toy",
    source="none",
    config=ToyConfig,
    create=lambda config, context: CEM(config, context.limits, seed=context.seed),
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with searches."""
    described = tmp_path / "toy_search-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-search\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        f"[jepa_runtime.searches]\ntoy = {__name__}:TOY\ncem = {__name__}:TOY\n"
        f"lost = no.such.module:SEARCH\nother = {__name__}:TOY\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_search_declares_its_settings_and_source(name: str) -> None:
    method = find_search(name)
    settings = method.config()
    assert method.name == settings.METHOD == name and method.source and method.summary
    assert settings.fitted(horizon=3, num_samples=4).horizon == 3
    if "goal_pose" not in method.requires:
        assert method.config(num_samples=8, horizon=2, topk=2).topk == 2


def test_names_are_those_of_this_package() -> None:
    assert search_names() == BUILT_IN


@pytest.mark.parametrize("name", ["cem", "mppi", "policy_cem", "refined_cem"])
def test_create_search_returns_the_search_of_the_settings(name: str) -> None:
    search = create_search(find_search(name).config(), SearchContext(limits=LIMITS, seed=0))
    assert isinstance(search, Search) and name == search.config.METHOD


def test_create_search_steering_uses_the_robot() -> None:
    context = SearchContext(limits=LIMITS, seed=0, step_s=0.2, action_names=("linear.x", "angular.z"))
    assert isinstance(create_search(SteeringConfig(), context), Steering)


@pytest.mark.usefixtures("package")
def test_package_adds_a_search_but_cannot_override_ours() -> None:
    assert search_names() == [*BUILT_IN, "toy", "lost", "other"]
    assert find_search("toy") is not find_search("cem") and find_search("cem").config is CEMConfig
    assert isinstance(create_search(ToyConfig(), SearchContext(limits=LIMITS, seed=0)), CEM)
    assert preset("toy").search.METHOD == "toy"


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["lost", "other"])
def test_broken_package_raises(name: str) -> None:
    with pytest.raises(JepaRuntimeError, check=code("planner.plugin_invalid")):
        find_search(name)


def test_unknown_search_error_lists_the_known_ones() -> None:
    with pytest.raises(JepaRuntimeError, check=code("planner.unknown_search")) as error:
        find_search("dreamer")
    assert all(name in str(error.value) for name in BUILT_IN)
    with pytest.raises(JepaRuntimeError, check=code("planner.unknown_preset")) as error:
        preset("dreamer")
    assert "refined_cem" in str(error.value) and "lewm" in str(error.value)
