"""jepa-export push, against a stand-in for the Hugging Face Hub (tests/hub_stand_in.py)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from jepa_export.release.hub_upload import model_card
from jepa_runtime import Bundle
from tests.bundles import make_bundle
from tests.hub_stand_in import HubStandIn, files_of, run_python, served

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
NAME = "robots/maze"


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with served() as hub:
        yield hub


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "local")


def push(hub: HubStandIn, bundle: Bundle, *options: str) -> subprocess.CompletedProcess[str]:
    start = "import sys; from jepa_export.cli import main; raise SystemExit(main())"
    words = ["-c", start, "push", str(bundle.path), f"hf://{NAME}", *options]
    return run_python(words, hub, bundle.path.parent / "home")


def test_pushed_bundle_can_be_opened_from_the_hub(hub: HubStandIn, bundle: Bundle, tmp_path: Path) -> None:
    done = push(hub, bundle)
    assert done.returncode == 0, done.stderr
    commit = hub.branches[NAME]["main"]
    assert done.stdout.strip() == f"hf://{NAME}@{commit}"
    lines = f"from jepa_runtime import Bundle; print(Bundle.open('hf://{NAME}').sha256)"
    read = run_python(["-c", lines], hub, tmp_path / "robot")
    assert read.stdout.strip() == bundle.sha256, read.stderr


def test_push_replaces_the_files_of_the_previous_bundle_in_one_commit(
    hub: HubStandIn, bundle: Bundle
) -> None:
    hub.commit(NAME, files_of(bundle.path) | {"encoder/onnx/old.onnx": b"old"})
    assert push(hub, bundle).returncode == 0
    assert len(hub.commits[NAME]) == 2
    listed = {record.path for record in bundle.manifest.files}
    assert hub.files(NAME).keys() == listed | {"manifest.json", "README.md", ".gitattributes"}


def test_model_card_states_the_manifest(hub: HubStandIn, bundle: Bundle) -> None:
    assert push(hub, bundle).returncode == 0
    card = hub.files(NAME)["README.md"].decode()
    assert card == model_card(bundle, NAME)
    metadata = YAML(typ="safe").load(card.split("---")[1])
    manifest = bundle.manifest
    assert metadata["license"] == manifest.licence.lower() and metadata["library_name"] == "jepa-edge"
    for text in (manifest.model_id, manifest.version, manifest.provenance.data, bundle.sha256):
        assert text in card
    assert all(name in card for name in manifest.io.action.names)


def test_damaged_bundle_is_not_pushed(hub: HubStandIn, bundle: Bundle) -> None:
    (bundle.path / "report.json").write_text("{}\n")
    done = push(hub, bundle)
    assert done.returncode == 1 and "[bundle." in done.stderr
    assert NAME not in hub.commits and not hub.requests


def test_failed_upload_is_an_error(bundle: Bundle) -> None:
    hub = HubStandIn()
    hub.url = "http://127.0.0.1:9"
    done = push(hub, bundle)
    assert done.returncode == 1 and "[hub.upload_failed]" in done.stderr
