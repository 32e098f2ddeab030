"""Checks of a bundle before its release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jepa_export.errors import JepaExportError
from jepa_export.release.publish import check_bundle
from jepa_export.teachers.license import forbids_commercial_use
from jepa_runtime.bundle import Bundle, seal
from tests.bundles import make_bundle, manifest_fields
from tests.errors import code
from tests.export.releases import WEIGHTS


@pytest.fixture
def first(toy_bundle: Path) -> Bundle:
    return Bundle.open(toy_bundle)


def test_releasable_bundle_is_checked_in_each_precision(first: Bundle) -> None:
    assert check_bundle(first, engine="openvino:CPU", allow_untrained=False) == ["fp32", "fp16"]


def test_untrained_model_is_released_only_on_request(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "random", trained=False)
    with pytest.raises(JepaExportError, check=code("release.untrained")):
        check_bundle(bundle, engine="openvino:CPU", allow_untrained=False)
    assert check_bundle(bundle, engine="openvino:CPU", allow_untrained=True)


@pytest.mark.parametrize(
    "license",
    [
        "CC-BY-NC-4.0",
        "cc-by-nc-sa-4.0",
        "CC-BY-NC-4.0: not for commercial use",
        "PolyForm-Noncommercial-1.0.0",
        "MIT; weights for non-commercial research only",
    ],
)
def test_non_commercial_model_is_released_only_on_request(
    first: Bundle, tmp_path: Path, license: str
) -> None:
    bundle = seal(
        shutil.copytree(first.path, tmp_path / "licensed"),
        first.manifest.model_copy(update={"licence": license}),
    )
    with pytest.raises(JepaExportError) as refused:
        check_bundle(bundle, engine="openvino:CPU", allow_untrained=True)
    for part in (str(bundle.path), license, "--accept-non-commercial"):
        assert part in str(refused.value)
    assert check_bundle(bundle, engine="openvino:CPU", allow_untrained=False, accept_non_commercial=True) == [
        "fp32",
        "fp16",
    ]


@pytest.mark.parametrize(
    "license", ["Apache-2.0", "MIT", "CC-BY-4.0", "Apache-2.0, of ACME Inc", "CERN-OHL-S"]
)
def test_other_licenses_do_not_count_as_non_commercial(license: str) -> None:
    assert not forbids_commercial_use(license)


def test_model_with_wrong_outputs_is_not_released(first: Bundle, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(first.path, broken)
    shutil.copy(make_bundle(tmp_path / "other", seed=1).path / WEIGHTS, broken / WEIGHTS)
    bundle = seal(broken, manifest_fields())
    with pytest.raises(JepaExportError, check=code("export.parity_failed")):
        check_bundle(bundle, engine="openvino:CPU", allow_untrained=False)
