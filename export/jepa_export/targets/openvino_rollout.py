"""A rollout as one OpenVINO graph with a loop, which has the weights, code and memory of one step.

Unrolled, H steps are H copies of the step, each with its own weights in the engine: eight INT8 steps of the
ViT-S student took 2.4 s and 250 MB to compile, the loop a quarter of a second and 70 MB, at the same speed
(64 candidates, OpenVINO 2026.4 on a CPU). Quantizers do not look into loops, so the step is quantized before
it becomes the body of the loop (a TensorIterator).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from numpy.typing import NDArray

# Added to the attention score of an absent frame; the softmax turns it into 0.
_ABSENT = -1e4


def loop(past: ov.Model, step: ov.Model, *, known: int, horizon: int) -> ov.Model:
    """Join the two halves of a predictor (see :class:`jepa_export.students.predictor.Past` and ``Step``).

    Args:
        past: Inputs history_latents [1, W, T, D] and, where W is above 1, history_actions [1, W-1, A];
            outputs the newest latent and n cached frames, oldest first.
        step: Inputs latent [?, 1, T, D], action [?, 1, A], absent [1, n + 1, 1, 1] and the n cached frames;
            outputs the next latent and the frame to cache.
        known: Number of cached frames that exist before the first step; earlier ones are zeros.
        horizon: H.

    Returns:
        history_latents [1, W, T, D], actions [?, H, A], history_actions [1, W-1, A] -> futures [?, H, T, D].
    """
    history, body = past.clone(), step.clone()
    window = len(past.outputs)
    actions = ops.parameter([-1, horizon, *_sizes(body.inputs[1])[2:]], np.float32, name="actions")
    actions.output(0).get_tensor().set_names({"actions"})
    count = ops.gather(ops.shape_of(actions), ops.constant([0]), ops.constant(0))
    absent = ops.constant(absent_table(window, known, horizon))
    newest, *cached = [_repeated(result.input_value(0), count) for result in history.get_results()]

    latent, action, missing, *frames = body.get_parameters()
    following, made = body.get_results()
    shifted = [ops.result(frame) for frame in frames[1:]]
    iterator = ov.op.tensor_iterator()
    iterator.set_body(ov.Model([following, *shifted, made], body.get_parameters(), "step"))
    iterator.set_merged_input(latent, newest.output(0), following.output(0))
    iterator.set_sliced_input(action, actions.output(0), 0, 1, 1, -1, 1)
    iterator.set_sliced_input(missing, absent.output(0), 0, window, window, -1, 1)
    for frame, first, after in zip(frames, cached, [*shifted, made], strict=True):
        iterator.set_merged_input(frame, first.output(0), after.output(0))
    futures = iterator.get_concatenated_slices(following.output(0), 0, 1, 1, -1, 1)
    futures.get_tensor().set_names({"futures"})
    first, *rest = history.get_parameters()
    return ov.Model([ops.result(futures)], [first, actions, *rest], "rollout")


def absent_table(window: int, known: int, horizon: int) -> NDArray[np.float32]:
    """Return the terms added to the attention scores of all steps: [1, H * window, 1, 1]."""
    table = np.zeros((horizon, window), np.float32)
    for step in range(horizon):
        table[step, : max(0, window - 1 - known - step)] = _ABSENT
    return table.reshape(1, -1, 1, 1)


def _repeated(one: ov.Output, count: ov.Node) -> ov.Node:
    """Repeat [1, …] to [count, …]."""
    sizes = ops.constant(np.array(_sizes(one)[1:], np.int64))
    return ops.broadcast(one, ops.concat([count, sizes], 0))


def _sizes(port: ov.Output) -> Sequence[int]:
    """Return the shape, with -1 for free axes."""
    return [size.get_length() if size.is_static else -1 for size in port.get_partial_shape()]
