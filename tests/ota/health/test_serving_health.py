"""The service quality of the active model relative to that of the previous one, if known."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_runtime.ota.health.serving_health import ServingHealth
from tests.ota.robots import Clock


class Served:
    """A model whose frames are reported to a monitor, as those of its predecessor."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.conduct = ServingHealth(self.clock.monotonic)
        self.conduct.begin(10.0)

    def frames(self, n: int, *, late: int = 0, failed: int = 0, surprising: int = 0) -> None:
        """Serve ``n`` frames within 10 seconds, of which these percentages are late, failed or surprising."""
        for frame in range(n):
            self.clock.sleep(10 / n)
            if frame % 100 < failed:
                self.conduct.failed("device lost")
                continue
            self.conduct.latent(np.zeros(3))
            self.conduct.timed(11.0 if frame % 100 < late else 10.0)
            self.conduct.surprise(0.1, frame % 100 < surprising)


@pytest.mark.parametrize(
    ("before", "after", "budget_ms", "failure"),
    [
        ({}, {}, 10.0, ""),
        # After 300 frames of which none was late, a rate of one in thirty may have been usual.
        ({}, {"late": 6}, 10.0, ""),
        ({}, {"late": 10}, 10.0, "30 of 300 frames exceeded the latency budget of 10 ms"),
        ({"late": 10}, {"late": 10}, 10.0, ""),
        ({"late": 10}, {"late": 20}, 10.0, ""),
        ({"late": 10}, {"late": 30}, 10.0, "90 of 300 frames exceeded the latency budget of 10 ms"),
        # A baseline under another limit is not comparable.
        ({"late": 10}, {"late": 10}, 10.5, "30 of 300 frames exceeded the latency budget of 10.5 ms"),
        ({}, {"failed": 10}, 10.0, "30 of 300 frames failed: device lost"),
        ({"failed": 10}, {"failed": 10}, 10.0, ""),
        ({"failed": 10}, {"failed": 30}, 10.0, "90 of 300 frames failed: device lost"),
        ({"failed": 100}, {"failed": 100}, 10.0, ""),
        ({"surprising": 80}, {"surprising": 80}, 10.0, ""),
        ({}, {"surprising": 80}, 10.0, "predictions drift: 240 of 300 frames were surprising"),
    ],
)
def test_model_as_bad_as_the_previous_one_is_accepted_and_a_worse_one_is_not(
    before: dict[str, int], after: dict[str, int], budget_ms: float, failure: str
) -> None:
    served = Served()
    served.frames(300, **before)
    served.conduct.begin(budget_ms)
    assert served.conduct.idle
    served.frames(300, **after)
    assert served.conduct.failure().startswith(failure) and bool(served.conduct.failure()) is bool(failure)


@pytest.mark.parametrize(
    ("known", "budget_ms", "lateness", "evaluated"),
    [
        # Frames of the previous model, the limit of this one, whether lateness is tolerated, findings.
        (300, 10.0, True, {"late", "surprising"}),
        (300, 10.5, True, {"surprising"}),
        (9, 10.0, True, set()),
        (9, 10.0, False, {"late"}),
    ],
)
def test_unknown_baseline_is_tolerated_where_configured(
    known: int, budget_ms: float, lateness: bool, evaluated: set[str]
) -> None:
    for finding in ("late", "surprising", "failed"):
        served = Served()
        served.frames(known)
        served.conduct.begin(budget_ms)
        served.conduct.forgive(lateness=lateness)
        served.frames(300, **{finding: 90})
        assert bool(served.conduct.failure()) is (finding in {*evaluated, "failed"}), finding


@pytest.mark.parametrize(
    ("finding", "failure"),
    [
        ("late", "90 of 300 frames exceeded the latency budget of 10 ms"),
        ("failed", "90 of 300 frames failed: device lost"),
    ],
)
def test_few_frames_decide_neither_the_model_nor_the_baseline(finding: str, failure: str) -> None:
    served = Served()
    served.frames(9, **{finding: 100})
    assert served.conduct.failure() == "" and served.conduct.idle
    served.conduct.begin(10.0)
    served.frames(300, **{finding: 30})
    assert served.conduct.failure().startswith(failure)


def test_model_with_only_failed_frames_is_reported_as_having_computed_nothing() -> None:
    served = Served()
    served.frames(10, failed=100)
    assert served.conduct.idle and served.conduct.failure() == "10 of 10 frames failed: device lost"


def test_first_finding_is_reported() -> None:
    conduct = ServingHealth()
    for why in ("it hangs", "nothing comes"):
        conduct.find(why)
    assert conduct.failure() == "it hangs"
