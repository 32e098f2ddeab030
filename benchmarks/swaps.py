"""Swap models in the running world_model node under a stream of images, and measure the effect.

A camera process publishes --rate images per second on an exact schedule, the node answers, and this process
receives the futures; meanwhile it requests --swaps swaps between two bundles in turn, with ~/swap_model and
then ~/commit_model, with a --pause before each. A swap lasts from the request of the first to the response of
the second. An image belongs to a swap if it was due during one or in the period before. Limits:

    lost      no more images are lost during swaps than among the same number of others
    latency   p99 of the response during swaps is at most 1.5 x that of the others
    growth    over the run the node grows by at most 3 MB and one descriptor (see limits.py, soak)

Exit status 1 if one is missed, 2 if something could not be measured.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from jepa_msgs.srv import SwapModel
from jepa_ros.common.spin import create_executor
from jepa_ros.profiler.frame_ledger import FrameLedger
from jepa_ros.profiler.listener import Listener
from jepa_ros.profiler.processes import Child, camera_command, node_command, prepare_environment
from peers.figures import growth, reading
from peers.limit import Limit, show
from peers.variants import full_precision
from rclpy.node import Node
from rich.console import Console
from rich.progress import Progress
from std_srvs.srv import Trigger

from jepa_runtime.bundle import Bundle
from jepa_runtime.commands import positive
from jepa_runtime.errors import JepaRuntimeError, ProfileError
from jepa_runtime.profiling import Run, distribution, lost_frames, responses
from jepa_runtime.telemetry import Monitor, Reading, read_environment
from jepa_runtime.util import confidence_interval, resampled_quantiles, write_json

ROOT = Path(__file__).resolve().parent.parent
NODE, TOPIC = "/world_model", "camera/image_raw"
MAX_RATIO, MAX_GROWTH_MB, MAX_DESCRIPTORS = 1.5, 3.0, 1.0
_PATIENCE_S = 60.0
# Upper limit of the average duration of a swap.
_LONG_S = 10.0
_SETTLE_S = 2.0
_LEAD_NS = 100_000_000


@dataclass(frozen=True)
class Measured:
    """A run, the readings of the node's process, and begin and end of each swap [s since the start]."""

    run: Run
    readings: list[Reading]
    swaps: list[tuple[float, float]]


class SwapRequests:
    """Request one swap after the other while the node is spun.

    Args:
        node: Node of the service clients.
        bundles: Folders in the order in which they become active, cyclically.
        pause_s: Pause before each swap.

    Attributes:
        spans_ns: Begin and end of each swap, on CLOCK_MONOTONIC.
        failure: Why a swap was rejected, or an empty string.
    """

    def __init__(self, node: Node, bundles: Sequence[Path], pause_s: float) -> None:
        self.spans_ns: list[tuple[int, int]] = []
        self.failure = ""
        self._bundles, self._pause_s = cycle(bundles), pause_s
        self._due_s = time.monotonic() + pause_s
        self._start_ns = 0
        self._swap = node.create_client(SwapModel, f"{NODE}/swap_model")
        self._commit = node.create_client(Trigger, f"{NODE}/commit_model")

    def request_if_due(self) -> None:
        """Request the next swap if it is due."""
        if time.monotonic() < self._due_s:
            return
        self._due_s, self._start_ns = math.inf, time.monotonic_ns()
        request = SwapModel.Request(bundle=str(next(self._bundles)))
        self._swap.call_async(request).add_done_callback(self._swapped)

    def _swapped(self, future: Any) -> None:
        if self._succeeded(future.result()):
            self._commit.call_async(Trigger.Request()).add_done_callback(self._committed)

    def _committed(self, future: Any) -> None:
        if self._succeeded(future.result()):
            self.spans_ns.append((self._start_ns, time.monotonic_ns()))
            self._due_s = time.monotonic() + self._pause_s

    def _succeeded(self, answer: Any) -> bool:
        self.failure = "" if answer.success else f"swap {len(self.spans_ns) + 1}: {answer.message}"
        return bool(answer.success)


class Stream:
    """The node, its camera and the listener; ``stack`` stops what is started here."""

    def __init__(self, bundle: Path, args: argparse.Namespace, scratch: Path, stack: ExitStack) -> None:
        self._rate_hz = args.rate
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._listener = Listener(NODE)
        self._executor = create_executor()
        self._executor.add_node(self._listener)
        stack.callback(self._listener.destroy_node)
        stack.callback(self._executor.shutdown)
        parameters = {
            "bundle": str(bundle), "threads": args.threads, "allow_untrained": True,
            "cache_dir": str(scratch / "cache"),
        }  # fmt: skip
        command = node_command("world_model", parameters, {"image": TOPIC})
        self._model = stack.enter_context(Child("world_model", command, scratch / "world_model.log"))
        self._running = [self._model]
        self._until(lambda: self._listener.info, "no model became active")
        self._listener.subscribe_results(TOPIC)
        # More images than needed: the camera is stopped early.
        self._most = round(args.rate * (args.swaps * (args.pause + _LONG_S) + _PATIENCE_S))
        camera = camera_command(
            source="two_rooms", topic=TOPIC, rate_hz=args.rate, frames=self._most, offset_ns=self._offset_ns,
            size=None, actions=self._listener.info.action_names,
        )  # fmt: skip
        self._camera = stack.enter_context(Child("camera", camera, scratch / "camera.log", piped=True))
        self._running.append(self._camera)
        self._until(self._camera.read_messages, "the camera has no images")
        self._until(lambda: self._listener.message_counts["futures"], "no futures arrived")
        self._rest(_SETTLE_S)

    def measure(self, bundles: Sequence[Path], swaps: int, pause_s: float) -> Measured:
        """Swap ``swaps`` times.

        Raises:
            ProfileError: A swap was rejected, or a process ended.
        """
        start_ns = time.monotonic_ns() + round(1e9 / self._rate_hz) + _LEAD_NS
        ledger = self._listener.ledger = FrameLedger(
            start_ns=start_ns, rate_hz=self._rate_hz, offset_ns=self._offset_ns, frames=self._most
        )
        requests = SwapRequests(self._listener, bundles, pause_s)
        gc.freeze()
        self._camera.send({"start_ns": start_ns})
        with Monitor(pid=self._model.process.pid) as monitor, Progress(transient=True) as progress:
            task = progress.add_task("swaps", total=swaps)
            while len(requests.spans_ns) < swaps:
                requests.request_if_due()
                self._spin_once()
                self._note_sent(ledger)
                progress.update(task, completed=len(requests.spans_ns))
                if requests.failure:
                    raise ProfileError(requests.failure + self._model.log_excerpt())
            self._rest(pause_s)
            self._note_sent(ledger)
        self._running.remove(self._camera)
        self._camera.stop()
        self._note_sent(ledger)
        self._rest(_SETTLE_S)
        spans = [((begin - start_ns) / 1e9, (end - start_ns) / 1e9) for begin, end in requests.spans_ns]
        return Measured(ledger.run(1e3 / self._rate_hz), monitor.readings(), spans)

    def _note_sent(self, ledger: FrameLedger) -> None:
        for index, moment_ns in self._camera.read_messages():
            ledger.add_sent(index, moment_ns)

    def _until(self, condition: Callable[[], Any], fault: str) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise ProfileError(f"{fault} within {_PATIENCE_S:g} s{self._model.log_excerpt()}")
            self._spin_once()

    def _rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._spin_once()

    def _spin_once(self) -> None:
        for child in self._running:
            if child.exit_message:
                raise ProfileError(f"{child.exit_message}{child.log_excerpt()}")
        self._executor.spin_once(timeout_sec=0.02)


def split(measured: Measured) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return response [ms], loss, and membership in a swap of each image, in due order."""
    run = measured.run
    due = np.sort(np.concatenate([run.scheduled_s, run.dropped_s, run.failed_s]))
    inside = np.zeros(len(due), bool)
    for begin, end in measured.swaps:
        inside |= (due > begin - 1 / run.rate_hz) & (due <= end)
    return responses(run), lost_frames(run), inside


def check_limits(measured: Measured) -> tuple[list[Limit], dict[str, Any]]:
    """Return the results with their limits, and the statistics of both groups of images.

    Raises:
        ProfileError: There are too few images for a p99, or the node's process returned no readings.
    """
    response, lost, inside = split(measured)
    swaps, images, others = len(measured.swaps), int(inside.sum()), int((~inside).sum())
    during, between = distribution(response[inside]), distribution(response[~inside])
    if during.p99.value is None or between.p99.value is None:
        raise ProfileError(
            f"{images} images during swaps and {others} others are too few for a p99; use more --swaps"
        )
    ratios = resampled_quantiles(response[inside], 990, seed=0) / resampled_quantiles(
        response[~inside], 990, seed=1
    )
    low, high = confidence_interval(ratios)
    lost_inside, lost_between = int(lost[inside].sum()), int(lost[~inside].sum())
    durations = distribution([1e3 * (end - begin) for begin, end in measured.swaps])
    inner, outer = f"{images} images during {swaps} swaps", f"{others} images between swaps"
    expected, ratio = lost_between * images / others, during.p99.value / between.p99.value
    limits = [
        Limit("lost", "images during swaps", lost_inside, expected, "images", inner),
        Limit("lost", "images between swaps", lost_between, None, "images", outer),
        Limit("latency", "p99 of the response during swaps", during.p99.value, None, "ms", inner),
        Limit("latency", "p99 of the response between swaps", between.p99.value, None, "ms", outer),
        Limit("latency", "p99 during swaps / p99 between swaps", ratio, MAX_RATIO, "",
              f"95 % interval {low:.2f} to {high:.2f}"),
        Limit("latency", "duration of a swap, median", durations.p50.value or 0.0, None, "ms",
              f"{swaps} swaps"),
        _growth(measured, "rss", MAX_GROWTH_MB, "MB"),
        _growth(measured, "descriptors", MAX_DESCRIPTORS, ""),
    ]  # fmt: skip
    figures = {
        "during_swaps": asdict(during) | {"lost": lost_inside},
        "between_swaps": asdict(between) | {"lost": lost_between},
        "p99_ratio_interval": (low, high),
        "swap_ms": asdict(durations),
        "after_each": {name: _after_each(measured, name) for name in ("rss", "descriptors")},
    }
    return limits, figures


def _after_each(measured: Measured, name: str) -> list[float]:
    """Return a reading at the end of each swap."""
    values, ends = reading(measured.readings, name), [end for _, end in measured.swaps]
    return np.interp(ends, values.times_s, values.values).round(2).tolist()


def _growth(measured: Measured, name: str, most: float, unit: str) -> Limit:
    values = reading(measured.readings, name)
    samples = f"{values.values[0]:.4g} to {values.values[-1]:.4g} in {len(measured.swaps)} swaps"
    return Limit("growth", f"of {name}", growth(values.times_s, values.values), most, unit, samples)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    args = _parser().parse_args(argv)
    console = Console()
    prepare_environment(isolated=True)
    rclpy.init(args=[])
    try:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jepa-swaps-")))
            first = Bundle.open(args.bundle)
            other = Bundle.open(args.other) if args.other else full_precision(first, scratch / "fp32")
            stream = Stream(first.path, args, scratch, stack)
            measured = stream.measure([other.path, first.path], args.swaps, args.pause)
        limits, figures = check_limits(measured)
    except (JepaRuntimeError, OSError) as error:
        print(f"swaps: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    manifest = first.manifest
    report = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": {"id": manifest.model_id, "version": manifest.version, "sha256": first.sha256},
        "other": {"id": other.manifest.model_id, "version": other.manifest.version, "sha256": other.sha256},
        "model_frame": [manifest.io.frame.width, manifest.io.frame.height],
        "candidates": manifest.num_samples,
        "horizon": manifest.horizon,
        "threads": args.threads,
        "rate_hz": args.rate,
        "swaps": len(measured.swaps),
        **figures,
        "limits": [asdict(limit) | {"met": limit.met} for limit in limits],
        "environment": read_environment().model_dump(),
    }
    write_json(args.json, report)
    show(limits, report, console)
    return 0 if all(limit.met for limit in limits) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--bundle", type=Path, default=ROOT / "models" / "two_rooms", help="bundle that is active first")
    add("--other", type=Path, metavar="BUNDLE", help="other bundle (default: the fp32 variant of the first)")
    add("--swaps", type=int, default=200, help="number of swaps (default: %(default)s)")
    add("--pause", type=positive, default=2.0, help="pause between two swaps [s] (default: %(default)s)")
    add("--threads", type=int, default=1)
    add("--rate", type=positive, default=30.0, help="images per second (default: %(default)s)")
    add("--json", type=Path, default=ROOT / "benchmarks" / "results" / "swaps.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
