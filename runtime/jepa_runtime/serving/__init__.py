"""The real-time path: frames in, futures out, on one inference thread.

Example::

    from jepa_runtime import WorldModel, open_source
    from jepa_runtime.serving import Pipeline, Result

    def show(result: Result) -> None:
        print(result.stamp_ns, result.latent, result.futures)

    pipeline = Pipeline(lambda: WorldModel.open("models/two_rooms"), on_result=show, deadline_ms=50)
    pipeline.start()
    for frame in open_source("images").frames():
        pipeline.submit(frame)
    pipeline.stop()
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.serving import realtime
    from jepa_runtime.serving.clip_sampler import Clip, ClipSampler
    from jepa_runtime.serving.evaluation import Evaluation, Scores
    from jepa_runtime.serving.frame_processor import FrameProcessor, ProcessingConfig
    from jepa_runtime.serving.frozen_state import FrozenStateCheck
    from jepa_runtime.serving.history import History
    from jepa_runtime.serving.pipeline import Pipeline
    from jepa_runtime.serving.realtime import AppliedSetting, RealtimeSettings
    from jepa_runtime.serving.types import STAGES, Candidates, Result, Stats
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["realtime"],
            "clip_sampler": ["Clip", "ClipSampler"],
            "evaluation": ["Evaluation", "Scores"],
            "frame_processor": ["FrameProcessor", "ProcessingConfig"],
            "frozen_state": ["FrozenStateCheck"],
            "history": ["History"],
            "pipeline": ["Pipeline"],
            "realtime": ["AppliedSetting", "RealtimeSettings"],
            "types": ["STAGES", "Candidates", "Result", "Stats"],
        },
    )

__all__ = [
    "STAGES",
    "AppliedSetting",
    "Candidates",
    "Clip",
    "ClipSampler",
    "Evaluation",
    "FrameProcessor",
    "FrozenStateCheck",
    "History",
    "Pipeline",
    "ProcessingConfig",
    "RealtimeSettings",
    "Result",
    "Scores",
    "Stats",
    "realtime",
]
