"""Measure how often the shadow gate accepts a good candidate and rejects a bad one, on Two Rooms.

    itself       the active model, compared with itself
    int8         its INT8 variant: as good, but not identical
    retrain      the same recipe with another seed (--retrain): as good, with other latents
    noise X      Gaussian noise on the predictor's weights, X times the root mean square of each matrix; a new
                 sample in each trial

Each candidate is compared with the fp32 variant of --bundle in --trials comparisons on separate frames, and
drives --episodes closed-loop episodes for each of them, in the same worlds as all others: its cost is
measured, not assumed. Proportions have Wilson's 95 % interval, the goals lost compared with `itself` that of
a bootstrap over the trials. Finished trials are written to --json at once; a restarted benchmark continues
from there.

Exit status 1 if a harmless candidate is not accepted, or a --costly one is, in more than alpha of the trials
(the interval of the proportion lies above alpha), or if a candidate named harmless is shown to cost two
percentage points of the goals, or one named costly is not; 2 if something could not be run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.variants import perturbed
from rich.progress import track

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import count
from jepa_runtime.control import ControllerConfig
from jepa_runtime.errors import JepaRuntimeError, UpdateError
from jepa_runtime.model import EncoderCache, WorldModel
from jepa_runtime.ota import Budgets
from jepa_runtime.ota.gate import GOOD, WORSE, PairedTest, ShadowTest, Verdict
from jepa_runtime.util import MIN_SAMPLES, atomic_files, confidence_interval, resampled_means, wilson
from jepa_sim.closed_loop.episodes import HELD_OUT_SEED, episode_seeds, model_driver, run_episode
from jepa_sim.two_rooms_source import TwoRoomsSource
from jepa_sim.worlds import TwoRooms

ROOT = Path(__file__).resolve().parent.parent
RETRAIN = ROOT / "out" / "two_rooms_seed1"
COST = 0.02


@dataclass(frozen=True)
class End:
    """Result of one trial of a candidate.

    Attributes:
        reason: Why the test ended.
        frames: Number of frames until then.
        current: Mean score of the current model.
        candidate: Mean score of the candidate.
        goals: 1 for each goal that the candidate reached, else 0.
    """

    reason: str
    frames: int
    current: float
    candidate: float
    goals: list[int]


Open = Callable[[int, ExitStack], WorldModel]


@dataclass(frozen=True)
class Kind:
    """One kind of candidate.

    Attributes:
        harmless: Expected verdict; None: no claim.
        open: Opens the candidate of a trial; the stack closes it.
    """

    name: str
    harmless: bool | None
    open: Open


class CachedModel:
    """An open model that computes once what several comparisons request for one frame.

    Args:
        model: The model.
        encoder: Another model with the same encoder, whose latents are used.
    """

    def __init__(self, model: WorldModel, encoder: CachedModel | None = None) -> None:
        self.model, self.manifest = model, model.manifest
        self._encoder = encoder
        self._encoded: tuple[Any, Any] = None, None
        self._scored: tuple[Any, float] = None, 0.0

    def create_cache(self) -> EncoderCache | None:
        """See :meth:`WorldModel.create_cache`."""
        return self.model.create_cache()

    def encode_clip(self, images: Sequence[NDArray[np.uint8]], *_: Any) -> NDArray[np.float32]:
        """See :meth:`WorldModel.encode_clip`, for a model that reads single images."""
        (frame,) = images
        return self.encode(frame)

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :meth:`WorldModel.encode`."""
        if self._encoder is not None:
            return self._encoder.encode(frame)
        if frame is not self._encoded[0]:
            self._encoded = frame, self.model.encode(frame)
        return self._encoded[1]

    def surprise(self, *known: Any, history_states: None = None) -> float:
        """See :meth:`WorldModel.surprise`; the arrived latent, last of ``known``, identifies the frame."""
        if known[-1] is not self._scored[0]:
            score = self.model.surprise(*known, history_states=history_states)
            self._scored = known[-1], score
        return self._scored[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        bundle = Bundle.open(args.bundle)
        retrain = args.retrain or (RETRAIN if RETRAIN.exists() else None)
        plan = {"alpha_accept": args.alpha, "alpha_refuse": args.alpha, "margin": args.max_error_ratio - 1}
        settings = {
            "bundle": bundle.sha256,
            "retrain": Bundle.open(retrain).sha256 if retrain else None,
            "episodes": args.episodes,
            "test": plan,
        }
        trials = load(args.json, settings)
        with ExitStack() as stack:
            current = stack.enter_context(WorldModel.open(bundle, precision="fp32"))
            kinds = _kinds(args, bundle, retrain, current)
            for number in track(range(args.trials), "trials", transient=True):
                todo = [kind for kind in kinds if len(trials.get(kind.name, ())) <= number]
                for name, end in trial(number, current, todo, plan, args.episodes).items():
                    trials.setdefault(name, []).append(end)
                rows = [row(kind, trials, number + 1) for kind in kinds]
                save(args.json, settings, rows, trials)
    except (JepaRuntimeError, OSError) as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2
    _show(rows)
    faults = [fault for one in rows for fault in failures(one, args.alpha)]
    for fault in faults:
        print(f"gate: {fault}", file=sys.stderr)
    return int(bool(faults))


def trial(
    number: int, current: WorldModel, kinds: Sequence[Kind], plan: dict[str, float], episodes: int
) -> dict[str, End]:
    """Compare a candidate of each kind with the current model on the same frames, and let it drive."""
    with ExitStack() as stack:
        active, tests = CachedModel(current), {kind.name: PairedTest(**plan) for kind in kinds}
        models = {kind.name: kind.open(number, stack) for kind in kinds}
        shadows = {
            name: ShadowTest(
                active, CachedModel(model, active if _same_encoder(model, current) else None), tests[name]
            )
            for name, model in models.items()
        }
        source = TwoRoomsSource(seed=HELD_OUT_SEED + number, start_ns=0)
        frames = source.frames()
        while undecided := [name for name, test in tests.items() if test.verdict is Verdict.CONTINUE]:
            frame = next(frames)
            for name in undecided:
                shadows[name].add(frame, source.command)
        return {
            name: End(
                test.reason,
                test.summary().frames,
                round(test.summary().current, 5),
                round(test.summary().candidate, 5),
                _drive(models[name], number, episodes),
            )
            for name, test in tests.items()
        }


def row(kind: Kind, trials: dict[str, list[End]], count: int) -> dict[str, Any]:
    """Summarize the first ``count`` trials of a kind of candidate."""
    ends, own = trials[kind.name][:count], trials["itself"][:count]
    reasons = [end.reason for end in ends]
    ratios = [end.candidate / end.current for end in ends]
    lost = np.array([sum(base.goals) - sum(end.goals) for base, end in zip(own, ends, strict=True)], float)
    played = len(ends[0].goals)
    return {
        "name": kind.name,
        "harmless": kind.harmless,
        "trials": len(ends),
        "accepted": reasons.count(GOOD),
        "shown_worse": reasons.count(WORSE),
        "frames_median": float(np.median([end.frames for end in ends])),
        "error_ratio": {"mean": float(np.mean(ratios)), "least": min(ratios), "most": max(ratios)},
        "goals": sum(sum(end.goals) for end in ends),
        "episodes": sum(len(end.goals) for end in ends),
        "goals_lost": float(lost.mean() / played) if played else None,
        "goals_lost_interval": (
            confidence_interval(resampled_means(lost / played, seed=0))
            if played and len(lost) >= MIN_SAMPLES
            else None
        ),
    }


def failures(row: dict[str, Any], alpha: float) -> list[str]:
    """Return the failures of a row: too many wrong verdicts, and expectations that do not hold."""
    name, trials, accepted = row["name"], row["trials"], row["accepted"]
    if row["harmless"] is None:
        return []
    faults = []
    wrong, verdict = (trials - accepted, "not accepted") if row["harmless"] else (accepted, "accepted")
    if wilson(wrong, trials)[0] > alpha:
        faults.append(f"{name} is {verdict} in {wrong} of {trials} trials, more than {alpha:.1%} of them")
    if row["goals_lost_interval"] is not None:
        low, high = row["goals_lost_interval"]
        if row["harmless"] and low >= COST:
            faults.append(f"{name} is not harmless: it loses at least {low:.1%} of the goals")
        if not row["harmless"] and low < COST:
            faults.append(
                f"{name} is not shown to cost {COST:.0%} of the goals: {low:.1%} to {high:.1%}: more --trials"
            )
    return faults


def load(path: Path, settings: dict[str, Any]) -> dict[str, list[End]]:
    """Return the trials of earlier runs with the same settings, by kind.

    Raises:
        UpdateError: The file belongs to other settings.
    """
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    earlier = content["settings"]
    if earlier != (settings if earlier["retrain"] else settings | {"retrain": None}):
        raise UpdateError(f"{path}: belongs to other models or settings; remove it or choose another --json")
    return {name: [End(*end) for end in ends] for name, ends in content["trials"].items()}


def save(
    path: Path, settings: dict[str, Any], rows: list[dict[str, Any]], trials: dict[str, list[End]]
) -> None:
    """Write the results atomically."""
    tuples = {name: [astuple(end) for end in ends] for name, ends in trials.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"settings": settings, "rows": rows, "trials": tuples}) + "\n"
    atomic_files.write(path, content.encode())


def _kinds(args: argparse.Namespace, bundle: Bundle, retrain: Path | None, current: WorldModel) -> list[Kind]:
    def opened(other: Bundle | Path, precision: str) -> Open:
        return lambda _, stack: stack.enter_context(WorldModel.open(other, precision=precision))

    def noisy(level: float) -> Open:
        def open_one(number: int, stack: ExitStack) -> WorldModel:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "candidate"
            other = perturbed(bundle, folder, noise=level, seed=number)
            return stack.enter_context(WorldModel.open(other, precision="fp32"))

        return open_one

    return [
        Kind("itself", True, lambda *_: current),
        Kind("int8", True, opened(bundle, "int8")),
        *([Kind("retrain", True, opened(retrain, "fp32"))] if retrain else []),
        *(
            Kind(f"noise {level:g}", harmless, noisy(level))
            for harmless, levels in ((True, args.harmless), (None, args.between), (False, args.costly))
            for level in levels
        ),
    ]


def _same_encoder(one: WorldModel, other: WorldModel) -> bool:
    return (one.latent_space, one.precision) == (other.latent_space, other.precision)


def _drive(model: WorldModel, number: int, episodes: int) -> list[int]:
    world = TwoRooms(seed=0)
    driver = model_driver(model, ControllerConfig(), world.task)
    return [
        int(run_episode(world, driver, seed=seed, step_s=model.manifest.io.step_s).outcome == "reached")
        for seed in episode_seeds((number,), episodes)
    ]


def _show(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'candidate':<12} {'is':<9} {'accepted':>22} {'shown to be worse':>22} {'frames':>7} "
          f"{'error ratio':>20} {'goals reached':>22} {'lost to itself':>24}")  # fmt: skip
    for row in rows:
        rates = [_rate(row[verdict], row["trials"]) for verdict in ("accepted", "shown_worse")]
        ratio = "{mean:.3f} ({least:.3f} to {most:.3f})".format(**row["error_ratio"])
        goals = _rate(row["goals"], row["episodes"]) if row["episodes"] else ""
        bounds = row["goals_lost_interval"]
        lost = "" if bounds is None else f"{row['goals_lost']:.1%} [{bounds[0]:.1%}, {bounds[1]:.1%}]"
        kind = {True: "harmless", False: "costly", None: ""}[row["harmless"]]
        print(f"{row['name']:<12} {kind:<9} {rates[0]:>22} {rates[1]:>22} {row['frames_median']:7.0f} "
              f"{ratio:>20} {goals:>22} {lost:>24}")  # fmt: skip


def _rate(count: int, trials: int) -> str:
    low, high = wilson(count, trials)
    return f"{count / trials:.1%} [{low:.1%}, {high:.1%}]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--retrain",
        type=Path,
        metavar="BUNDLE",
        help="bundle of another seed (default: out/two_rooms_seed1 if it exists)",
    )
    parser.add_argument(
        "--trials", type=count, default=100, help="trials of each candidate (default: %(default)s)"
    )
    parser.add_argument("--harmless", type=float, nargs="*", default=[0.01, 0.05], metavar="X")
    parser.add_argument(
        "--between",
        type=float,
        nargs="*",
        default=[0.1, 0.2, 0.3],
        metavar="X",
        help="noise levels without a claim",
    )
    parser.add_argument("--costly", type=float, nargs="*", default=[0.5, 0.7, 1.0], metavar="X")
    parser.add_argument(
        "--episodes", type=int, default=3, help="closed-loop episodes in each trial (default: %(default)s)"
    )
    ratio = Budgets().max_error_ratio
    parser.add_argument("--max-error-ratio", type=float, default=ratio, help="(default: %(default)s)")
    parser.add_argument("--alpha", type=float, default=0.01, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "gate.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
