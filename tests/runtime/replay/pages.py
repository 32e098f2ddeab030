"""A what-if result for tests of its page."""

from __future__ import annotations

import numpy as np

from jepa_runtime.replay.whatif import Branch, Moment, WhatIf

STEPS = 4


def picture(value: int) -> np.ndarray:
    return np.full((24, 32, 3), value, np.uint8)


def make_branch(label: str, energies: list[float] | None, errors: list[float] | None = None) -> Branch:
    return Branch(
        label=label,
        actions=np.zeros((STEPS, 2), np.float32),
        energies=None if energies is None else np.array(energies, np.float32),
        errors=None if errors is None else np.array(errors),
        similar=tuple(picture(step) for step in range(STEPS)),
        distances=np.arange(STEPS, dtype=np.float32),
    )


def make_whatif(*branches: Branch, goal: bool = True) -> WhatIf:
    """Return a result in which nothing arrived at the last step."""
    return WhatIf(
        moment=Moment(10, 10**18, 1.0, (12, 14, 16, None), 0, 20),
        step_s=0.2,
        image=picture(1),
        arrived=(picture(2), picture(3), picture(4), None),
        goal=picture(5) if goal else None,
        current_energy=0.5 if goal else None,
        error_bounds=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        branches=branches,
        album_size=21,
    )


def several() -> WhatIf:
    """Return more futures than a page shows."""
    others = [make_branch(f"fan {index}", [0.4, 0.3, 0.2, 0.1 * index]) for index in range(8)]
    return make_whatif(*others, make_branch("executed", [0.4] * 4, [0.1, 0.2, 0.1, np.nan]))
