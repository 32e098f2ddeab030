"""Latency compensation: futures start when their first action takes effect, not at the image.

Between an image and the effect of the command that answers it, the robot goes on under the commands that were
sent before. So the model first predicts the state at the end of that time, from the commands that the history
holds (zero-order hold, as for the surprise), and the futures start there.

Rules:
    1. A delay within the tolerance of the history (an eighth of a model step) is not compensated: an image so
       close to a step counts as its end.
    2. Whole steps are predicted under the mean of the commands in each. The rest of the delay is one more
       step whose action is the mean in that rest, scaled by its proportion of a step, which has the same
       path. Only rates can be scaled so; with other actions the delay is rounded to whole steps.
    3. Nothing is compensated if a command in the delay is unknown.
    4. Nothing is compensated for a model that reads the state of the robot: later states are unknown.
    5. A delay beyond the horizon of the model is an error.
"""

from __future__ import annotations

import numpy as np

from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.serving.history import Context, Floats, History


def advance(model: WorldModel, history: History, context: Context, delay_ns: int) -> Context:
    """Return ``context`` as the model predicts it ``delay_ns`` later, under the commands in ``history``.

    Its stamp is the time that the prediction has reached.

    Raises:
        ValueError: The delay is negative, or longer than the horizon of the model.
    """
    step_ns, horizon = history.step_ns, model.manifest.horizon
    if not 0 <= delay_ns <= horizon * step_ns:
        raise ValueError(
            f"the delay must be from 0 to the model's horizon of {horizon * step_ns / 1e9:g} s, got "
            f"{delay_ns / 1e9:g} s"
        )
    if delay_ns <= history.tolerance_ns or context.states is not None:
        return context
    if not model.manifest.io.action.is_rate:
        delay_ns = round(delay_ns / step_ns) * step_ns
    actions = _actions(history, context.stamp_ns, delay_ns) if delay_ns else None
    if actions is None:
        return context
    latents, between = model.advance(context.latents, context.actions, actions)
    return Context(latents, between, context.stamp_ns + delay_ns)


def _actions(history: History, start_ns: int, delay_ns: int) -> Floats | None:
    """Return the action of each step [n, A] from ``start_ns`` on; None if one is unknown."""
    actions = []
    for begins_ns in range(start_ns, start_ns + delay_ns, history.step_ns):
        ends_ns = min(begins_ns + history.step_ns, start_ns + delay_ns)
        mean = history.mean_action(begins_ns, ends_ns)
        if mean is None:
            return None
        actions.append(mean * np.float32((ends_ns - begins_ns) / history.step_ns))
    return np.stack(actions)
