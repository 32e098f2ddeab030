"""The first gate: what a bundle says about itself, against its release and this robot. Nothing of it runs."""

from __future__ import annotations

from jepa_runtime.backends.select import create_backend
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import RefusedError
from jepa_runtime.sessions import runnable_precisions
from jepa_runtime.update.release import Release, Robot, check_meant, interface_of


def check(
    bundle: Bundle,
    release: Release,
    robot: Robot,
    *,
    engine: str = "openvino:CPU",
    precision: str | None = None,
    allow_untrained: bool = False,
) -> None:
    """Check that a bundle is what its release says, and that this robot can run it.

    Args:
        bundle: opened by the strict reader: schema, listing, hashes and formats are in order.
        engine, precision: that will serve it; precision None: any.
        allow_untrained: accept random weights, for tests.

    Raises:
        RefusedError: it is not; the message says why.
        BackendError: this robot has no such engine or device.
    """
    check_meant(release, robot)
    manifest, what = bundle.manifest, f"release {release.release_seq} of {release.model_id}"
    for name, told, found in (
        ("manifest SHA-256", release.manifest_sha256, bundle.sha256),
        ("model", release.model_id, manifest.model_id),
        ("version", release.version, manifest.version),
        ("interface", release.interface, interface_of(manifest)),
    ):
        if told != found:
            raise RefusedError(
                f"{bundle.path}: {name} is {found}, {what} says {told}: publish the release again"
            )
    if not manifest.trained and not allow_untrained:
        raise RefusedError(
            f"{bundle.path}: {what} holds random weights (trained: false), its predictions mean nothing: "
            "publish a trained model"
        )
    backend = create_backend(engine)
    try:
        runnable = runnable_precisions(manifest, backend.targets)
    finally:
        backend.close()
    if not runnable or precision not in (None, *runnable):
        kinds = ", ".join(f"{entry.precision} for {entry.target}" for entry in manifest.graphs.encoder)
        wanted = f" in {precision}" if precision else ""
        raise RefusedError(
            f"{bundle.path}: {what} has nothing that {engine} can run{wanted}; it has: {kinds}: publish it "
            "with a variant for this robot"
        )
