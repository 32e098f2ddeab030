"""The first gate: compares what a release and its bundle declare with each other and with this robot.

Nothing of the bundle is executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from jepa_runtime.backends.registry import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ReleaseRejectedError
from jepa_runtime.ota.release import Release, Robot, check_compatible, manifest_fields


def check_release(release: Release, robot: Robot) -> None:
    """Check that a release fits this robot and its engine, before it is downloaded.

    Raises:
        ReleaseRejectedError: It does not.
        BackendError: This robot has no such engine or device.
    """
    check_compatible(release, robot)
    if release.variants:
        _check_runnable(release, release.variants, robot)


def check(bundle: Bundle, release: Release, robot: Robot, *, allow_untrained: bool = False) -> None:
    """Check that a bundle matches its release, and that this robot can run it.

    Args:
        bundle: The bundle, opened by the strict reader, which checked schema, hashes and formats.
        release: The release.
        robot: The robot.
        allow_untrained: Accept random weights, for tests.

    Raises:
        ReleaseRejectedError: It does not match, or cannot run.
        BackendError: This robot has no such engine or device.
    """
    check_compatible(release, robot)
    manifest, what = bundle.manifest, f"release {release.release_seq} of {release.model_id}"
    fields = manifest_fields(manifest)
    for name, expected, found in (
        ("manifest SHA-256", release.manifest_sha256, bundle.sha256),
        ("model", release.model_id, manifest.model_id),
        ("version", release.version, manifest.version),
        *((name, getattr(release, name), found) for name, found in fields.items()),
    ):
        if expected and expected != found:
            raise ReleaseRejectedError(
                f"{bundle.path}: its {name} is {found}, but {what} declares {expected}: publish the "
                "release again",
                code="gate.bundle_mismatch",
            )
    if not manifest.trained and not allow_untrained:
        raise ReleaseRejectedError(
            f"{bundle.path}: {what} has random weights (trained: false): publish a trained model",
            code="gate.untrained",
        )
    if robot.needs_poses and not manifest.graphs.relative_pose:
        raise ReleaseRejectedError(
            f"{bundle.path}: {what} reads no poses, but the active model does, and this robot may steer by "
            "them: publish a model with a relative pose graph, or change the planner's search first and "
            "accept this one with --any-interface",
            code="gate.reads_no_poses",
        )
    _check_runnable(release, fields["variants"], robot)


def _check_runnable(release: Release, variants: Iterable[str], robot: Robot) -> None:
    engine, precision = robot.engine, robot.precision
    with closing(create_backend(engine)) as backend:
        targets = backend.targets
    parts = [variant.partition("/") for variant in variants]
    if not any(
        target in targets and precision in (None, candidate_precision)
        for target, _, candidate_precision in parts
    ):
        available = ", ".join(
            f"{candidate_precision} for {target}" for target, _, candidate_precision in parts
        )
        wanted = f" in {precision}" if precision else ""
        raise ReleaseRejectedError(
            f"release {release.release_seq} of {release.model_id} has no variant that {engine} can "
            f"run{wanted}; it has {available}: publish a variant for this robot",
            code="gate.no_runnable_variant",
        )
