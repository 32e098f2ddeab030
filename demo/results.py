"""Results of a demo run: the summary as JSON and as text, and the latency report."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from processes import DemoError

from jepa_runtime.reports import LatencyReport, render_latency
from jepa_runtime.telemetry import cpu_info, package_versions
from jepa_runtime.util import format_ms, summarize, write_file

_STAGES = {
    "e2e": "from the image stamp to its futures in the planner, another process",
    "total": "in the world_model node: from the arrival of the image to the result",
    "wait": "in the mailbox, waiting for the inference thread",
    "preprocess": "into the engine's input buffer",
    "encode": "image to latent",
    "predict": "latent and candidate actions to futures",
    "energy": "distances of all futures from the goal",
    "surprise": "comparison with the prediction made one step before",
}


def summarize_run(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a run of the two_rooms robot: those of its images, and its goals."""
    robot = reports["two_rooms"]
    return summarize_images(robot, reports["world_model"], reports["planner"]) | {
        "episodes": robot["episodes"],
        "successes": robot["successes"],
    }


def summarize_images(
    robot: dict[str, Any], model: dict[str, Any], planner: dict[str, Any], *, planned: int | None = None
) -> dict[str, Any]:
    """Return the figures of all images of a run.

    ``frames_dropped`` counts all published images without a result, wherever they were lost. ``e2e_ms`` is
    from the image stamp to its futures in the planner. ``deadline_misses`` counts the images published while
    the planner ran without futures in the planner before the deadline, ``frames_late`` those whose futures
    came later. ``rss_mb`` is the peak memory of the world model.
    ``error_bounds`` is the number of errors within the bounds of ``probability``, by horizon in steps.

    Args:
        robot: Report of the simulated robot.
        model: Report of the world model.
        planner: Report of the planner.
        planned: Number of images published while the planner ran; None: all.

    Raises:
        DemoError: No image was processed.
    """
    counters, stages = model["counters"], model["samples_ms"]
    published, processed = robot["frames_published"], counters.get("processed", 0)
    planned = published if planned is None else planned
    e2e_ms, deadline_ms = planner["samples_ms"]["e2e"], model["deadline_ms"]
    late = sum(latency > deadline_ms for latency in e2e_ms)
    if not processed:
        raise DemoError(f"none of {published} images was processed: see the log of world_model")
    versions = package_versions() | {"ros": _ros_distribution()}
    return {
        "frames_published": published,
        "frames_processed": processed,
        "frames_dropped": published - processed,
        "frames_planned": planned,
        "rate_hz": round((processed - 1) / robot["duration_s"], 2) if robot["duration_s"] else 0.0,
        "e2e_ms": summarize(e2e_ms).as_dict(),
        "encode_ms": summarize(stages["encode"]).as_dict(),
        "predict_ms": summarize(stages["predict"]).as_dict(),
        "deadline_ms": deadline_ms,
        "deadline_misses": planned - len(e2e_ms) + late,
        "frames_late": late,
        "futures_per_frame": model["futures_per_frame"],
        "horizon": model["horizon"],
        "error_bounds": model["error_bounds"],
        "rss_mb": model["rss_mb"],
        "cpu": cpu_info(),
        "versions": versions,
        "model": model["model"],
    }


def _ros_distribution() -> str:
    """Return the sourced ROS 2 distribution, or that of the wheels."""
    sourced = os.environ.get("ROS_DISTRO")
    if sourced:
        return sourced
    for distribution in ("jazzy", "kilted"):
        with suppress(PackageNotFoundError):
            return f"{distribution} (wheels, rclpy {version(f'ros-{distribution}-rclpy')})"
    return "unknown"


def describe(summary: dict[str, Any], out: Path, note: str) -> str:
    """Return the summary of the two_rooms robot as text."""
    return f"""
{describe_model(summary)}

{describe_images(summary)}
  goals       {summary["successes"]} of {summary["episodes"]} reached

{describe_files(out, note)}"""


def describe_model(summary: dict[str, Any]) -> str:
    """Return the model and where it runs."""
    model = summary["model"]
    engine = f"{model['precision']} on {model['engine']}:{model['device']} ({summary['cpu']['model']})"
    return f"{model['id']} {model['version']}, {engine}"


def describe_images(summary: dict[str, Any]) -> str:
    """Return the lines about images, latency, error bounds and memory."""
    e2e = summary["e2e_ms"]
    loss = 100 * summary["frames_dropped"] / summary["frames_published"]
    spread = "  ".join(f"{name} {format_ms(e2e[name])}" for name in ("p50", "p95", "p99", "max"))
    encode, predict = (format_ms(summary[stage]["p50"]) for stage in ("encode_ms", "predict_ms"))
    images = (
        f"{summary['frames_processed']} of {summary['frames_published']} processed at "
        f"{summary['rate_hz']:.1f} Hz, {loss:.1f} % dropped"
    )
    late = (
        f"{summary['deadline_misses']} of {summary['frames_planned']} images had no futures in the planner "
        f"within {summary['deadline_ms']:g} ms"
    )
    return f"""  images      {images}
  futures     {summary["futures_per_frame"]} of {summary["horizon"]} steps for each image
  end to end  {spread} ms, from image stamp to futures in the planner
  model       encode {encode} ms, predict {predict} ms (median)
  deadline    {late}
  bounds      {coverage(summary["error_bounds"])}
  memory      {summary["rss_mb"]:.0f} MB peak (world_model)"""


def describe_files(out: Path, note: str) -> str:
    """Return the files that both demos of driving robots write."""
    return f"""  {out / "summary.json"}
  {out / "latency.html"}
  {out / "futures.png"}   {note}
  {out / "demo.mcap"}   (rosbag2, Foxglove)"""


def coverage(bounds: dict[str, Any] | None) -> str:
    """Return the coverage of the error bounds, over all horizons and at the worst one."""
    if bounds is None or not all(bounds["errors"]):
        return "not evaluated: no prediction is a horizon old"
    coverage = [within / errors for within, errors in zip(bounds["within"], bounds["errors"], strict=True)]
    worst = min(coverage)
    return (
        f"coverage {sum(bounds['within']) / sum(bounds['errors']):.1%}, target"
        f" {bounds['probability']:.0%}; at the worst horizon (step {coverage.index(worst) + 1}) {worst:.1%}"
    )


def write_latency(
    path: Path, summary: dict[str, Any], reports: dict[str, dict[str, Any]], goals: tuple[str, str]
) -> None:
    """Write the latency report of the run.

    Args:
        path: The file.
        summary: The figures of the run.
        reports: Reports of the nodes.
        goals: Caption and value of what the robot has reached.
    """
    samples = {**reports["planner"]["samples_ms"], **reports["world_model"]["samples_ms"]}
    stamps, model, e2e = reports["planner"]["stamps_ns"], summary["model"], summary["e2e_ms"]
    report = LatencyReport(
        title="From image to futures",
        subtitle=f"{model['id']} {model['version']} on {model['engine']}:{model['device']} over ROS 2",
        stages={stage: samples[stage] for stage in _STAGES if samples.get(stage)},
        main="e2e",
        times_s=[(stamp - stamps[0]) / 1e9 for stamp in stamps],
        deadline_ms=summary["deadline_ms"],
        headline=[
            ("median, end to end", f"{format_ms(e2e['p50'])} ms"),
            ("99th percentile", f"{format_ms(e2e['p99'])} ms"),
            ("rate", f"{summary['rate_hz']:.1f} Hz"),
            (
                f"deadline misses ({summary['deadline_ms']:g} ms)",
                f"{summary['deadline_misses']} of {summary['frames_planned']}",
            ),
            ("images dropped", f"{summary['frames_dropped']} of {summary['frames_published']}"),
            ("futures for each image", f"{summary['futures_per_frame']} x {summary['horizon']} steps"),
            goals,
        ],
        facts={
            "Processor": f"{summary['cpu']['model']}, {summary['cpu']['cores']} cores",
            "Model": f"{model['id']} {model['version']}, {model['precision']}, {model['sha256'][:16]}",
            "Processes": "simulated robot with camera, world_model, planner, recording monitor; one machine",
            "Versions": ", ".join(f"{name} {number}" for name, number in summary["versions"].items()),
        },
        descriptions=_STAGES,
    )
    write_file(path, render_latency(report))
