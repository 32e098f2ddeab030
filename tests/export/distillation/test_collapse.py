"""Collapse is detected if and only if latents no longer distinguish frames."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_export.distillation.collapse import CollapseAlarm, LatentStatistics, latent_statistics
from jepa_export.errors import JepaExportError
from tests.errors import code

GOOD, BAD = LatentStatistics(rank=5, std=0.5), LatentStatistics(rank=1, std=0.5)


@settings(max_examples=25)
@given(rank=st.integers(2, 12), seed=st.integers(0, 1000))
def test_isotropic_latents_have_full_rank(rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(24, rank, generator=generator))[0]
    signs = torch.cat([torch.eye(rank), -torch.eye(rank)])
    statistics = latent_statistics(3 + (signs @ basis.T).unflatten(1, (4, 6)))
    assert statistics.rank == pytest.approx(rank, rel=0.01)
    assert not statistics.collapsed


def test_single_latent_for_all_frames_is_a_collapse() -> None:
    assert latent_statistics(torch.randn(1, 4, 8).expand(32, -1, -1)).collapsed


def test_small_noise_around_one_latent_is_a_collapse_despite_its_rank() -> None:
    statistics = latent_statistics(torch.randn(1, 4, 8) + 1e-3 * torch.randn(32, 4, 8))
    assert statistics.rank > 10 and statistics.collapsed


def test_frames_along_one_line_are_a_collapse_despite_their_spread() -> None:
    statistics = latent_statistics(torch.linspace(-1, 1, 32)[:, None, None] * torch.randn(4, 8))
    assert statistics.std > 0.1 and statistics.collapsed


def test_non_finite_latents_are_a_collapse() -> None:
    assert LatentStatistics(rank=float("nan"), std=0.5).collapsed
    assert latent_statistics(torch.full((4, 2, 8), float("nan"))).collapsed


@given(healthy=st.lists(st.booleans(), max_size=30), limit=st.integers(1, 5))
def test_training_ends_at_the_first_run_of_collapses_of_the_limit(healthy: list[bool], limit: int) -> None:
    alarm, row, ended = CollapseAlarm(limit), 0, False
    for step, good in enumerate(healthy):
        row = 0 if good else row + 1
        try:
            assert (alarm.update(GOOD if good else BAD, step) is None) == good
        except JepaExportError as error:
            assert f"step {step}" in str(error) and "--allow-collapse" in str(error)
            ended = True
            break
        assert row < limit
    assert ended == (row >= limit)


def test_monitor_without_a_limit_only_warns() -> None:
    alarm = CollapseAlarm(None)
    assert all(alarm.update(BAD, step) for step in range(100))


def test_collapses_before_a_restart_count() -> None:
    with pytest.raises(JepaExportError, check=code("training.collapse")):
        CollapseAlarm(3, count=2).update(BAD, 7)
