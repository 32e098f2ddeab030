"""The first gate: a bundle that differs from its release or is not for this robot is rejected."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import BackendError, ReleaseRejectedError
from jepa_runtime.ota.gate import static_checks
from jepa_runtime.ota.release import Budgets, Release, Robot, Rollout, manifest_fields
from jepa_runtime.ota.robot import LocalGate
from tests.errors import code
from tests.ota.robots import Gate, Site, settings, variant

ROBOT = Robot(hardware_ids=("kestrel-2",))


@pytest.fixture(scope="module")
def bundle(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def release(bundle: Bundle, **changes: object) -> Release:
    fields: dict[str, object] = {
        "schema_version": 1,
        "model_id": bundle.manifest.model_id,
        "version": bundle.manifest.version,
        "release_seq": 9,
        "folder": "models/stable/toy/1.2.3",
        "manifest_sha256": bundle.sha256,
        "runtime_abi": (1, 1),
        "hardware_ids": ("any",),
        **manifest_fields(bundle.manifest),
        "budgets": Budgets(),
        "rollout": Rollout(percent=100.0, salt="s"),
    }
    return Release.model_validate(fields | changes)


def test_bundle_that_matches_its_release_passes(bundle: Bundle) -> None:
    static_checks.check(bundle, release(bundle), ROBOT)


@pytest.mark.parametrize(
    ("changes", "expected", "field"),
    [
        ({"manifest_sha256": "0" * 64}, "gate.bundle_mismatch", "manifest SHA-256"),
        (
            {"model_id": "other"},
            "gate.bundle_mismatch",
            "model is toy, but release 9 of other declares other",
        ),
        ({"version": "1.2.4"}, "gate.bundle_mismatch", "version"),
        ({"interface": "1" * 64}, "gate.bundle_mismatch", "interface"),
        ({"golden_sha256": "2" * 64}, "gate.bundle_mismatch", "golden_sha256"),
        ({"variants": ("openvino/fp32", "openvino/fp16")}, "gate.bundle_mismatch", "variants"),
        ({"hardware_ids": ("heron",)}, "release.hardware", "heron"),
        ({"runtime_abi": (2, 3)}, "release.runtime_abi", "from 2 to 3"),
    ],
)
def test_bundle_that_differs_from_its_release_is_rejected(
    bundle: Bundle, changes: dict[str, object], expected: str, field: str
) -> None:
    with pytest.raises(ReleaseRejectedError, check=code(expected)) as caught:
        static_checks.check(bundle, release(bundle, **changes), ROBOT)
    assert field in str(caught.value)


def test_random_weights_are_rejected_unless_allowed(tmp_path: Path) -> None:
    bundles = pytest.importorskip("tests.bundles", reason="onnx is not installed (extra dev)")
    untrained = bundles.make_bundle(tmp_path / "toy", trained=False)
    with pytest.raises(ReleaseRejectedError, check=code("gate.untrained")):
        static_checks.check(untrained, release(untrained), ROBOT)
    static_checks.check(untrained, release(untrained), ROBOT, allow_untrained=True)
    LocalGate(settings(allow_untrained=True)).check(untrained, release(untrained), ROBOT)
    with pytest.raises(ReleaseRejectedError, check=code("gate.untrained")):
        LocalGate(settings()).check(untrained, release(untrained), ROBOT)


def test_bundle_without_a_variant_for_the_robot_engine_is_rejected(bundle: Bundle) -> None:
    with pytest.raises(ReleaseRejectedError, check=code("gate.no_runnable_variant")):
        static_checks.check(bundle, release(bundle), replace(ROBOT, precision="int8"))


def test_fields_missing_in_an_older_release_are_read_from_its_bundle(bundle: Bundle) -> None:
    silent = release(bundle, variants=(), golden_sha256=None)
    static_checks.check_release(silent, replace(ROBOT, precision="int8"))
    static_checks.check(bundle, silent, ROBOT)
    with pytest.raises(ReleaseRejectedError, check=code("gate.no_runnable_variant")):
        static_checks.check(bundle, silent, replace(ROBOT, precision="int8"))


@pytest.mark.parametrize(
    ("changes", "precision", "expected"),
    [
        ({}, None, None),
        ({"variants": ("tensorrt/int8", "openvino/fp16")}, None, None),
        ({"variants": ("tensorrt/int8", "openvino/fp16")}, "fp16", None),
        ({"variants": ("tensorrt/int8", "openvino/fp16")}, "int8", "gate.no_runnable_variant"),
        ({"variants": ("tensorrt/int8",)}, None, "gate.no_runnable_variant"),
        ({"hardware_ids": ("heron",)}, None, "release.hardware"),
    ],
)
def test_release_that_the_robot_cannot_run_is_rejected_before_the_download(
    bundle: Bundle, changes: dict[str, object], precision: str | None, expected: str | None
) -> None:
    with nullcontext() if expected is None else pytest.raises(ReleaseRejectedError, check=code(expected)):
        static_checks.check_release(release(bundle, **changes), replace(ROBOT, precision=precision))


def test_bundle_that_reads_no_poses_is_rejected_by_a_robot_that_needs_them(
    bundle: Bundle, pose_bundle: Path
) -> None:
    needing = replace(ROBOT, needs_poses=True)
    with pytest.raises(ReleaseRejectedError, check=code("gate.reads_no_poses")):
        static_checks.check(bundle, release(bundle), needing)
    reading = Bundle.open(pose_bundle)
    for robot in (ROBOT, needing):
        static_checks.check(reading, release(reading), robot)


class StaticGate(Gate):
    """A gate with real static checks."""

    def check(self, bundle: Bundle, release: Release, robot: Robot) -> None:
        static_checks.check(bundle, release, robot)


def test_update_from_a_model_that_reads_poses_must_read_them_unless_allowed(
    tmp_path: Path, toy_bundle: Path, pose_bundle: Path
) -> None:
    site = Site(tmp_path / "robot", variant(pose_bundle, tmp_path / "first", "1.0.0"))
    site.gate = StaticGate()
    site.repository.publish(variant(toy_bundle, tmp_path / "second", "2.0.0"), 2)
    state = site.update()
    assert state.result == "rejected" and "reads no poses" in state.reason
    assert site.update(any_interface=True, retry_rejected=True).result == "updated"
    site.repository.publish(variant(pose_bundle, tmp_path / "third", "3.0.0"), 3)
    assert site.update().result == "updated", "poses may be added at any time"


def test_engine_missing_on_the_robot_is_not_blamed_on_the_release(bundle: Bundle) -> None:
    with pytest.raises(BackendError, check=code("backend.engine_unknown")):
        static_checks.check(bundle, release(bundle), replace(ROBOT, engine="steam"))


@pytest.mark.parametrize("expected", [{}, {"variants": ()}], ids=["by its release", "by its bundle"])
@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ({"precision": "int8"}, "no variant that openvino:CPU can run in int8"),
        ({"engine": "steam"}, "'steam'"),
    ],
)
def test_update_uses_the_engine_and_precision_of_the_robot(
    tmp_path: Path, bundle: Bundle, named: dict[str, str], expected: dict[str, object], reason: str
) -> None:
    site = Site(tmp_path / "robot", None, **named)
    site.repository.publish(bundle, 9, **expected)
    state = site.update(gate=LocalGate(settings(**named)))
    assert state.result in ("rejected", "failed") and reason in state.reason
