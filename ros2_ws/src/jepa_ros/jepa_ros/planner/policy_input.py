"""The candidates of a policy, and the verdicts of the critic about them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jepa_msgs.msg import ActionCandidates, CriticVerdict, ModelInfo
from rclpy.node import Node

from jepa_ros.common import qos
from jepa_ros.common.action_commands import create_action_commands
from jepa_ros.common.conversions import fill, from_time, to_time
from jepa_ros.common.duplicate_publishers import duplicate_publishers
from jepa_runtime.control import ControllerModel, PolicyConfig, PolicyPlanner, PolicyVerdict
from jepa_runtime.critic import (
    ChunkJudge,
    CriticConfig,
    CriticState,
    Response,
    read_critic_state,
    write_critic_state,
)
from jepa_runtime.errors import CriticError, JepaRuntimeError
from jepa_runtime.planning import ActionLimits
from jepa_runtime.recording import messages
from jepa_runtime.util import check_writable

_CODES = {
    Response.ACCEPT: CriticVerdict.ACCEPT,
    Response.CHOOSE: CriticVerdict.CHOOSE,
    Response.SLOW_DOWN: CriticVerdict.SLOW_DOWN,
    Response.VETO: CriticVerdict.VETO,
}
# Minimum time between two writes of the state, which changes with each chunk.
_SAVE_PERIOD_S = 60.0


class PolicyInput:
    """Subscribes to ``~/policy_candidates`` and publishes ``~/verdict``.

    Args:
        node: The planner node.
        parameters: Its parameters.
        lock: Guards the planner of the policy.

    Raises:
        JepaRuntimeError: The parameters of the critic contradict each other, or the file of its state cannot
            be written.
    """

    def __init__(self, node: Node, parameters: Mapping[str, Any], lock: threading.RLock) -> None:
        self._node, self._parameters, self._lock = node, parameters, lock
        self._config = critic_config(parameters)
        self._state_path = Path(parameters["critic_state"]) if parameters["critic_state"] else None
        if self._state_path is not None:
            check_writable(self._state_path)
        self._planner: PolicyPlanner | None = None
        # The critic, and the model and limits for which it has learned.
        self._judge: tuple[tuple[Any, ...], ChunkJudge] | None = None
        self._saved: CriticState | None = None
        self._saved_s = -math.inf
        # A slow disk must not delay commands.
        self._writer: threading.Thread | None = None
        self._topic = node.resolve_topic_name("~/policy_candidates")
        self._verdicts = node.create_publisher(CriticVerdict, "~/verdict", qos.RESULT)
        node.create_subscription(ActionCandidates, "~/policy_candidates", self.on_candidates, qos.RESULT)

    @property
    def commands(self) -> bool:
        """Whether the planner commands the robot."""
        return bool(self._parameters["policy_commands"])

    def on_candidates(self, message: ActionCandidates) -> None:
        """Pass candidates to the planner, or answer why they are rejected."""
        stamp_ns, source = from_time(message.header.stamp), message.source
        with self._lock:
            try:
                if self._planner is None:
                    raise ValueError("there is no usable model: see the diagnostics of the planner")
                self._planner.offer(
                    messages.array_of(message.actions),
                    stamp_ns=stamp_ns,
                    source=source,
                    publishers=self._node.count_publishers(self._topic),
                )
            except ValueError as error:
                rejected = PolicyVerdict(stamp_ns=stamp_ns, source=source, verdict=None, reason=str(error))
                self._verdicts.publish(self._message(rejected, ""))
        self.publish_verdicts()

    def create_model(self, info: ModelInfo, limits: ActionLimits) -> ControllerModel:
        """Return the description of a model, with a planner that executes the policy."""
        self._planner = PolicyPlanner(
            self._judge_of(info, limits),
            limits,
            PolicyConfig(
                steps=self._parameters["policy_steps"],
                timeout_s=self._parameters["policy_timeout_s"],
                commands=self.commands,
                warm_up=self._parameters["critic_warmup"] > 0,
                reached_after=self._parameters["reached_after"],
                silent_after_s=self._parameters["stuck_after_s"],
            ),
            step_s=info.step_s,
            horizon=info.horizon,
            num_samples=info.num_samples,
            goal_threshold=info.goal_threshold,
            clock=time.monotonic,
        )
        return ControllerModel(
            planner=self._planner,
            limits=limits,
            step_s=info.step_s,
            goal_threshold=info.goal_threshold,
            per_step=create_action_commands(info.action_names).per_step,
        )

    def remove_model(self) -> None:
        """Answer the candidates that wait for their verdict: their model is no longer active."""
        if self._planner is not None:
            self._planner.restart()
            self.publish_verdicts()
            self._planner = None

    def publish_verdicts(self, frame_id: str = "") -> None:
        """Publish the verdicts since the last call.

        Args:
            frame_id: frame_id of the newest image.
        """
        with self._lock:
            verdicts = [] if self._planner is None else self._planner.take_verdicts()
        for verdict in verdicts:
            self._verdicts.publish(self._message(verdict, frame_id))
            if verdict.verdict is None:
                self._node.get_logger().warning(
                    f"candidates not judged: {verdict.reason}", throttle_duration_sec=5.0
                )

    def warnings(self) -> list[str]:
        """Return what the diagnostics warn about."""
        hint = "keep one policy and stop the others"
        warnings = duplicate_publishers(self._node, [self._topic], hint)
        if self._planner is not None and self._planner.judge.is_warming_up:
            warnings.append(
                "the critic is warming up: chunks are executed unchecked"
                if self._planner.may_warm_up
                else "the critic has no learned thresholds for this model (critic_state): candidates are not "
                "judged"
            )
        return warnings

    def values(self) -> dict[str, Any]:
        """Return values for the diagnostics and the report."""
        if self._planner is None:
            return {}
        judge = self._planner.judge
        return {
            "critic/warming_up": judge.is_warming_up,
            "critic/veto_threshold": f"{judge.veto_threshold:.4g}",
            **{f"critic/{name}": count for name, count in self._planner.counts.items()},
        }

    def save(self) -> None:
        """Write the state of the critic to its file on another thread, at most once a minute."""
        is_due = self._saved is None or time.monotonic() - self._saved_s >= _SAVE_PERIOD_S
        if is_due and (self._writer is None or not self._writer.is_alive()):
            self._start_writer()

    def close(self) -> None:
        """Write the state of the critic, and wait until it is written."""
        if self._writer is not None:
            self._writer.join()
        self._start_writer()
        if self._writer is not None:
            self._writer.join()

    def _start_writer(self) -> None:
        """Begin to write the state if it has changed."""
        with self._lock:
            if self._state_path is None or self._judge is None:
                return
            (model, *_), judge = self._judge
            state = judge.state
        if state is None or state == self._saved:
            return
        self._saved, self._saved_s = state, time.monotonic()
        self._writer = threading.Thread(
            target=self._write, args=(self._state_path, state, model), name="jepa-critic-state", daemon=True
        )
        self._writer.start()

    def _write(self, path: Path, state: CriticState, model: str) -> None:
        try:
            write_critic_state(path, state, model=model)
        except JepaRuntimeError as error:
            self._node.get_logger().error(f"the state of the critic is not saved: {error}")

    def _judge_of(self, info: ModelInfo, limits: ActionLimits) -> ChunkJudge:
        """Return the critic for a model: with what it has learned for the same one, else from its file."""
        model = f"{info.sha256} {info.precision}"
        key = (model, tuple(limits.low), tuple(limits.high), limits.max_norm, info.step_s)
        if self._judge is not None and self._judge[0] == key:
            return self._judge[1]
        judge = None
        if self._state_path is not None:
            try:
                judge = self._create_judge(info, limits, read_critic_state(self._state_path, model=model))
            except CriticError as error:
                self._node.get_logger().warning(str(error))
        judge = judge or self._create_judge(info, limits, None)
        self._judge, self._saved = (key, judge), judge.state
        return judge

    def _create_judge(self, info: ModelInfo, limits: ActionLimits, state: CriticState | None) -> ChunkJudge:
        return ChunkJudge(
            self._config,
            limits,
            is_rate=not create_action_commands(info.action_names).per_step,
            latent_space=info.latent_space,
            energy_space=info.energy_space,
            state=state,
            seed=self._parameters["planner_seed"],
        )

    def _message(self, given: PolicyVerdict, frame_id: str) -> CriticVerdict:
        config, verdict = self._config, given.verdict
        message = CriticVerdict(
            candidates_stamp=to_time(given.stamp_ns),
            source=given.source,
            response=CriticVerdict.NOT_JUDGED,
            reason=given.reason,
            index=-1,
            scale=1.0,
            score=math.nan,
            upper_bound=math.nan,
            veto_threshold=math.nan,
            false_veto_rate=config.false_veto_rate,
            coverage=config.coverage,
            limit=config.limit,
            warming_up=given.is_warming_up,
        )
        if verdict is None:
            return message
        is_veto = verdict.response is Response.VETO
        actions = verdict.actions[:0] if is_veto else verdict.actions
        fields = {
            "header": messages.header(given.image_ns, frame_id),
            "response": _CODES[verdict.response],
            "index": -1 if verdict.index is None else verdict.index,
            "scale": verdict.scale,
            "actions": messages.tensor("actions", np.ascontiguousarray(actions)),
            "scores": verdict.scores.astype(np.float32),
            "score": verdict.predicted,
            "upper_bound": verdict.upper_bound,
            "veto_threshold": verdict.veto_threshold,
            "trial": verdict.is_trial,
        }
        return fill(message, fields)


def critic_config(parameters: Mapping[str, Any]) -> CriticConfig:
    """Return the settings of the critic.

    Raises:
        JepaRuntimeError: They contradict each other.
    """
    scale, warmup = parameters["critic_slow_down"], parameters["critic_warmup"]
    try:
        if parameters["max_change"] < 1:
            raise ValueError("max_change must be 1: a chunk is executed as it was judged")
        return CriticConfig(
            limit=parameters["critic_limit"],
            false_veto_rate=parameters["critic_false_veto_rate"],
            coverage=parameters["critic_coverage"],
            **({"warmup": warmup} if warmup else {}),
            trial_rate=parameters["critic_trial_rate"] if parameters["policy_commands"] else 0.0,
            scales=(scale,) if scale else (),
        )
    except ValueError as error:
        raise JepaRuntimeError(f"search_method policy: {error}", code="node.invalid_parameter") from error
