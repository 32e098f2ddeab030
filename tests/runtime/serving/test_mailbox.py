"""The mailbox: one slot per stream, the newest item wins, everything is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.serving.mailbox import Mailbox


def test_mailbox_keeps_the_newest_item_and_counts_the_others() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in range(5):
        mailbox.put(item)
    assert mailbox.take() == ("", 4)
    assert mailbox.counts() == (5, 4)
    assert mailbox.accepted() == 1


def test_mailbox_can_be_woken_without_an_item() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.wake()
    assert mailbox.take() is None


def test_mailbox_slots_are_emptied_in_the_order_in_which_they_were_filled() -> None:
    mailbox: Mailbox[int] = Mailbox(("left", "right"))
    mailbox.put(1, "right")
    mailbox.put(2, "left")
    mailbox.put(3, "right")
    assert [mailbox.take(), mailbox.take()] == [("right", 3), ("left", 2)]
    assert (mailbox.counts("left"), mailbox.counts("right")) == ((1, 0), (2, 1))


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=40, max_size=60))
def test_mailbox_empties_no_other_slot_twice_while_an_item_waits(steps: list[str | None]) -> None:
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


def test_mailbox_take_waits_no_longer_than_its_timeout() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert mailbox.take(0.0) is None and mailbox.take(0.01) is None
    mailbox.put(1)
    assert mailbox.take(0.0) == ("", 1)
