"""Layouts of the first-person world: every room can be reached, doors are clear, and seeds decide."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")

from jepa_sim.worlds.first_person.layouts import Layout, pack, sample_layout
from jepa_sim.worlds.first_person.motion import clearance
from jepa_sim.worlds.first_person.paths import DistanceField
from jepa_sim.worlds.first_person.recordings import free_pose


def sampled(count: int) -> list[Layout]:
    return [sample_layout(np.random.default_rng(seed), held_out=seed % 2 == 0) for seed in range(count)]


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)])
def test_doors_join_all_rooms(shape: tuple[int, int]) -> None:
    for seed in range(20):
        layout = sample_layout(np.random.default_rng(seed), held_out=False, shape=shape)
        assert len(layout.rooms) == shape[0] * shape[1]
        reached = {0}
        for _ in layout.doors:
            reached |= {room for door in layout.doors if reached & {*door.rooms} for room in door.rooms}
        assert reached == {*range(len(layout.rooms))}


def test_robot_reaches_every_room_from_every_free_pose() -> None:
    for seed, layout in enumerate(sampled(12)):
        packed, rng = pack([layout]), np.random.default_rng(seed)
        goal = free_pose(packed, layout, rng)
        field = DistanceField(packed, 0, goal)
        rooms = set()
        for _ in range(60):
            start = free_pose(packed, layout, rng, 0.12)
            path = field.path(start)
            if len(path):
                rooms.add(layout.room_at(start[0], start[1]))
                assert np.hypot(*(path[-1] - goal[:2])) < 0.15
        assert rooms == {*range(len(layout.rooms))}


def test_doors_are_clear() -> None:
    for layout in sampled(40):
        packed = pack([layout])
        for door in layout.doors:
            for step in np.linspace(-0.5, 0.5, 11):
                offset = (step, 0.0) if door.is_crossed_along_x else (0.0, step)
                x, y = door.center[0] + offset[0], door.center[1] + offset[1]
                assert clearance(x, y, packed.solids[0], int(packed.solid_count[0])) > 0.1


def test_door_joins_the_rooms_on_its_sides() -> None:
    for layout in sampled(40):
        for door in layout.doors:
            dx, dy = (0.3, 0.0) if door.is_crossed_along_x else (0.0, 0.3)
            x, y = door.center
            assert door.rooms == (layout.room_at(x - dx, y - dy), layout.room_at(x + dx, y + dy))


def test_layout_follows_from_its_random_numbers() -> None:
    """Models are trained on what the generator makes of a seed."""
    first, same, other = (sample_layout(np.random.default_rng(seed), held_out=False) for seed in (5, 5, 6))
    assert first == same and first != other
    edges = [math.fsum((*layout.x_edges, *layout.y_edges)) for layout in (first, other)]
    assert edges == pytest.approx([36.9184632, 24.4783978], abs=1e-6)
    assert [len(layout.furniture) for layout in (first, other)] == [17, 14]
