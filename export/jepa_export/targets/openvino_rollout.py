"""A rollout as one OpenVINO graph with a loop: weights, code and memory of one step, whatever the horizon.

Flat, a rollout of H steps is H copies of the step, and to the engine each has weights of its own: eight INT8
steps of the ViT-S student took 2.4 s to compile and 250 MB, the loop a quarter of a second and 70 MB, at the
same speed (64 candidates, OpenVINO 2026.4 on a CPU). Quantizers look at flat graphs only, so the step is
quantized before it becomes the body of the loop (a TensorIterator)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from numpy.typing import NDArray

# Added to the score of what is not there; the softmax makes it 0.
_ABSENT = -1e4


def loop(past: ov.Model, step: ov.Model, *, known: int, horizon: int) -> ov.Model:
    """Join the two halves of a predictor (see :class:`jepa_export.students.predictor.Past` and ``Step``).

    Args:
        past: inputs history_latents [1, W, T, D] and, where W is above 1, history_actions [1, W-1, A];
            outputs the newest latent and n remembered frames, oldest first.
        step: inputs latent [?, 1, T, D], action [?, 1, A], absent [1, n + 1, 1, 1] and the n remembered
            frames; outputs the next latent and the frame to remember.
        known: how many of the remembered frames exist before the first step; those before them are zeros.
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
    newest, *remembered = [_repeated(result.input_value(0), count) for result in history.get_results()]

    latent, action, missing, *frames = body.get_parameters()
    following, made = body.get_results()
    shifted = [ops.result(frame) for frame in frames[1:]]
    iterator = ov.op.tensor_iterator()
    iterator.set_body(ov.Model([following, *shifted, made], body.get_parameters(), "step"))
    iterator.set_merged_input(latent, newest.output(0), following.output(0))
    iterator.set_sliced_input(action, actions.output(0), 0, 1, 1, -1, 1)
    iterator.set_sliced_input(missing, absent.output(0), 0, window, window, -1, 1)
    for frame, first, after in zip(frames, remembered, [*shifted, made], strict=True):
        iterator.set_merged_input(frame, first.output(0), after.output(0))
    futures = iterator.get_concatenated_slices(following.output(0), 0, 1, 1, -1, 1)
    futures.get_tensor().set_names({"futures"})
    first, *rest = history.get_parameters()
    return ov.Model([ops.result(futures)], [first, actions, *rest], "rollout")


def absent_table(window: int, known: int, horizon: int) -> NDArray[np.float32]:
    """What is added to the scores in each step, one after the other: [1, H * window, 1, 1]."""
    table = np.zeros((horizon, window), np.float32)
    for step in range(horizon):
        table[step, : max(0, window - 1 - known - step)] = _ABSENT
    return table.reshape(1, -1, 1, 1)


def _repeated(one: ov.Output, count: ov.Node) -> ov.Node:
    """[1, …] -> [count, …]"""
    sizes = ops.constant(np.array(_sizes(one)[1:], np.int64))
    return ops.broadcast(one, ops.concat([count, sizes], 0))


def _sizes(port: ov.Output) -> Sequence[int]:
    """The shape, -1 where it is free."""
    return [size.get_length() if size.is_static else -1 for size in port.get_partial_shape()]
