"""Helpers that know nothing of models: files, JSON, statistics, units, poses, compatibility."""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.util import atomic_files, opencv
    from jepa_runtime.util.argument_parser import ArgumentParser
    from jepa_runtime.util.atomic_files import sync_file, sync_folder
    from jepa_runtime.util.bootstrap import (
        INTERVAL_METHOD,
        MIN_SAMPLES,
        RESAMPLES,
        confidence_interval,
        resampled_means,
        resampled_quantiles,
    )
    from jepa_runtime.util.compat import file_sha256, python_module
    from jepa_runtime.util.odometry_history import OdometryHistory, OdometryPose
    from jepa_runtime.util.output_files import (
        STDOUT,
        check_writable,
        file_paths,
        write_each,
        write_file,
        write_json,
        write_text,
    )
    from jepa_runtime.util.percentiles import PercentileName
    from jepa_runtime.util.poses import TURN_M, Pose, compose, relative, travel_m, wrap, wrap_all
    from jepa_runtime.util.precision import PRECISIONS
    from jepa_runtime.util.proportions import paired_difference, wilson
    from jepa_runtime.util.state_parts import MeasuredState, StateParts
    from jepa_runtime.util.statistics import PERCENTILE_METHOD, format_ms, is_supported, summarize
    from jepa_runtime.util.strict_json import describe_problems
    from jepa_runtime.util.units import normalize_unit
    from jepa_runtime.util.workers import end_with_parent
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "": ["atomic_files", "opencv"],
            "argument_parser": ["ArgumentParser"],
            "atomic_files": ["sync_file", "sync_folder"],
            "bootstrap": [
                "INTERVAL_METHOD",
                "MIN_SAMPLES",
                "RESAMPLES",
                "confidence_interval",
                "resampled_means",
                "resampled_quantiles",
            ],
            "compat": ["file_sha256", "python_module"],
            "odometry_history": ["OdometryHistory", "OdometryPose"],
            "output_files": [
                "STDOUT",
                "check_writable",
                "file_paths",
                "write_each",
                "write_file",
                "write_json",
                "write_text",
            ],
            "proportions": ["paired_difference", "wilson"],
            "percentiles": ["PercentileName"],
            "poses": ["TURN_M", "Pose", "compose", "relative", "travel_m", "wrap", "wrap_all"],
            "precision": ["PRECISIONS"],
            "state_parts": ["MeasuredState", "StateParts"],
            "statistics": ["PERCENTILE_METHOD", "format_ms", "is_supported", "summarize"],
            "strict_json": ["describe_problems"],
            "units": ["normalize_unit"],
            "workers": ["end_with_parent"],
        },
    )

__all__ = [
    "INTERVAL_METHOD",
    "MIN_SAMPLES",
    "PERCENTILE_METHOD",
    "PRECISIONS",
    "RESAMPLES",
    "STDOUT",
    "TURN_M",
    "ArgumentParser",
    "MeasuredState",
    "OdometryHistory",
    "OdometryPose",
    "PercentileName",
    "Pose",
    "StateParts",
    "atomic_files",
    "check_writable",
    "compose",
    "confidence_interval",
    "describe_problems",
    "end_with_parent",
    "file_paths",
    "file_sha256",
    "format_ms",
    "is_supported",
    "lazy_exports",
    "normalize_unit",
    "opencv",
    "paired_difference",
    "python_module",
    "relative",
    "resampled_means",
    "resampled_quantiles",
    "summarize",
    "sync_file",
    "sync_folder",
    "travel_m",
    "wilson",
    "wrap",
    "wrap_all",
    "write_each",
    "write_file",
    "write_json",
    "write_text",
]
