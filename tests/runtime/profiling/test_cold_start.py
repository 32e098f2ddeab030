"""The cold-start pass of ``jepa-runtime profile``."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from unittest.mock import MagicMock, Mock, PropertyMock

import pytest

from jepa_runtime.errors import ProfileError
from jepa_runtime.profiling import cold_start
from tests.errors import code


def start(bundle: Path) -> cold_start.Start:
    return cold_start.Start(bundle=bundle, engine="openvino:CPU", precision=None, num_samples=16, threads=1)


def test_cache_states_of_prebuilt_engine_are_hit_only() -> None:
    assert cold_start.cache_states("tensorrt:0") == ("hit",)
    assert cold_start.cache_states("openvino:NPU") == ("miss", "hit")


def test_cold_start_measures_phases_with_empty_and_full_cache(toy_bundle: Path) -> None:
    done: list[None] = []
    miss, hit = cold_start.measure(
        start(toy_bundle), stopping=Event(), repetitions=1, tick=lambda: done.append(None)
    )
    assert (miss.cache, hit.cache) == ("miss", "hit")
    assert len(done) == 2
    for result in (miss, hit):
        phases = {name: values[0] for name, values in result.phases_ms.items()}
        assert min(phases.values()) > 0
        assert phases["import"] > 10
        counted = sum(value for name, value in phases.items() if not name.startswith("steady"))
        assert result.total_ms[0] == pytest.approx(counted, abs=0.01)


@pytest.mark.parametrize("builds", [False, True])
def test_cold_start_uses_a_new_cache_per_repetition_or_the_given_one(
    builds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caches: list[Path] = []

    def run(request: cold_start.Start, cache: Path) -> dict[str, float]:
        caches.append(cache)
        names = ("import", "open", "compile", "first_encode", "first_predict", "steady_encode")
        return {name: len(caches) + 10.0**index for index, name in enumerate(names)}

    monkeypatch.setattr(cold_start, "_run", run)
    engine = "tensorrt:0" if builds else "openvino:CPU"
    result = cold_start.measure(
        replace(start(tmp_path), engine=engine, cache_dir=tmp_path), stopping=Event(), repetitions=2
    )
    if builds:
        assert caches == [tmp_path] * 2
    else:
        assert caches[0] == caches[1] != caches[2] == caches[3] and tmp_path not in caches
    assert [each.cache for each in result] == (["hit"] if builds else ["miss", "hit"])
    assert result[-1].phases_ms["open"] == ([11.0, 12.0] if builds else [12.0, 14.0])
    assert result[-1].total_ms == ([11116.0, 11121.0] if builds else [11121.0, 11131.0])


def test_cold_start_phases_are_consecutive(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments_ns = iter([17_000_000, 19_000_000, 22_000_000, 27_000_000])
    monkeypatch.setattr(cold_start, "time", Mock(perf_counter_ns=partial(next, moments_ns)))
    timings = [{"encode": float(run), "predict": 10.0} for run in range(1, 21)]
    model = MagicMock(num_samples=7)
    model.__enter__.return_value = model
    type(model).timings = PropertyMock(side_effect=[each for each in timings for _ in each])
    monkeypatch.setattr(cold_start, "WorldModel", Mock(open=Mock(return_value=model)))
    messages = {
        "bundle": str(toy_bundle), "engine": "openvino:CPU", "precision": "fp32", "num_samples": 7,
        "threads": 2, "cache_dir": str(tmp_path), "spawned_ns": 5_000_000,
    }  # fmt: skip
    assert cold_start._phases(messages, 16_000_000) == {
        "import": 11.0, "open": 1.0, "compile": 2.0, "first_encode": 3.0, "first_predict": 5.0,
        "steady_encode": 10.5, "steady_predict": 10.0,
    }  # fmt: skip
    request = cold_start.WorldModel.open.call_args.kwargs
    options = request.pop("options")
    assert (options.threads, options.cache_dir) == (2, tmp_path)
    assert request == {
        "engine": "openvino:CPU", "precision": "fp32", "num_samples": 7, "allow_untrained": True,
    }  # fmt: skip


def test_failed_cold_start_reports_the_error_of_its_process(toy_bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(toy_bundle, broken)
    (broken / "golden.npz").write_bytes(b"")
    with pytest.raises(ProfileError, check=code("profile.cold_start_failed")) as caught:
        cold_start.measure(start(broken), stopping=Event(), repetitions=1)
    assert "golden.npz" in str(caught.value)


def test_stopped_cold_starts_keep_earlier_ones(toy_bundle: Path) -> None:
    stopping = Event()
    (miss,) = cold_start.measure(start(toy_bundle), stopping=stopping, tick=stopping.set)
    assert miss.cache == "miss" and len(miss.total_ms) == 1


def test_cold_start_of_a_model_that_reads_states_is_measured(arm_bundle: Path) -> None:
    miss, hit = cold_start.measure(start(arm_bundle), stopping=Event(), repetitions=1)
    assert miss.phases_ms["first_predict"][0] > 0 and hit.phases_ms["steady_predict"][0] > 0
