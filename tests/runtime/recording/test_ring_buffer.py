"""The ring buffer: limits in time and bytes, latched entries, outliers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.recording.ring_buffer import Entry, RingBuffer


def entry(stamp_ns: int, *, topic: str = "a", size: int = 1, latched: bool = False) -> Entry:
    return Entry(topic, "", {}, stamp_ns, size, latched)


def test_ring_buffer_keeps_its_span_and_latched_entries() -> None:
    ring = RingBuffer(10, 1000)
    for stamp_ns in range(0, 50, 5):
        ring.add(entry(stamp_ns))
        ring.add(entry(stamp_ns, topic="command", latched=True))
    retained = [(each.topic, each.stamp_ns) for each in ring.entries()]
    assert retained == [("command", 30)] + [(topic, at) for at in (35, 40, 45) for topic in ("a", "command")]


@pytest.mark.parametrize("far", [3600, -3600])
def test_ring_buffer_with_one_outlier_is_unchanged(far: int) -> None:
    ring = RingBuffer(10, 1000)
    for stamp_ns in range(100, 111):
        ring.add(entry(stamp_ns))
    assert ring.add(entry(110 + far)) == 110
    assert len(ring.entries()) == 12, "it is also recorded"
    for stamp_ns in range(111, 122):
        ring.add(entry(stamp_ns))
    assert [each.stamp_ns for each in ring.entries()] == list(range(111, 122)), "and expires like others"


def test_ring_buffer_with_alternating_clocks_keeps_the_first() -> None:
    ring = RingBuffer(10, 1000)
    for stamp_ns in range(100, 150):
        ring.add(entry(stamp_ns))
        ring.add(entry(stamp_ns + 3600, topic="b"))
    assert {each.topic for each in ring.entries()} == {"a", "b"} and len(ring.entries()) == 22


@pytest.mark.parametrize("to", [5, 3600])
def test_ring_buffer_restarts_after_several_outliers(to: int) -> None:
    ring = RingBuffer(50, 1000)
    ring.add(entry(100))
    ring.add(entry(95))
    assert len(ring.entries()) == 2, "a small disorder is accepted"
    for index in range(30):
        ring.add(entry(to + index))
    assert [each.stamp_ns for each in ring.entries()] == list(range(to, to + 30))


def test_ring_buffer_keeps_latched_entries_when_the_clock_is_set_back() -> None:
    ring = RingBuffer(50, 1000)
    ring.add(entry(100, topic="command", latched=True))
    for stamp_ns in range(5, 25):
        ring.add(entry(stamp_ns))
    retained = [(each.topic, each.stamp_ns) for each in ring.entries()]
    assert retained[:2] == [("command", 5), ("a", 5)], "and not from the future"


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=60))
def test_ring_buffer_never_exceeds_its_limits(added: list[tuple[int, int]]) -> None:
    ring = RingBuffer(20, 100)
    for stamp_ns, size in added:
        ring.add(entry(stamp_ns, size=size))
        retained = ring.entries()
        assert sum(each.size for each in retained) == ring._bytes <= 100
        moments = [moment_ns for moment_ns, _ in ring._entries]
        assert ring._entries[-1][1].stamp_ns == stamp_ns and ring._newest_ns - moments[0] <= 20
