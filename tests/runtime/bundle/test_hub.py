"""Bundles on the Hugging Face Hub, against a stand-in for its endpoints (tests/hub_stand_in.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jepa_runtime.bundle import HubRepository
from jepa_runtime.errors import BundleError
from tests.bundles import make_bundle
from tests.errors import code
from tests.hub_stand_in import HubStandIn, files_of, run_python, served

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
NAME = "robots/maze"
OPEN = """
import sys
from jepa_runtime import WorldModel
from jepa_runtime.errors import CodedError
try:
    with WorldModel.open(sys.argv[1]) as model:
        print(model.bundle.path)
except CodedError as error:
    print(error.code, error)
    raise SystemExit(1)
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with served() as hub:
        yield hub


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "local").path


def opened(
    hub: HubStandIn, home: Path, address: str = f"hf://{NAME}", **environment: str
) -> subprocess.CompletedProcess[str]:
    return run_python(["-c", OPEN, address], hub, home, **environment)


def downloads(hub: HubStandIn, path: str) -> list[tuple[str, str, str | None]]:
    return [each for each in hub.requests if each[0] == "GET" and each[1].endswith(f"/{path}")]


def test_world_model_opens_a_bundle_of_the_hub(hub: HubStandIn, bundle: Path, tmp_path: Path) -> None:
    commit = hub.commit(NAME, files_of(bundle))
    done = opened(hub, tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == commit and (tmp_path / "home") in folder.parents
    assert (folder / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()
    # What the manifest does not list stays on the Hub.
    assert not (folder / "README.md").exists() and not list(folder.parent.glob("*.partial"))


def test_cached_bundle_is_not_downloaded_again(hub: HubStandIn, bundle: Path, tmp_path: Path) -> None:
    commit = hub.commit(NAME, files_of(bundle))
    assert opened(hub, tmp_path).returncode == 0
    hub.requests.clear()
    assert opened(hub, tmp_path).returncode == 0
    assert not [path for _, path, _ in hub.requests if "resolve" in path]
    hub.requests.clear()
    assert opened(hub, tmp_path, f"hf://{NAME}@{commit}").returncode == 0
    assert not hub.requests


def test_new_commit_is_downloaded_and_an_old_revision_stays_available(
    hub: HubStandIn, bundle: Path, tmp_path: Path
) -> None:
    first = hub.commit(NAME, files_of(bundle))
    hub.branches[NAME]["v1"] = first
    assert opened(hub, tmp_path).stdout.strip().endswith(first)
    second = hub.commit(NAME, files_of(make_bundle(tmp_path / "other", seed=1).path))
    assert opened(hub, tmp_path).stdout.strip().endswith(second)
    assert opened(hub, tmp_path, f"hf://{NAME}@v1").stdout.strip().endswith(first)


def test_transfer_that_ends_early_is_repeated(hub: HubStandIn, bundle: Path, tmp_path: Path) -> None:
    hub.commit(NAME, files_of(bundle))
    hub.cut_once.add("golden.npz")
    assert opened(hub, tmp_path).returncode == 0
    assert len(downloads(hub, "golden.npz")) == 2


def test_interrupted_download_continues_with_the_missing_files(
    hub: HubStandIn, bundle: Path, tmp_path: Path
) -> None:
    hub.commit(NAME, files_of(bundle))
    hub.cut.add("report.json")
    assert opened(hub, tmp_path / "home").stdout.startswith("hub.unreachable")
    finished = {path for path in files_of(bundle) if downloads(hub, path)} - {"report.json"}
    assert len(finished) > 2
    # A bundle that is not complete is never opened.
    assert not opened(hub, tmp_path / "home", HF_HUB_OFFLINE="1").stdout.startswith(str(tmp_path))
    hub.cut.clear()
    hub.requests.clear()
    assert opened(hub, tmp_path / "home").returncode == 0
    assert downloads(hub, "report.json") and not any(downloads(hub, path) for path in finished)


def test_downloaded_bundle_opens_without_a_connection(hub: HubStandIn, bundle: Path, tmp_path: Path) -> None:
    commit = hub.commit(NAME, files_of(bundle))
    assert opened(hub, tmp_path).returncode == 0
    offline = opened(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.strip().endswith(commit)
    assert opened(hub, tmp_path, HF_ENDPOINT="http://127.0.0.1:9").stdout.strip().endswith(commit)
    assert opened(hub, tmp_path / "empty", HF_HUB_OFFLINE="1").stdout.startswith("hub.unreachable")


def test_changed_file_is_rejected_and_not_cached(hub: HubStandIn, bundle: Path, tmp_path: Path) -> None:
    files = files_of(bundle)
    report = bytearray(files["report.json"])
    report[-3] ^= 1
    hub.commit(NAME, files | {"report.json": bytes(report)})
    for _ in range(2):
        assert opened(hub, tmp_path / "home").stdout.startswith("bundle.hash_mismatch")
    assert not [path for path in (tmp_path / "home").rglob("report.json")]
    hub.commit(NAME, files)
    assert opened(hub, tmp_path / "home").returncode == 0


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"manifest.json": None}, "hub.not_found"),
        ({"golden.npz": None}, "hub.not_found"),
        ({"manifest.json": b"{}"}, "bundle."),
        ({"manifest.json": "../escape.json"}, "bundle.manifest_invalid"),
    ],
)
def test_repository_without_a_bundle_is_an_error(
    hub: HubStandIn, bundle: Path, tmp_path: Path, changed: dict[str, object], expected: str
) -> None:
    files = files_of(bundle)
    for name, content in changed.items():
        if content is None:
            del files[name]
        elif isinstance(content, bytes):
            files[name] = content
        else:
            manifest = json.loads(files[name])
            manifest["files"][0]["path"] = content
            files[name] = json.dumps(manifest).encode()
    hub.commit(NAME, files)
    assert opened(hub, tmp_path / "home").stdout.startswith(expected)


def test_missing_repository_or_revision_is_an_error(hub: HubStandIn, bundle: Path, tmp_path: Path) -> None:
    assert opened(hub, tmp_path).stdout.startswith("hub.not_found")
    hub.commit(NAME, files_of(bundle))
    assert opened(hub, tmp_path, f"hf://{NAME}@v9").stdout.startswith("hub.not_found")


@pytest.mark.parametrize(
    ("address", "name", "revision"),
    [
        ("hf://a/b", "a/b", None),
        ("hf://a-1/b_2.c@v1.0", "a-1/b_2.c", "v1.0"),
        ("hf://a/b@refs/pr/1", "a/b", "refs/pr/1"),
    ],
)
def test_address_has_a_name_and_a_revision(address: str, name: str, revision: str | None) -> None:
    assert HubRepository.parse(address) == HubRepository(name, revision)
    assert str(HubRepository(name, revision)) == address


@pytest.mark.parametrize(
    "address", ["hf://a", "hf://a/b/c", "hf://a/..", "hf:///b", "hf://a/b@", "hf://a/b@../c"]
)
def test_wrong_address_is_an_error(address: str) -> None:
    with pytest.raises(BundleError, check=code("hub.invalid_address")):
        HubRepository.parse(address)


def test_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BundleError, check=code("hub.client_missing"), match=r"jepa-edge\[hub\]"):
        HubRepository("a/b").download()


def test_runtime_does_not_import_the_client() -> None:
    lines = "import sys, jepa_runtime.bundle, jepa_runtime; assert 'huggingface_hub' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", lines]).returncode == 0
