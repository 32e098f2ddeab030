"""The first gate: what a release and its bundle say about themselves, against each other and this robot.
Nothing of them runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

from jepa_runtime.backends.registry import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import ReleaseRejectedError
from jepa_runtime.ota.release import Release, Robot, check_meant, told_of


def check_release(release: Release, robot: Robot) -> None:
    """Check that a release is for this robot and its engine, before anything of it is fetched.

    Raises:
        ReleaseRejectedError: it is not; the message says why.
        BackendError: this robot has no such engine or device.
    """
    check_meant(release, robot)
    if release.variants:
        _check_runnable(release, release.variants, robot)


def check(bundle: Bundle, release: Release, robot: Robot, *, allow_untrained: bool = False) -> None:
    """Check that a bundle is what its release says, and that this robot can run it.

    Args:
        bundle: opened by the strict reader: schema, listing, hashes and formats are in order.
        allow_untrained: accept random weights, for tests.

    Raises:
        ReleaseRejectedError: it is not; the message says why.
        BackendError: this robot has no such engine or device.
    """
    check_meant(release, robot)
    manifest, what = bundle.manifest, f"release {release.release_seq} of {release.model_id}"
    told_here = told_of(manifest)
    for name, told, found in (
        ("manifest SHA-256", release.manifest_sha256, bundle.sha256),
        ("model", release.model_id, manifest.model_id),
        ("version", release.version, manifest.version),
        *((name, getattr(release, name), found) for name, found in told_here.items()),
    ):
        if told and told != found:
            raise ReleaseRejectedError(
                f"{bundle.path}: {name} is {found}, {what} says {told}: publish the release again"
            )
    if not manifest.trained and not allow_untrained:
        raise ReleaseRejectedError(
            f"{bundle.path}: {what} holds random weights (trained: false), its predictions mean nothing: "
            "publish a trained model"
        )
    _check_runnable(release, told_here["variants"], robot)


def _check_runnable(release: Release, variants: Iterable[str], robot: Robot) -> None:
    engine, precision = robot.engine, robot.precision
    with closing(create_backend(engine)) as backend:
        targets = backend.targets
    kinds = [variant.partition("/") for variant in variants]
    if not any(target in targets and precision in (None, kind) for target, _, kind in kinds):
        there = ", ".join(f"{kind} for {target}" for target, _, kind in kinds)
        wanted = f" in {precision}" if precision else ""
        raise ReleaseRejectedError(
            f"release {release.release_seq} of {release.model_id} has nothing that {engine} can run{wanted}; "
            f"it has: {there}: publish it with a variant for this robot"
        )
