"""Latency and stages that the profiler derives from recorded times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from jepa_ros.profiler.frame_ledger import FrameLedger, NodeTimes
from jepa_ros.profiler.view import summary
from rich.console import Console

from tests.runtime.profiles import make_profile

pytestmark = pytest.mark.ros

MS = 1_000_000
START, OFFSET = 50 * MS, 7_000 * MS
STAGES = {"decode": 1.0, "encode": 4.0, "predict": 2.0, "energy": 0.0, "message": 0.5, "publish": 1.0}


def ledger(frames: int = 3) -> FrameLedger:
    return FrameLedger(start_ns=START, rate_hz=100.0, offset_ns=OFFSET, frames=frames)


def node_times(due_ns: int, **changes) -> NodeTimes:
    """Return times of an image received 1 ms after it was due and published 10 ms later."""
    given = {"received_ns": due_ns + MS, "published_ns": due_ns + 11 * MS, "stages_ms": STAGES}
    return NodeTimes(**(given | changes))


def answer(book: FrameLedger, index: int, after_ns: int = 12 * MS, **changes) -> None:
    """Record an image whose futures arrived ``after_ns`` after it was due."""
    due = book.due_ns(index)
    book.add_sent(index, due + MS // 2)
    book.add_node_times(due + OFFSET, node_times(due, **changes))
    book.add_futures(due + OFFSET, due + after_ns)


class TestLedger:
    def test_latency_counts_from_the_due_time_and_stages_are_contiguous(self):
        book = ledger(1)
        answer(book, 0)
        run = book.run(deadline_ms=10.0)
        stages = {name: values[0] for name, values in run.stages_ms.items()}
        assert run.latency_ms == [12.0] and run.scheduled_s == [0.0]
        assert stages["receive"] == 0.5 and stages["transport"] == 0.5 and stages["delivery"] == 1.0
        assert sum(stages.values()) == pytest.approx(0.5 + 0.5 + sum(STAGES.values()) + 1.0)
        assert "energy" not in stages and "no goal" in run.absent["energy"]
        assert "after the futures are sent" in run.absent["surprise"]

    def test_result_before_publish_returns_is_counted_once(self):
        book = ledger(1)
        answer(book, 0, after_ns=10_400_000)
        stages = book.run(10.0).stages_ms
        assert stages["publish"] == [pytest.approx(0.4)] and "delivery" not in stages

    def test_device_times_are_assigned_to_their_images(self):
        book = ledger(2)
        answer(book, 0, device_ms={"encode": 3.5})
        book.add_sent(1, book.due_ns(1))
        book.add_futures(book.due_ns(1) + OFFSET, book.due_ns(1) + 12 * MS)
        assert book.run(10.0).device_ms == {"encode": [3.5, 0.0]}

    def test_summary_counts_no_skipped_stages_and_no_lost_image_as_in_time(self, capsys):
        book = ledger(3)
        answer(book, 0, device_ms={"encode": 3.5, "predict": 1.5})
        answer(book, 1, device_ms={"encode": 3.5}, stages_ms=STAGES | {"predict": 0.0})
        book.add_sent(2, book.due_ns(2))
        Console(width=120).print(summary(make_profile(run=book.run(deadline_ms=100.0))))
        rows = [line.strip("│ ").split("  ") for line in capsys.readouterr().out.splitlines()]
        shown = {cells[0]: cells[-1].strip() for cells in rows}
        assert (shown["encode"], shown["predict"], shown["deadline misses (100 ms)"]) == ("2", "1", "1")
        assert (shown["encode, device clock"], shown["predict, device clock"]) == ("2", "1")

    def test_images_without_a_result_count_as_dropped_or_failed_and_unsent_ones_do_not(self):
        book = ledger(5)
        answer(book, 0)
        book.add_sent(1, book.due_ns(1))
        book.add_sent(2, book.due_ns(2))
        failed = node_times(book.due_ns(2), published_ns=None, stages_ms={}, error="engine gone")
        book.add_node_times(book.due_ns(2) + OFFSET, failed)
        run = book.run(10.0)
        assert (run.scheduled_s, run.dropped_s, run.failed_s) == ([0.0], [0.01], [0.02])
        assert any("engine gone" in note for note in book.notes())

    def test_result_of_a_model_without_predictions_is_the_latent(self):
        book = ledger(1)
        book.add_sent(0, START)
        book.add_latent(START + OFFSET, START + 9 * MS)
        assert not book.run(10.0).latency_ms, "futures may still come"
        book.add_node_times(START + OFFSET, node_times(START, stages_ms=STAGES | {"predict": 0.0}))
        assert book.run(10.0).latency_ms == [9.0]
        assert any("1 images gave a latent" in note for note in book.notes())

    def test_images_before_the_run_are_excluded(self):
        book = ledger()
        for stamp in (START + OFFSET - 10 * MS, START + OFFSET + 1, START + OFFSET + 30 * MS):
            book.add_futures(stamp, START)
        book.add_sent(0, START)
        assert not book.run(10.0).latency_ms

    def test_ledger_is_idle_once_the_newest_image_is_complete(self):
        book = ledger()
        assert book.idle
        book.add_sent(0, START)
        assert not book.idle
        answer(book, 0)
        assert book.idle

    @given(
        st.lists(st.sampled_from(["answered", "dropped", "failed"]), min_size=1, max_size=30),
        st.integers(0, 20 * MS),
    )
    def test_every_image_is_accounted_for_and_stages_never_exceed_the_latency(self, fates, delay_ns):
        book = ledger(len(fates))
        for index, fate in enumerate(fates):
            due = book.due_ns(index)
            book.add_sent(index, due)
            if fate == "answered":
                answer(book, index, after_ns=10 * MS + delay_ns)
            if fate == "failed":
                book.add_node_times(
                    due + OFFSET, node_times(due, published_ns=None, stages_ms={}, error="no")
                )
        run = book.run(10.0)
        counts = [len(run.scheduled_s), len(run.dropped_s), len(run.failed_s)]
        assert counts == [fates.count(fate) for fate in ("answered", "dropped", "failed")]
        for latency, *stages in zip(run.latency_ms, *run.stages_ms.values(), strict=True):
            assert min(stages) >= 0 and sum(stages) <= latency + 1e-3
