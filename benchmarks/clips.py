"""Stills, clips and a causal encoder of one teacher: what they know of motion, cost, and reproduce.

A small V-JEPA 2 of random weights is built three times by ``jepa-export build``, with ``--time still``,
``clip:N`` and ``causal:N``. Of each the table has the accuracy of the linear probe of the direction of motion
(report.json), multiply-adds per call and per second, here and for the published vjepa2_vitl_256, the time of
a call and per second of operation, and the parity of the compiled encoder with torch. The three are called in
turns, so that other load affects all.

With random weights the accuracy shows only whether the input contains the motion; how well published weights
encode it is not known.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_export.bundling.teacher_bundle import CAMERA_HZ, bundle_cost
from jepa_export.cli import main as export
from jepa_export.teachers.family import FAMILY, Member
from jepa_export.teachers.vjepa2 import EncoderConfig, PredictorConfig, VJEPA2Config
from jepa_runtime import Bundle, WorldModel
from jepa_runtime.backends import DEFAULT_ENGINE, BackendOptions
from jepa_runtime.commands import count
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model import golden_parity
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import write_json

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = "vjepa2_vitl_256"
NETWORK = VJEPA2Config(
    encoder=EncoderConfig(width=384, depth=4, heads=6, hidden=1536, px=128, frames=16, taps=(3,)),
    predictor=PredictorConfig(width=192, depth=2, heads=6, hidden=768, mask_tokens=2),
)
# The context and horizon of the predictors, in frames and steps.
CONTEXT, HORIZON = 4, 2
TIMES = ("still", "clip", "causal")


@dataclass
class Timed:
    """One encoder under measurement, and the duration of its calls [ms]."""

    model: WorldModel
    images: Iterator[NDArray[np.uint8]]
    took_ms: list[float]

    def __post_init__(self) -> None:
        self._cache = self.model.create_cache()
        self._step = 0

    def call(self) -> None:
        """Encode the next image, clip or step."""
        clip = self.model.manifest.io.clip
        shown = [next(self.images) for _ in range(1 if clip is None else clip.frames_per_call)]
        began = time.perf_counter()
        if clip is None:
            self.model.encode(shown[0])
        else:
            self.model.encode_clip(shown, self._cache, self._step)
        self.took_ms.append((time.perf_counter() - began) * 1e3)
        self._step += 1


@contextmanager
def small_teacher(config: VJEPA2Config) -> Iterator[str]:
    """Give a teacher of this size a name for ``jepa-export build``."""
    name, before = "vjepa2", FAMILY.get("vjepa2")
    FAMILY[name] = Member(family="V-JEPA 2", config=config, weights="target_encoder", published=())
    try:
        yield name
    finally:
        FAMILY.pop(name)
        if before is not None:
            FAMILY[name] = before


def build(folder: Path, frames: int) -> dict[str, Bundle]:
    """Build the three bundles and return them by name.

    Raises:
        JepaRuntimeError: A build failed; its messages are on standard error.
    """
    found = {}
    with small_teacher(NETWORK) as teacher:
        for name in TIMES:
            arguments = ["--teacher", teacher, "--untrained", "--frames", str(CONTEXT), "--horizon"]
            arguments += [str(HORIZON), "--time", name if name == "still" else f"{name}:{frames}"]
            arguments += ["--only", "openvino/fp32", "--output", str(folder / name)]
            if export(["build", *arguments]) != 0:
                raise JepaRuntimeError(f"the bundle with --time {name} was not built: see above")
            found[name] = Bundle.open(folder / name)
    return found


def measure_times(bundles: dict[str, Bundle], rounds: int) -> dict[str, list[float]]:
    """Return the duration of each call [ms]; the encoders are called in turns, on one thread."""
    images = np.random.default_rng(0).integers(0, 256, (32, *_size(bundles["still"]), 3), np.uint8)
    with ExitStack() as opened:
        timed = {
            name: Timed(
                opened.enter_context(
                    WorldModel.open(bundle, options=BackendOptions(threads=1), allow_untrained=True)
                ),
                cycle(images),
                [],
            )
            for name, bundle in bundles.items()
        }
        for each in timed.values():
            # The first call warms up.
            each.call()
            each.took_ms.clear()
        for _ in range(rounds):
            for each in timed.values():
                each.call()
        return {name: each.took_ms for name, each in timed.items()}


def _size(bundle: Bundle) -> tuple[int, int]:
    frame = bundle.manifest.io.frame
    return frame.height, frame.width


def measure(frames: int, rounds: int) -> dict[str, Any]:
    """Return the report.

    Raises:
        JepaRuntimeError: A bundle cannot be built or run.
    """
    machine = {"cpu": cpu_info(), "versions": package_versions(), "load_average": os.getloadavg()[0]}
    published = FAMILY[PUBLISHED].config
    assert isinstance(published, VJEPA2Config)
    with tempfile.TemporaryDirectory(prefix="jepa-clips-") as folder:
        bundles = build(Path(folder), frames)
        took_ms = measure_times(bundles, rounds)
        # The report of the causal bundle has the entries of all three.
        report = bundles["causal"].report()
        probe, step_s = report["motion_probe"], bundles["causal"].manifest.io.step_s
        rows = []
        for name, bundle in bundles.items():
            parity = next(
                each for each in golden_parity(bundle, engine=DEFAULT_ENGINE) if each.graph == "encoder"
            )
            p50, p99 = np.percentile(took_ms[name], [50, 99])
            rows.append(
                {
                    "time": name,
                    "calls_per_s": CAMERA_HZ if name == "still" else 1 / step_s,
                    "probe_accuracy": probe[f"{name}_accuracy"],
                    "multiply_adds": {
                        "small": report["encoder_cost"][name]["multiply_adds"],
                        PUBLISHED: _multiply_adds(published, name, frames),
                    },
                    "call_ms": {"p50": float(p50), "p99": float(p99), "n": len(took_ms[name])},
                    "parity": {"min_cosine": parity.min_cosine, "max_abs": parity.max_abs},
                }
            )
    return {
        "network": asdict(NETWORK),
        "frames": frames,
        "probe": {key: probe[key] for key in ("images", "chance", "trained")},
        "causal_gap": report["causal_gap"],
        "engine": DEFAULT_ENGINE,
        "threads": 1,
        "machine": machine,
        "rows": rows,
    }


def _multiply_adds(config: VJEPA2Config, name: str, frames: int) -> int:
    """Return the multiply-adds of a call of the encoder of a published model."""
    clip_frames = None if name == "still" else frames
    cost = bundle_cost(config, CONTEXT // 2, HORIZON, clip_frames, causal=name == "causal")
    return cost.encoder.multiply_adds


def main(argv: Sequence[str] | None = None) -> int:
    """Build, measure, and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = measure(arguments.frames, arguments.rounds)
    except JepaRuntimeError as error:
        print(f"clips: {error}", file=sys.stderr)
        return 2
    for row in report["rows"]:
        print(
            f"{row['time']:<7} probe {row['probe_accuracy']:.0%}  call p50 {row['call_ms']['p50']:.1f} ms, "
            f"{row['calls_per_s']:g} per second  worst cosine {row['parity']['min_cosine']:.7f}"
        )
    write_json(arguments.json, report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=count, default=16, help="frames of a clip (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=200, help="calls of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "clips.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
