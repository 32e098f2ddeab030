"""Progress of long tasks: bars on a terminal, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Begin = Callable[[str, int], Callable[[], None]]
"""Called with the name of a task and its number of parts; returns a function to call after each part."""

_Part = TypeVar("_Part")


def ignore_progress(_what: str, _total: int) -> Callable[[], None]:
    """Show nothing, as a :data:`Begin`."""
    return lambda: None


def show_on(bars: Progress) -> Begin:
    """Return a function that adds a bar for each task."""

    def begin(what: str, total: int) -> Callable[[], None]:
        task = bars.add_task(what, total=total)
        return lambda: bars.advance(task)

    return begin


def track(parts: Sequence[_Part], what: str, begin: Begin) -> Iterator[_Part]:
    """Yield the parts of the task ``what``, and count each when the next is requested."""
    tick = begin(what, len(parts))
    for part in parts:
        yield part
        tick()
