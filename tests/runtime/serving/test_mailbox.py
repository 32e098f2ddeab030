"""The mailbox: one slot per stream, the newest item wins, everything is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.serving.mailbox import Mailbox


def test_a_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in range(5):
        mailbox.put(item)
    assert mailbox.take() == ("", 4)
    assert mailbox.counts() == (5, 4)
    assert mailbox.accepted() == 1


def test_a_mailbox_can_be_woken_without_an_item() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.wake()
    assert mailbox.take() is None


def test_a_mailbox_is_emptied_in_the_order_in_which_its_places_were_filled() -> None:
    mailbox: Mailbox[int] = Mailbox(("left", "right"))
    mailbox.put(1, "right")
    mailbox.put(2, "left")
    mailbox.put(3, "right")
    assert [mailbox.take(), mailbox.take()] == [("right", 3), ("left", 2)]
    assert (mailbox.counts("left"), mailbox.counts("right")) == ((1, 0), (2, 1))


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=40, max_size=60))
def test_while_an_item_waits_no_other_place_is_emptied_twice(steps: list[str | None]) -> None:
    mailbox: Mailbox[int] = Mailbox("abc")
    overtaken: dict[str, list[str]] = {}
    for number, place in enumerate(steps):
        if place is not None:
            mailbox.put(number, place)
            overtaken.setdefault(place, [])
            continue
        mailbox.wake()
        taken = mailbox.take()
        assert (taken is None) == (not overtaken)
        if taken is not None:
            served = overtaken.pop(taken[0])
            assert len(set(served)) == len(served)
            for waiting in overtaken.values():
                waiting.append(taken[0])


def test_nobody_waits_for_longer_than_they_want_to() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert mailbox.take(0.0) is None and mailbox.take(0.01) is None
    mailbox.put(1)
    assert mailbox.take(0.0) == ("", 1)
