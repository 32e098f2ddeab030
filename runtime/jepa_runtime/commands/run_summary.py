"""The measurements of ``jepa-runtime run``, as JSON data and as a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jepa_runtime.model.world_model import WorldModel
from jepa_runtime.profiling.collector import STAGE_DESCRIPTIONS, Collector
from jepa_runtime.reports.latency_page import LatencyReport
from jepa_runtime.serving.pipeline import Stats
from jepa_runtime.telemetry.environment import cpu_info, package_versions, peak_rss_mb
from jepa_runtime.util.statistics import PERCENTILE_METHOD, format_ms, summarize


def model_facts(model: WorldModel) -> dict[str, Any]:
    """Return the identity of a model as JSON data."""
    return {
        "id": model.manifest.model_id,
        "version": model.manifest.version,
        "sha256": model.bundle.sha256,
        "engine": model.engine,
        "device": model.device,
        "precision": model.precision,
    }


def summarize_run(
    collector: Collector,
    stats: Stats,
    model: WorldModel,
    *,
    source: str,
    target_rate_hz: float,
    deadline_ms: float,
    lateness_ms: Sequence[float],
    error: str | None,
) -> dict[str, Any]:
    """Return the measurements as JSON data.

    Times are in ms by stage (``<stage>_ms``); None stands for too few samples.
    """
    surprise, surprising = collector.surprise()
    rate_hz = collector.rate_hz()
    times_s = collector.times_s
    stages = collector.stages_ms()
    return {
        "source": source,
        "frames_published": stats.received,
        "frames_processed": stats.processed,
        "frames_skipped": stats.skipped,
        "frames_dropped": stats.dropped,
        "frames_failed": stats.failed,
        "frames_late": stats.late,
        "rate_hz": None if rate_hz is None else round(rate_hz, 3),
        "target_rate_hz": round(target_rate_hz, 3),
        "duration_s": round(times_s[-1], 3) if times_s else 0.0,
        **{f"{name}_ms": summarize(samples).as_dict() for name, samples in stages.items()},
        "publish_late_ms": summarize(lateness_ms).as_dict(),
        "percentiles": PERCENTILE_METHOD,
        "deadline_ms": round(deadline_ms, 3),
        "deadline_misses": stats.deadline_misses,
        "longest_miss_run": stats.longest_miss_run,
        "resets": stats.resets,
        "surprise": {
            **surprise.as_dict(),
            "threshold": model.manifest.surprise_threshold,
            "surprising": surprising,
        },
        "futures_per_frame": model.num_samples,
        "horizon": model.manifest.horizon,
        "model": model_facts(model),
        "rss_mb": round(peak_rss_mb(), 1),
        "cpu": cpu_info(),
        "versions": package_versions(),
        "error": error,
    }


# Why a frame has no result before its deadline.
LOSSES = ("late", "dropped", "failed")


def html_report(title: str, collector: Collector, summary: dict[str, Any]) -> LatencyReport:
    """Return the content of the latency report."""
    model, cpu = summary["model"], summary["cpu"]
    total = summary["total_ms"]
    misses, frames = summary["deadline_misses"], summary["frames_published"]
    rate_hz = summary["rate_hz"]
    return LatencyReport(
        title=f"Latency of {model['id']} {model['version']}",
        subtitle=f"{title}: {summary['frames_processed']} frames in {summary['duration_s']:.1f} s",
        stages=collector.stages_ms(),
        main="total",
        times_s=collector.times_s,
        deadline_ms=summary["deadline_ms"],
        headline=[
            ("frames per second", "-" if rate_hz is None else f"{rate_hz:.1f}"),
            ("p50, ms", format_ms(total["p50"])),
            ("p99, ms", format_ms(total["p99"])),
            (f"deadline misses ({summary['deadline_ms']:g} ms)", f"{misses} of {frames}"),
            ("of these late, dropped, failed", ", ".join(str(summary[f"frames_{why}"]) for why in LOSSES)),
        ],
        facts={
            "Model": f"{model['id']} {model['version']}, {model['precision']}",
            "Manifest SHA-256": model["sha256"],
            "Engine": f"{model['engine']} on {model['device']}",
            "Futures": f"{summary['futures_per_frame']} per frame, {summary['horizon']} steps each",
            "Source": f"{summary['source']} at {summary['target_rate_hz']:g} Hz, open loop",
            "Processor": f"{cpu['model']}, {cpu['cores']} cores, {cpu['architecture']}",
            "Memory": f"peak {summary['rss_mb']:g} MB",
            "Versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        },
        descriptions=STAGE_DESCRIPTIONS,
    )
