"""Declaration of a search for the registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from jepa_runtime.planning.action_limits import ActionLimits, Floats32

SearchInput = Literal["goal_pose", "latents", "proposals"]
"""What a search needs in addition to energies; see :class:`~jepa_runtime.planning.search.SearchInputs`."""


_Settings = TypeVar("_Settings")


class SearchSettings(Protocol):
    """Settings of a search, a frozen dataclass such as :class:`~jepa_runtime.planning.cem.CEMConfig`."""

    METHOD: ClassVar[str]

    @property
    def horizon(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    def fitted(self: _Settings, *, horizon: int, num_samples: int | None = None) -> _Settings: ...


class LatentModel(Protocol):
    """A world model in the process of the planner."""

    def predict(self, actions: Floats32, latent: Floats32) -> Floats32:
        """Return the latents [K, H, T, D] that follow ``latent`` [T, D] under ``actions`` [K, H, A]."""
        ...

    def energy(self, latents: Floats32, goal: Floats32) -> Floats32:
        """Return the energies [...] of ``latents`` [..., T, D] to ``goal`` [T, D]."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """What a search is created for.

    Attributes:
        limits: Limits of the actions.
        seed: Seed of its random numbers.
        step_s: Duration of a model step; 0: unknown.
        action_names: Names of the action components.
        model: The world model; None: it runs in another process.
    """

    limits: ActionLimits
    seed: int
    step_s: float = 0.0
    action_names: Sequence[str] = ()
    model: LatentModel | None = None


@dataclass(frozen=True, kw_only=True)
class SearchMethod:
    """Declare a search: everything that the rest of the program must know about it.

    Attributes:
        name: The name of ``--planner`` and ``search_method``, and the ``METHOD`` of its settings. An entry
            point has the same name.
        summary: Noun phrase for descriptions.
        source: The publication.
        config: Creates the default settings, or others by keyword. Those of searches without
            ``goal_pose`` accept ``num_samples``, ``horizon`` and ``topk``.
        create: Creates the search, which has the methods of :class:`~jepa_runtime.planning.search.Search`.
        requires: What it needs in addition to energies.
    """

    name: str
    summary: str
    source: str
    config: Callable[..., Any] = field(repr=False)
    create: Callable[[Any, SearchContext], Any] = field(repr=False)
    requires: frozenset[SearchInput] = frozenset()
