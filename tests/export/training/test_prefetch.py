"""Prefetched results arrive in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from jepa_export.training.prefetch import AHEAD, in_order


def test_results_arrive_in_order_with_limited_prefetch() -> None:
    drawn: list[int] = []

    def draw(index: int) -> int:
        drawn.append(index)
        return index * index

    with ThreadPoolExecutor(2) as pool:
        results = in_order(lambda index: pool.submit(draw, index), 3, 20)
        assert next(results) == 9
        assert len(drawn) <= AHEAD + 1
        assert list(results) == [index * index for index in range(4, 20)]
