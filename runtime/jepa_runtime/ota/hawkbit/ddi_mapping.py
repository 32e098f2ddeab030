"""What an agent of hawkBit makes of what the server wants and of how the robot's update stands. Pure: no
clock, no file, no network.

A deployment is carried out by an update of the robot like any other, which installs no other version than the
one that was ordered. Whether a deployment is "attempt" or "forced" makes no difference: when a switch is
safe, the robot says. "skip" keeps it from its switch: outside a maintenance window until that opens, without
a window for good ("download only"). A success is reported only of what was committed to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jepa_runtime.errors import ReleaseRejectedError
from jepa_runtime.ota.config import Config
from jepa_runtime.ota.hawkbit.ddi_messages import Chunk, Deployment
from jepa_runtime.ota.hawkbit.saved_state import Answer, Execution, Order
from jepa_runtime.ota.state import Phase, State
from jepa_runtime.ota.state_machine import DROPPABLE

# Limits of the server: of a message, of a key or value of the attributes, and the letters in these.
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


def ordered(action: str, deployment: Deployment, model_id: str, *, confirmed: bool) -> Order:
    """What a deployment orders of a robot that runs ``model_id``.

    The software module of that name says the version. A module of another name does as well if its metadata
    has the key ``model_id``; the key ``version`` there goes before the module's own.

    Raises:
        ReleaseRejectedError: it names no version of this model, or several.
    """
    versions = {version for chunk in deployment.chunks if (version := _version(chunk, model_id)) is not None}
    if len(versions) != 1:
        names = ", ".join(sorted(f"{chunk.name} {chunk.version}"[:80] for chunk in deployment.chunks))
        raise ReleaseRejectedError(
            f"deployment {action} names {len(versions)} versions of {model_id} (its modules: "
            f"{names[:300] or 'none'}): give its distribution one software module that is called {model_id}"
        )
    return Order(
        action=action,
        version=versions.pop(),
        fetch=deployment.download != "skip",
        switch=deployment.update != "skip" and deployment.window != "unavailable",
        only_fetch=deployment.update == "skip" and deployment.window is None,
        confirmed=confirmed,
    )


def serves(state: State, version: str) -> bool:
    """Whether a version serves and was committed to."""
    return state.good is not None and state.good == state.current and state.good.version == version


def is_ready(order: Order, state: State) -> bool:
    """Whether only the server's word is missing for the switch."""
    return state.phase is Phase.ARMED and not (order.switch and order.confirmed)


def is_approved(order: Order, state: State) -> bool:
    """Whether somebody let what was ordered be switched to."""
    release = None if state.work is None else state.work.release
    return release is not None and (release.version, release.manifest_sha256) == (
        order.version,
        state.approved,
    )


def may_drop(state: State) -> bool:
    """Whether the robot has an update in work that can still be dropped."""
    return state.phase in DROPPABLE


def must_end(state: State) -> bool:
    """Whether the robot has an update in work that has gone too far for anybody to have a say in it."""
    return state.phase is not Phase.IDLE and state.phase not in DROPPABLE


def progress(order: Order, state: State) -> tuple[Execution, tuple[str, ...]]:
    """What to say of an update in work: how far it is, and why it waits."""
    execution = _EXECUTIONS.get(state.phase, "proceeding")
    if execution == "downloaded" and order.only_fetch:
        # It would end the action before the gate has spoken.
        execution = "proceeding"
    if is_ready(order, state):
        return execution, ("it is here and has passed its gate: it waits for its maintenance window",)
    doing = f"{state.phase}: {order.version}"
    return execution, (doing, *details([state.reason])) if state.reason else (doing,)


def concluded(order: Order, state: State, measured: Iterable[str], *, asked: bool) -> Answer | None:
    """How an order ended whose update has ended; None: the robot could not ask its repository, has taken what
    one update may take, or was too busy to judge the candidate, and the order stays.

    Args:
        measured: what the gate did, in sentences.
        asked: whether the repository had answered.
    """
    if serves(state, order.version):
        told = details([f"{order.version} serves, and is committed to", *measured])
        return Answer(execution="closed", finished="success", details=told, version=order.version)
    held_against = any(refusal.reason == state.reason for refusal in state.refused.values())
    if state.result == "undecided" or (state.result == "failed" and not (asked and held_against)):
        return None
    told = details([f"{state.result}: {state.reason}", *measured])
    return Answer(execution="closed", finished="failure", details=told, version=order.version)


def details(lines: Iterable[str]) -> tuple[str, ...]:
    """Sentences within the limits of the server."""
    return tuple(line[:_MAX_DETAIL] for line in lines if line)[:_MAX_DETAILS]


def attributes(config: Config, state: State, software: str) -> dict[str, str]:
    """What the server is to know about a robot.

    Args:
        software: the version of jepa-edge.
    """
    good = state.good
    version = "none" if good is None else good.version
    told = {
        "jepa.model": config.model_id,
        "jepa.version": version,
        # The name under which gooseBit and SWUpdate fleets look for it.
        "sw_version": version,
        "jepa.release_seq": "0" if good is None else str(good.release_seq),
        "jepa.channel": config.channel,
        "jepa.hardware": ",".join(config.hardware_ids),
        "jepa.engine": config.engine,
        "jepa.software": software,
        "jepa.pinned": "yes" if state.pinned else "no",
        "jepa.alarm": state.alarm or "none",
    }
    return {key: _NOT_A_LETTER.sub("?", value)[:_MAX_VALUE] for key, value in told.items()}


def _version(chunk: Chunk, model_id: str) -> str | None:
    about = {entry.key: entry.value for entry in chunk.metadata or ()}
    if about.get(_MODEL_KEY, chunk.name) != model_id:
        return None
    return about.get(_VERSION_KEY, chunk.version)
