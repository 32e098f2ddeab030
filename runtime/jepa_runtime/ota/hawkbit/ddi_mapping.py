"""Maps deployments of the server to orders, and the state of an update to feedback. Pure.

A deployment is carried out by an ordinary update that may install only the ordered version. "attempt" and
"forced" make no difference: the robot decides when a switch is safe. "skip" prevents the switch: outside a
maintenance window until it opens, without a window permanently ("download only"). Success is reported only
for a committed model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jepa_runtime.errors import ReleaseRejectedError
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.hawkbit.ddi_messages import Chunk, Deployment
from jepa_runtime.ota.hawkbit.saved_state import Answer, Execution, Order
from jepa_runtime.ota.state import RESULT_NAMES, Phase, State
from jepa_runtime.ota.state_machine import DROPPABLE

# Limits of the server: details per feedback, their length, length of attribute keys and values, and
# characters.
_MAX_DETAIL, _MAX_DETAILS, _MAX_VALUE = 500, 20, 128
_NOT_A_LETTER = re.compile(r"[^a-zA-Z0-9_\-!@#$%^&*()+=\[\]{}|;:'\",.<>/\\?\s]", re.ASCII)
_MODEL_KEY, _VERSION_KEY = "model_id", "version"
_EXECUTIONS: Mapping[Phase, Execution] = {
    Phase.DOWNLOAD: "download",
    Phase.VERIFY: "download",
    Phase.STAGE: "download",
    Phase.PROBE: "downloaded",
    Phase.SHADOW: "downloaded",
    Phase.ARMED: "scheduled",
}


def parse_order(action: str, deployment: Deployment, model_id: str, *, confirmed: bool) -> Order:
    """Return the order that a deployment gives to a robot that runs ``model_id``.

    The version is that of the software module with the name of the model. A module with another name counts
    if its metadata has the key ``model_id``; the key ``version`` there overrides the module's own version.

    Raises:
        ReleaseRejectedError: The deployment names no version of this model, or several.
    """
    versions = {version for chunk in deployment.chunks if (version := _version(chunk, model_id)) is not None}
    if len(versions) != 1:
        names = ", ".join(sorted(f"{chunk.name} {chunk.version}"[:80] for chunk in deployment.chunks))
        raise ReleaseRejectedError(
            f"deployment {action} has {len(versions)} versions of {model_id} (software modules: "
            f"{names[:300] or 'none'}): its distribution needs exactly one software module named {model_id}",
            code="hawkbit.ambiguous_deployment",
        )
    return Order(
        action=action,
        version=versions.pop(),
        fetch=deployment.download != "skip",
        switch=deployment.update != "skip" and deployment.window != "unavailable",
        only_fetch=deployment.update == "skip" and deployment.window is None,
        confirmed=confirmed,
    )


def is_serving(state: State, version: str) -> bool:
    """Return whether a version is active and committed."""
    return state.good is not None and state.good == state.current and state.good.version == version


def is_ready(order: Order, state: State) -> bool:
    """Return whether only the server's permission for the switch is missing."""
    return state.phase is Phase.ARMED and not (order.switch and order.confirmed)


def is_approved(order: Order, state: State) -> bool:
    """Return whether the ordered release was approved on the robot."""
    release = None if state.candidate is None else state.candidate.release
    return release is not None and (release.version, release.manifest_sha256) == (
        order.version,
        state.approved,
    )


def can_drop(state: State) -> bool:
    """Return whether an update is in progress that can still be dropped."""
    return state.phase in DROPPABLE


def must_finish(state: State) -> bool:
    """Return whether an update is in progress that can no longer be dropped."""
    return state.phase is not Phase.IDLE and state.phase not in DROPPABLE


def progress(order: Order, state: State) -> tuple[Execution, tuple[str, ...]]:
    """Return the execution state and the details of an update in progress."""
    execution = _EXECUTIONS.get(state.phase, "proceeding")
    if execution == "downloaded" and order.only_fetch:
        # "downloaded" would close the action before the gate has decided.
        execution = "proceeding"
    if is_ready(order, state):
        return execution, ("downloaded, passed the gate, and waits for the maintenance window",)
    step = f"{state.phase}: {order.version}"
    return execution, (step, *details([state.reason])) if state.reason else (step,)


def conclude(
    order: Order, state: State, measured: Iterable[str], *, repository_answered: bool
) -> Answer | None:
    """Return the answer to an order whose update has ended, or None if the order stays open.

    It stays open if the repository could not be used, the transfer limits were exceeded, or the machine was
    too busy to assess the candidate.

    Args:
        order: The order.
        state: The stored state.
        measured: Measurements of the gate, as sentences.
        repository_answered: Whether the repository had responded.
    """
    if is_serving(state, order.version):
        lines = details([f"{order.version} is active and committed", *measured])
        return Answer(execution="closed", finished="success", details=lines, version=order.version)
    was_rejected = any(refusal.reason == state.reason for refusal in state.rejections.values())
    if state.result == "undecided" or (
        state.result == "failed" and not (repository_answered and was_rejected)
    ):
        return None
    lines = details([f"{RESULT_NAMES[state.result]}: {state.reason}", *measured])
    return Answer(execution="closed", finished="failure", details=lines, version=order.version)


def details(lines: Iterable[str]) -> tuple[str, ...]:
    """Return sentences, truncated to the limits of the server."""
    return tuple(line[:_MAX_DETAIL] for line in lines if line)[:_MAX_DETAILS]


def attributes(config: Config, state: State, software: str) -> dict[str, str]:
    """Return the attributes of a robot for the server.

    Args:
        config: The robot's configuration.
        state: The stored state.
        software: The version of jepa-edge.
    """
    good = state.good
    version = "none" if good is None else good.version
    lines = {
        "jepa.model": config.model_id,
        "jepa.version": version,
        # The name that gooseBit and SWUpdate fleets expect.
        "sw_version": version,
        "jepa.release_seq": "0" if good is None else str(good.release_seq),
        "jepa.channel": config.channel,
        "jepa.hardware": ",".join(config.hardware_ids),
        "jepa.engine": config.engine,
        "jepa.software": software,
        "jepa.pinned": "yes" if state.pinned else "no",
        "jepa.alarm": state.alarm or "none",
    }
    return {key: _NOT_A_LETTER.sub("?", value)[:_MAX_VALUE] for key, value in lines.items()}


def _version(chunk: Chunk, model_id: str) -> str | None:
    metadata = {entry.key: entry.value for entry in chunk.metadata or ()}
    if metadata.get(_MODEL_KEY, chunk.name) != model_id:
        return None
    return metadata.get(_VERSION_KEY, chunk.version)
