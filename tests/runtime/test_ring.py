"""What was lately: bounded in time and bytes, and what lasts is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.recording.ring import Entry, Ring


def entry(stamp_ns: int, *, topic: str = "a", size: int = 1, lasting: bool = False) -> Entry:
    return Entry(topic, "", {}, stamp_ns, size, lasting)


def test_a_ring_keeps_its_time_and_what_lasts_of_the_time_before() -> None:
    ring = Ring(10, 1000)
    for stamp_ns in range(0, 50, 5):
        ring.add(entry(stamp_ns))
        ring.add(entry(stamp_ns, topic="command", lasting=True))
    held = [(each.topic, each.stamp_ns) for each in ring.entries()]
    assert held == [("command", 30)] + [(topic, at) for at in (35, 40, 45) for topic in ("a", "command")]


def test_time_set_back_empties_a_ring() -> None:
    ring = Ring(10, 1000)
    ring.add(entry(100))
    ring.add(entry(95))
    assert len(ring.entries()) == 2, "a little disorder is none"
    ring.add(entry(5))
    assert [each.stamp_ns for each in ring.entries()] == [5]


def test_what_lasts_is_still_in_force_where_time_is_set_back() -> None:
    ring = Ring(10, 1000)
    ring.add(entry(100, topic="command", lasting=True))
    for stamp_ns in (5, 6):
        ring.add(entry(stamp_ns))
    held = [(each.topic, each.stamp_ns) for each in ring.entries()]
    assert held == [("command", 5), ("a", 5), ("a", 6)], "and not from a time that is still to come"


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 50)), max_size=60))
def test_a_ring_never_holds_more_than_it_may(added: list[tuple[int, int]]) -> None:
    ring = Ring(20, 100)
    for stamp_ns, size in added:
        ring.add(entry(stamp_ns, size=size))
        held = list(ring._entries)
        assert sum(each.size for each in held) == ring._bytes <= 100
        newest_ns = max(each.stamp_ns for each in held)
        assert held[-1].stamp_ns == stamp_ns and newest_ns - stamp_ns <= 20
