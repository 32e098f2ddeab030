"""From a result of the pipeline to the messages that carry it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from jepa_msgs.msg import LatentState, ModelInfo, PredictedFutures, Surprise
from std_msgs.msg import Header

from jepa_ros.conversions import fill, to_time
from jepa_ros.diagnostics import Verdict
from jepa_runtime.pipeline import Result
from jepa_runtime.recording import messages
from jepa_runtime.world_model import WorldModel


def model_info(model: WorldModel, *, stamp_ns: int) -> ModelInfo:
    """Which model serves, on which engine."""
    return fill(ModelInfo(), messages.model_info(model, stamp_ns))


def results(
    result: Result, model: WorldModel, futures_dtype: str
) -> Iterator[PredictedFutures | LatentState | Surprise]:
    """The messages of one result, the most urgent first; the latents of futures as ``futures_dtype``."""
    futures = messages.predicted_futures(result, model)
    if futures is not None and result.futures is not None:
        futures["latents"] = messages.tensor(
            "latents", result.futures.latents.astype(futures_dtype, copy=False)
        )
        yield fill(PredictedFutures(), futures)
    yield fill(LatentState(), messages.latent_state(result, model))
    surprise = messages.surprise(result, model)
    if surprise is not None:
        yield fill(Surprise(), surprise)


def diagnostics(
    verdict: Verdict, *, name: str, hardware_id: str, values: dict[str, Any], stamp_ns: int
) -> DiagnosticArray:
    """One status with its values as text."""
    status = DiagnosticStatus(
        level=bytes([verdict.level]),
        name=name,
        message=verdict.message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=to_time(stamp_ns)), status=[status])
