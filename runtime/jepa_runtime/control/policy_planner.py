"""Execution of the action chunks of a policy, each checked by the critic before it starts.

The newest candidates of the policy are proposed for prediction with an image. The futures of a later image
answer them. If no chunk is executed then, the critic judges them, and the actions of its verdict are
executed, one per model step; otherwise newer candidates replace them. At the end of a chunk without a verdict
on the next, the robot stands. The outcome of a chunk is the energy of the image that is nearest to the end of
its last action. Nothing is learned from a chunk that was interrupted or not sent as decided.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.goal_checker import GoalChecker
from jepa_runtime.control.receding_horizon import Decision, PlannerInput, State
from jepa_runtime.critic import ChunkJudge, CriticVerdict, Response
from jepa_runtime.planning.action_limits import ActionLimits

# Images without futures of the proposed candidates after which they are proposed again.
_MAX_IMAGES_WITHOUT_ANSWER = 5


@dataclass(frozen=True, kw_only=True)
class PolicyVerdict:
    """The answer to one message of a policy.

    Attributes:
        stamp_ns: Stamp of the candidates.
        source: Their source.
        verdict: What the critic decided; None: the candidates were not judged.
        reason: Why.
        image_ns: Stamp of the image on which the verdict is based; 0: they were not judged.
        is_warming_up: Whether the critic was in its warm-up.
    """

    stamp_ns: int
    source: str
    verdict: CriticVerdict | None
    reason: str
    image_ns: int = 0
    is_warming_up: bool = False


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of the execution of a policy.

    Attributes:
        steps: Steps of each chunk that are judged and executed; 0: all.
        timeout_s: Time from the arrival of candidates to their verdict after which they are not judged.
        commands: Whether the robot is commanded. False: candidates are judged as soon as their futures
            arrive, with thresholds that do not change, and the caller executes the verdict.
        warm_up: Whether chunks may be executed unchecked while the critic has no learned thresholds. False:
            they are not judged.
        reached_after: Consecutive images at or below the goal threshold after which the goal is reached.
        silent_after_s: Time without an action to execute after which the reason is reported.
    """

    METHOD: ClassVar[str] = "policy"

    steps: int = 0
    timeout_s: float = 1.0
    commands: bool = True
    warm_up: bool = True
    reached_after: int = 3
    silent_after_s: float = 2.0


@dataclass
class _Offer:
    """Candidates that wait for their verdict, with the slower variants of the first."""

    variants: NDArray[np.float32]
    stamp_ns: int
    source: str
    arrived_s: float


@dataclass
class _Chunk:
    """A chunk that is executed, or whose outcome is awaited."""

    verdict: CriticVerdict
    begin_ns: int
    # End of the effect of its last action.
    end_ns: int
    # Stamps and energies of the images since it began.
    images: list[tuple[int, float]] = field(default_factory=list)
    is_sent: bool = True


class PolicyPlanner:
    """Decides from the futures of each image what to execute of the policy.

    Args:
        judge: The critic's decisions for the active model.
        limits: Action limits of the model.
        config: Settings.
        step_s: Duration of a model step.
        horizon: Steps that the model predicts.
        num_samples: Candidates that it predicts at once.
        goal_threshold: Energy at or below which an image counts towards the goal.
        clock: Monotonic seconds.

    Attributes:
        last_command: Action [A] that was sent to the robot last; set by the caller.
        executed: Always None: the policy limits the changes of its actions itself.
        iterations: Number of chunks that were judged.
        stuck_count: Always 0: whether a policy makes progress is decided by the timeout of its goal.
        counts: Number of verdicts by response, of candidates that were not judged, and of outcomes.
    """

    def __init__(
        self,
        judge: ChunkJudge,
        limits: ActionLimits,
        config: PolicyConfig,
        *,
        step_s: float,
        horizon: int,
        num_samples: int,
        goal_threshold: float,
        clock: Callable[[], float],
    ) -> None:
        self.judge = judge
        self._limits, self._config, self._clock = limits, config, clock
        self._step_ns = round(step_s * 1e9)
        self._horizon, self._num_samples = horizon, num_samples
        self.executed: NDArray[np.float32] | None = None
        self.iterations = self.stuck_count = 0
        self.counts: Counter[str] = Counter()
        self._goal_checker = GoalChecker(goal_threshold, images=config.reached_after)
        self._verdicts: list[PolicyVerdict] = []
        # Candidates that wait to be proposed, and those that were proposed and have no verdict yet.
        self._newest: _Offer | None = None
        self._proposed: _Offer | None = None
        # Stamp of the newest image, and time without an action to execute.
        self._newest_ns = self._idle_ns = 0
        # The decided action that the caller sends.
        self._commanded: NDArray[np.floating] | None = None
        self._begin(None)

    @property
    def may_warm_up(self) -> bool:
        """Whether chunks may be executed unchecked; their outcomes are known only if they are commanded."""
        return self._config.warm_up and self._config.commands

    @property
    def goal_threshold(self) -> float:
        """Energy at or below which an image counts towards the goal."""
        return self._goal_checker.threshold

    @goal_threshold.setter
    def goal_threshold(self, threshold: float) -> None:
        self._goal_checker.threshold = threshold

    @property
    def horizon_s(self) -> float:
        """Duration of the longest chunk."""
        return self._horizon * self._step_ns / 1e9

    @property
    def obstacle(self) -> str:
        """Why there has been no action to execute for too long; empty: there has been one."""
        if not self._config.commands or self._idle_ns <= self._config.silent_after_s * 1e9:
            return ""
        idle = f"for {self._idle_ns / 1e9:.1f} s"
        if self._vetoes:
            return f"the critic has allowed no chunk of the policy {idle} ({self._vetoes} vetoes in a row)"
        if self._newest is not None or self._proposed is not None:
            return f"no futures of the policy's candidates arrived {idle}"
        return f"no valid candidates of the policy arrived {idle}"

    def offer(
        self, actions: NDArray[np.floating], *, stamp_ns: int, source: str, publishers: int = 1
    ) -> None:
        """Accept candidates [K, h, A] of the policy, or answer why they are rejected.

        They replace earlier candidates that were not judged yet.

        Args:
            actions: The candidates; the first is the given one.
            stamp_ns: Their stamp.
            source: Their source.
            publishers: Number of publishers of the candidates.
        """
        reason = self._rejection(actions, publishers)
        if reason:
            self._refuse(stamp_ns, source, reason)
            return
        chunks = np.asarray(actions, np.float32)[:, : self._config.steps or self._horizon]
        variants = self.judge.variants(chunks)
        self._newest = _Offer(variants, stamp_ns, source, self._clock())

    def take_verdicts(self) -> list[PolicyVerdict]:
        """Return the verdicts since the last call, oldest first."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    def avoid(self, action: NDArray[np.floating]) -> None:
        """Do nothing: only the policy chooses directions."""

    def confirm_motion(self) -> None:
        """Do nothing, as :meth:`avoid`."""

    def continue_to(self, goal_ns: int) -> None:
        """Do nothing: a chunk was judged for its goal, and ends with it."""

    def restart(self) -> None:
        """Discard the chunk in progress and the candidates, since the robot was stopped."""
        self._discard("the robot is stopped: see the diagnostics for the cause")
        self._begin(self._goal_ns)

    def update(self, futures: PlannerInput) -> Decision:
        """Process the futures of a new image and decide."""
        goal_ns = futures.goal_stamp_ns
        if goal_ns is None:
            self._discard("there is no goal")
            self._begin(None)
            return Decision(State.IDLE, None, None)
        # If the clock was set back, earlier stamps mean nothing.
        is_set_back = futures.stamp_ns < self._newest_ns
        if goal_ns != self._goal_ns or is_set_back:
            if self._goal_ns is not None:
                self._discard("the clock was set back" if is_set_back else "the goal has changed")
            self._begin(goal_ns)
        elapsed_ns = futures.stamp_ns - self._newest_ns if self._newest_ns else 0
        self._newest_ns = futures.stamp_ns
        self._check_sent()
        self._observe(futures)
        if self._goal_checker.update(futures.current_energy):
            self._discard("the goal is reached")
            return Decision(State.REACHED, None, None)
        self._note_answer(futures)
        command = self._command(futures)
        self._idle_ns = 0 if command is not None else self._idle_ns + elapsed_ns
        self._commanded = command
        return Decision(State.SEEKING, command, self._proposal(futures))

    def refine(self, futures: PlannerInput) -> Decision:
        """Decide again as for the newest image, since each image has one verdict."""
        return Decision(State.SEEKING, self._commanded, None)

    # --- inputs

    def _rejection(self, actions: NDArray[np.floating], publishers: int) -> str:
        """Return why candidates cannot be judged; empty: they can."""
        if publishers > 1:
            return f"the candidates have {publishers} publishers: keep one policy and stop the others"
        if self.judge.is_warming_up and not self.may_warm_up:
            return "there are no learned thresholds for this model, and no warm-up in which to learn them"
        size, most = len(self._limits.low), self._num_samples - self.judge.slower_count
        is_valid = actions.ndim == 3 and 1 <= len(actions) <= most and 1 <= actions.shape[1] <= self._horizon
        if not is_valid or actions.shape[2] != size:
            return (
                f"actions must be [1..{most}, 1..{self._horizon}, {size}], got {list(actions.shape)}; the "
                f"model predicts {self._num_samples} candidates at once, slower variants included"
            )
        # Finite double-precision numbers may overflow in single precision.
        with np.errstate(over="ignore"):
            chunks = np.asarray(actions, np.float32)
        if not np.isfinite(chunks).all():
            return "actions must be finite, got NaN or infinity"
        if not np.array_equal(self._limits.clip(chunks), chunks):
            return "actions exceed the limits of the model, within which it was trained"
        return ""

    def _refuse(self, stamp_ns: int, source: str, reason: str) -> None:
        self.counts["not_judged"] += 1
        self._verdicts.append(PolicyVerdict(stamp_ns=stamp_ns, source=source, verdict=None, reason=reason))

    # --- decisions

    def _begin(self, goal_ns: int | None) -> None:
        """Forget the chunk in progress and all images."""
        self._goal_ns = goal_ns
        self._goal_checker.reset()
        self._chunk: _Chunk | None = None
        self._outcomes: deque[_Chunk] = deque()
        self._commanded = None
        self.last_command: NDArray[np.floating] = np.zeros_like(self._limits.low)
        # Stamp of the image with which candidates were proposed, whether the newest image has their futures,
        # and how many images have come without them.
        self._proposed_ns, self._is_answered, self._images_without_answer = 0, False, 0
        self._newest_ns = self._idle_ns = self._vetoes = 0

    def _discard(self, reason: str) -> None:
        """End the chunk in progress, and answer the candidates that were not judged."""
        self._chunk = self._commanded = None
        self._outcomes = deque()
        for offer in (self._proposed, self._newest):
            if offer is not None:
                self._refuse(offer.stamp_ns, offer.source, reason)
        self._proposed = self._newest = None

    def _note_answer(self, futures: PlannerInput) -> None:
        """Note whether the image has the futures of the proposed candidates, and refuse old candidates."""
        if self._proposed is not None:
            self._is_answered = futures.candidates_stamp_ns == self._proposed_ns and len(
                futures.energies
            ) == len(self._proposed.variants)
            self._images_without_answer = 0 if self._is_answered else self._images_without_answer + 1
            if self._is_old(self._proposed):
                waited = "a chunk was executed" if self._is_answered else "no futures of its actions arrived"
                self._refuse_old(self._proposed, waited)
                self._proposed = None
        if self._newest is not None and self._is_old(self._newest):
            self._refuse_old(self._newest, "no futures of earlier candidates arrived")
            self._newest = None

    def _is_old(self, offer: _Offer) -> bool:
        return self._clock() - offer.arrived_s > self._config.timeout_s

    def _refuse_old(self, offer: _Offer, cause: str) -> None:
        reason = f"not judged within {self._config.timeout_s:g} s: {cause}"
        self._refuse(offer.stamp_ns, offer.source, reason)

    def _command(self, futures: PlannerInput) -> NDArray[np.floating] | None:
        """Return the action to execute; None: there is none."""
        if self._chunk is not None:
            early_ns = self._step_ns // 8
            step = (futures.stamp_ns - self._chunk.begin_ns + early_ns) // self._step_ns
            if step < len(self._chunk.verdict.actions):
                return np.asarray(self._chunk.verdict.actions[step])
            self._chunk = None
        if self._proposed is None or not self._is_answered:
            return None
        offer, self._proposed = self._proposed, None
        verdict = self._judge(offer, futures)
        if verdict.response is Response.VETO or not self._config.commands:
            return None
        start_ns = futures.stamp_ns if futures.start_ns is None else futures.start_ns
        end_ns = start_ns + len(verdict.actions) * self._step_ns
        image = futures.stamp_ns, futures.current_energy
        self._chunk = _Chunk(verdict, futures.stamp_ns, end_ns, [image])
        self._outcomes.append(self._chunk)
        return np.asarray(verdict.actions[0])

    def _judge(self, offer: _Offer, futures: PlannerInput) -> CriticVerdict:
        last = offer.variants.shape[1] - 1
        scores = futures.energies[:, last].astype(np.float64) - futures.current_energy
        is_warming_up = self.judge.is_warming_up
        verdict = self.judge.judge(offer.variants, scores, energy_now=futures.current_energy)
        self._vetoes = self._vetoes + 1 if verdict.response is Response.VETO else 0
        self.iterations += 1
        self.counts[verdict.response.value] += 1
        self._verdicts.append(
            PolicyVerdict(
                stamp_ns=offer.stamp_ns,
                source=offer.source,
                verdict=verdict,
                reason=verdict.reason,
                image_ns=futures.stamp_ns,
                is_warming_up=is_warming_up,
            )
        )
        return verdict

    def _proposal(self, futures: PlannerInput) -> NDArray[np.floating] | None:
        """Return the candidates [K, H, A] to predict; None: those proposed last."""
        is_lost = self._images_without_answer >= _MAX_IMAGES_WITHOUT_ANSWER
        if self._newest is not None and (self._proposed is None or self._is_answered or is_lost):
            self._proposed, self._newest = self._newest, None
        elif self._proposed is None or not is_lost:
            return None
        self._proposed_ns, self._is_answered, self._images_without_answer = futures.stamp_ns, False, 0
        missing = self._horizon - self._proposed.variants.shape[1]
        return np.pad(self._proposed.variants, ((0, 0), (0, missing), (0, 0)), mode="edge")

    # --- outcomes

    def _check_sent(self) -> None:
        """Note if the last action of the chunk in progress was not sent as decided."""
        if self._chunk is not None and self._commanded is not None:
            self._chunk.is_sent &= np.array_equal(self.last_command, self._commanded)

    def _observe(self, futures: PlannerInput) -> None:
        """Learn from the chunks that have ended."""
        for chunk in self._outcomes:
            chunk.images.append((futures.stamp_ns, futures.current_energy))
        while self._outcomes and self._outcomes[0].end_ns <= futures.stamp_ns:
            chunk = self._outcomes.popleft()
            end_ns = chunk.end_ns
            stamp_ns, final = min(chunk.images, key=lambda image: abs(image[0] - end_ns))
            # Two images of a live camera never have exactly the same energy.
            is_repeated = any(energy == final for other_ns, energy in chunk.images if other_ns != stamp_ns)
            if not chunk.is_sent or is_repeated or abs(stamp_ns - end_ns) > self._step_ns // 2:
                self.counts["outcomes_dropped"] += 1
                continue
            outcome = self.judge.observe(chunk.verdict, final - (chunk.verdict.energy_now or 0.0))
            if outcome is not None:
                self.counts["harmless" if outcome.is_harmless else "harmful"] += 1
