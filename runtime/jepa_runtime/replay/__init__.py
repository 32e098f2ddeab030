"""Recorded inputs through a model: replay, comparison of outputs, and what-if.

:class:`BagInputs` reads the recorded inputs, a :class:`Player` passes them to a model, :func:`replay_bag`
records the outputs again, and :func:`branch` predicts other actions from one moment.
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.replay.action_sequences import ActionSequence, sequences
    from jepa_runtime.replay.bag_inputs import BagInputs
    from jepa_runtime.replay.output_comparison import Comparison, compare
    from jepa_runtime.replay.player import Player
    from jepa_runtime.replay.replay import Replayed, replay_bag
    from jepa_runtime.replay.whatif import WhatIf, branch, find_moment
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "action_sequences": ["ActionSequence", "sequences"],
            "bag_inputs": ["BagInputs"],
            "output_comparison": ["Comparison", "compare"],
            "player": ["Player"],
            "replay": ["Replayed", "replay_bag"],
            "whatif": ["WhatIf", "branch", "find_moment"],
        },
    )

__all__ = [
    "ActionSequence",
    "BagInputs",
    "Comparison",
    "Player",
    "Replayed",
    "WhatIf",
    "branch",
    "compare",
    "find_moment",
    "replay_bag",
    "sequences",
]
