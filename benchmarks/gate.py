"""How often the shadow gate lets a good candidate pass and stops a bad one, on Two Rooms.

    int8         the shipped INT8 form against the fp32 form: as good, though not the same
    noise X      Gaussian noise on the predictor's weights, X times the root mean square of each matrix; a new
                 draw in every trial

A second training is not at hand; INT8 and a noise that costs nothing stand for one that is as good. What a
candidate costs is measured, not assumed: --episodes N plays N closed-loop episodes with that of every trial,
in the same worlds for all candidates. Every trial sees frames of its own. Intervals are Wilson's, 95 %.

Exit status 1 if the verdicts are wrong more often than the test states: --harmless shown to be worse, or
--costly accepted, with a share whose interval lies above alpha; 2 if something could not be run."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from rich.progress import track

from jepa_export.evaluate import HELD_OUT_SEED, model_policy, score
from jepa_runtime.bundle import ROLES, Bundle, seal
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.planning.control import ControlConfig
from jepa_runtime.profiling.intervals import wilson
from jepa_runtime.sources.two_rooms import TwoRoomsSource
from jepa_runtime.update.gate.sequential import PairedTest, Power, Verdict, tally
from jepa_runtime.update.gate.shadow import Shadow
from jepa_runtime.world_model import WorldModel

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One kind of candidate: what it should be judged, how it was, and the goals it reached."""

    name: str
    harmless: bool
    power: Power
    reached: int
    episodes: int

    def wrong(self, alpha: float) -> bool:
        """Whether it was misjudged more often than at ``alpha`` it may be."""
        count = self.power.refused if self.harmless else self.power.accepted
        return self.power.interval(count)[0] > alpha

    def __str__(self) -> str:
        power = self.power
        shares = "".join(
            _share(count, power.runs) for count in (power.accepted, power.refused, power.undecided)
        )
        goals = _share(self.reached, self.episodes) if self.episodes else ""
        kind = "harmless" if self.harmless else "costly"
        return f"{self.name:<12} {kind:<9} {shares} {power.median_frames:8.0f} {goals}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            f"{name}_interval": self.power.interval(getattr(self.power, name))
            for name in ("accepted", "refused", "undecided")
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials; returns the exit status."""
    args = _parser().parse_args(argv)
    plan = {"alpha_accept": args.alpha, "alpha_refuse": args.alpha, "margin": args.max_error_ratio - 1}
    kinds = [("int8", None, True)]
    kinds += [(f"noise {level:g}", level, True) for level in args.harmless]
    kinds += [(f"noise {level:g}", level, False) for level in args.costly]
    shares = "".join(f"{name:>23}" for name in ("accepted", "shown to be worse", "undecided"))
    print(f"{'candidate':<12} {'is':<9} {shares} {'frames':>8} {'goals reached' if args.episodes else ''}")
    rows = []
    try:
        bundle = Bundle.open(args.bundle)
        for name, noise, harmless in kinds:
            rows.append(_row(bundle, name, noise, harmless, args.trials, args.episodes, plan))
            print(rows[-1], flush=True)
    except JepaRuntimeError as error:
        print(f"gate: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"trials": args.trials, "test": plan, "rows": [row.as_dict() for row in rows]}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    wrong = [row for row in rows if row.wrong(args.alpha)]
    for row in wrong:
        print(f"gate: {row.name} is misjudged in more than {args.alpha:.1%} of the trials", file=sys.stderr)
    return 1 if wrong else 0


def perturbed(bundle: Bundle, folder: Path, *, noise: float, seed: int) -> Bundle:
    """A copy of the fp32 (ONNX) half of a bundle, with noise on the predictor's matrices.

    The golden outputs stay those of the original: the shadow gate does not look at them.

    Args:
        folder: of the copy; it is made.
        noise: its standard deviation, as a share of the root mean square of each matrix.
    """
    shutil.copytree(bundle.path, folder, ignore=shutil.ignore_patterns("openvino", "manifest.json"))
    fields = bundle.manifest.model_dump(mode="json")
    for role in ROLES:
        fields["graphs"][role] = [one for one in fields["graphs"][role] if one["target"] == "onnx"]
    path = folder / fields["graphs"]["predictor"][0]["path"]
    model, random = onnx.load(path), np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim >= 2 and weights.dtype == np.float32:
            size = noise * np.sqrt(np.mean(np.square(weights)))
            changed = weights + size * random.standard_normal(weights.shape)
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    onnx.save(model, path)
    return seal(folder, fields)


def _row(
    bundle: Bundle,
    name: str,
    noise: float | None,
    harmless: bool,
    trials: int,
    episodes: int,
    plan: dict[str, float],
) -> Row:
    ends, reached = [], 0
    with WorldModel.open(bundle, precision="fp32") as current:
        for trial in track(range(trials), name, transient=True):
            with ExitStack() as stack:
                if noise is None:
                    candidate = stack.enter_context(WorldModel.open(bundle, precision="int8"))
                else:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "candidate"
                    other = perturbed(bundle, folder, noise=noise, seed=trial)
                    candidate = stack.enter_context(WorldModel.open(other, precision="fp32"))
                test = PairedTest(**plan)
                shadow = Shadow(current, candidate, test)
                source = TwoRoomsSource(seed=HELD_OUT_SEED + trial, start_ns=0)
                for frame in source.frames():
                    if shadow.add(frame, source.command) is not Verdict.CONTINUE:
                        break
                ends.append(test)
                reached += _reached(candidate, trial, episodes)
    return Row(name, harmless, tally(ends), reached, trials * episodes)


def _reached(model: WorldModel, trial: int, episodes: int) -> int:
    if not episodes:
        return 0
    policy, step_s = model_policy(model, ControlConfig()), model.manifest.io.step_s
    return score(policy, layout="random", step_s=step_s, seeds=(trial,), episodes=episodes).successes


def _share(count: int, trials: int) -> str:
    low, high = wilson(count, trials)
    return f"{f'{count / trials:.1%} [{low:.1%}, {high:.1%}]':>23}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "two_rooms")
    parser.add_argument(
        "--trials", type=_positive, default=100, help="for each candidate (default: %(default)s)"
    )
    parser.add_argument("--harmless", type=float, nargs="*", default=[0.01, 0.05], metavar="X")
    parser.add_argument("--costly", type=float, nargs="*", default=[0.3], metavar="X")
    parser.add_argument(
        "--episodes", type=int, default=0, help="in closed loop with every candidate (default: %(default)s)"
    )
    parser.add_argument("--max-error-ratio", type=float, default=1.25, help="default: %(default)s")
    parser.add_argument("--alpha", type=float, default=0.01, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the table here")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
