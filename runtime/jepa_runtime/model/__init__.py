"""The world model: compiled graphs, rollouts, and parity with the golden outputs.

Example::

    from jepa_runtime import Bundle
    from jepa_runtime.model import golden_parity

    for parity in golden_parity(Bundle.open("models/two_rooms"), engine="openvino:CPU"):
        print(parity.graph, parity.min_cosine, parity.ok)
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.model.compiled_graphs import graphs, runnable_precisions
    from jepa_runtime.model.encoder_cache import EncoderCache
    from jepa_runtime.model.parity import Parity, cosines, golden_parity
    from jepa_runtime.model.relative_pose import RelativePose
    from jepa_runtime.model.world_model import Futures, StepOutcome, WorldModel
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "compiled_graphs": ["graphs", "runnable_precisions"],
            "encoder_cache": ["EncoderCache"],
            "parity": ["Parity", "cosines", "golden_parity"],
            "relative_pose": ["RelativePose"],
            "world_model": ["Futures", "StepOutcome", "WorldModel"],
        },
    )

__all__ = [
    "EncoderCache",
    "Futures",
    "Parity",
    "RelativePose",
    "StepOutcome",
    "WorldModel",
    "cosines",
    "golden_parity",
    "graphs",
    "runnable_precisions",
]
