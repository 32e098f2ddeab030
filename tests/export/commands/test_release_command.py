"""jepa-export release on the command line: one clear line for each result, exit status 0 or 1."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from jepa_export import cli
from jepa_export.cli import main
from jepa_export.release.keys import KeyRing
from jepa_export.release.publish import Terms, publish
from jepa_export.release.repository import utc_now
from jepa_export.release.repository_check import check
from jepa_export.release.roles import Policy, init
from jepa_runtime.bundle import Bundle, seal
from tests.export.releases import WEIGHTS, Client, new_repository, opened, variant

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch unavailable: releases do not need it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        cli.importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest)
    )


@pytest.fixture
def published(toy_bundle: Path, tmp_path: Path) -> Path:
    """Return a repository with one release."""
    repo = new_repository(tmp_path)
    publish(opened(repo), Bundle.open(toy_bundle), Terms(channel="stable"))
    return repo


def run(*arguments: object) -> int:
    return main(["release", *map(str, arguments)])


def test_release_commands_work_from_an_empty_folder_to_a_downgrade(
    toy_bundle: Path, tmp_path: Path, capsys: Output
) -> None:
    repo, robot = tmp_path / "repo", tmp_path / "robot"
    assert run("init", repo) == 0
    assert f"robots start from {repo}/metadata/1.root.json" in capsys.readouterr().out
    assert len(list((tmp_path / "repo.keys").iterdir())) == 4
    of_stable = ("--channel", "stable")
    terms = ("--percent", 10, "--hardware", "orin_nx", "--max-latency-p99-ms", 20)
    assert run("publish", repo, toy_bundle, *of_stable, *terms) == 0
    output = capsys.readouterr().out
    assert "reproduces its golden outputs in fp32, fp16" in output
    assert "toy 1.2.3 is release 1 of channel stable, for 10 % of the robots (orin_nx)" in output
    assert run("rollout", repo, *of_stable, "--model", "toy", "--percent", 100) == 0
    assert "for 100 % of the robots" in capsys.readouterr().out
    second = variant(toy_bundle, tmp_path / "second", "1.2.4", changed=100)
    assert run("publish", repo, second.path, *of_stable, "--release-seq", "auto", "--max-error-ratio", 2) == 0
    assert "deltas from earlier releases: 1, 0." in capsys.readouterr().out
    assert run("downgrade", repo, *of_stable, "--model", "toy", "--bundle-version", "1.2.3") == 0
    assert "toy 1.2.3 is release 3 of channel stable" in capsys.readouterr().out
    assert run("revoke", repo, *of_stable, "--model", "toy", "--release-seq", 2) == 0
    assert "revoked releases of toy in stable: 2" in capsys.readouterr().out
    release = Client(repo, robot).latest()
    assert release is not None and (release.release_seq, release.revoked) == (3, (2,))
    assert run("check", repo) == 0
    assert "1 latest releases: no problems" in capsys.readouterr().out


def test_non_commercial_model_is_published_only_with_an_option(
    toy_bundle: Path, tmp_path: Path, capsys: Output
) -> None:
    repo, bundle = new_repository(tmp_path), Bundle.open(shutil.copytree(toy_bundle, tmp_path / "licensed"))
    seal(bundle.path, bundle.manifest.model_copy(update={"licence": "CC-BY-NC-4.0"}))
    publish = ("publish", repo, bundle.path, "--channel", "stable", "--keys", tmp_path / "keys")
    assert run(*publish) == 1
    assert f"{bundle.path}: its license (CC-BY-NC-4.0) forbids commercial use" in capsys.readouterr().err
    assert run(*publish, "--accept-non-commercial") == 0
    assert "toy 1.2.3 is release 1 of channel stable" in capsys.readouterr().out


def test_signing_commands_rotate_and_resign(published: Path, tmp_path: Path, capsys: Output) -> None:
    keys = ("--keys", published.with_name("keys"))
    assert run("rotate", published, "timestamp", *keys) == 0
    assert "timestamp: key " in capsys.readouterr().out
    assert run("add-channel", published, "beta", *keys, "--channel-threshold", 2, "--channel-keys", 3) == 0
    assert "channels beta, canary, stable" in capsys.readouterr().out
    assert run("resign", published, *keys) == 0
    assert "nothing expires soon" in capsys.readouterr().out
    assert run("resign", published, *keys, "--within", 8) == 0
    assert "timestamp 5 is valid until" in capsys.readouterr().out
    assert run("resign", published, "--keys", tmp_path / "none", "--within", 8) == 1
    assert "timestamp expire soon, but too few of their keys" in capsys.readouterr().err
    repository = opened(published)
    known = repository.delegator("channel-beta").get_delegated_role("channel-beta")
    assert (known.threshold, len(known.keyids)) == (2, 3)


def test_quorums_follow_the_policy_unless_overridden(tmp_path: Path) -> None:
    repo, keys = tmp_path / "repo", tmp_path / "keys"
    options = ("--policy", "fleet", "--root-threshold", 2, "--root-keys", 3, "--channel", "field")
    assert run("init", repo, "--keys", keys, *options) == 0
    repository = opened(repo)
    assert repository.channels == ["field"]
    quorums = {
        role: (known.threshold, len(known.keyids))
        for role in ("root", "targets", "channel-field")
        if (known := repository.delegator(role).get_delegated_role(role))
    }
    assert quorums == {"root": (2, 3), "targets": (2, 3), "channel-field": (2, 3)}


def test_show_names_roles_and_releases(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("show", published) == 0
    output = capsys.readouterr().out
    for expected in ("channel-canary", "1 of 1", "7.0", "toy", "1.2.3", "100 %", "latest"):
        assert expected in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("check", "{tmp}/nothing"), "1.root.json: cannot be read (No such file or directory)"),
        (("show", "{tmp}/nothing"), "create one with jepa-export release init"),
        (("resign", "{tmp}/nothing"), "is not a repository: create one with jepa-export release init"),
        (("publish", "{repo}", "{tmp}/nothing", "--channel", "stable"), "not a bundle"),
        (("init", "{repo}"), "contains a repository"),
        (("init", "{tmp}/new", "--root-threshold", "0"), "a threshold of 0 with 3 keys is invalid"),
        (
            ("init", "{tmp}/new", "--signer", "root", "ftp:1", "{tmp}/no.pem"),
            "is not a public key in PEM format",
        ),
    ],
)
def test_invalid_use_is_reported_in_one_line(
    published: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str, capsys: Output
) -> None:
    assert run(*(text.format(repo=published, tmp=tmp_path) for text in arguments)) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("jepa-export: ") and reason in stderr and stderr.count("\n") == 1


def test_check_names_content_that_robots_cannot_use(published: Path, capsys: Output) -> None:
    folder = published / "targets" / "models" / "stable" / "toy" / "1.2.3"
    (damaged,) = (folder / WEIGHTS).parent.glob("*.model.bin")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (lost,) = folder.glob("*.golden.npz")
    lost.unlink()
    assert run("check", published) == 3
    output = capsys.readouterr().out
    assert f"{damaged}: does not match its signed hash: restore it from a backup" in output
    assert f"{lost}: cannot be read (No such file or directory)" in output
    assert "2 problems" in output


def test_check_follows_the_pointer(published: Path) -> None:
    repository, role = opened(published), "listing.stable.toy.0"
    del repository.listing(role)["models/stable/toy/1.2.3/golden.npz"]
    repository.commit(role)
    assert check(published, utc_now()).problems == [
        "release 1 of toy in channel stable: models/stable/toy/1.2.3/golden.npz is not listed as in its "
        "manifest: publish another version"
    ]
    del repository.listing(role)["models/stable/toy/1.2.3/manifest.json"]
    repository.commit(role)
    assert "its manifest is not listed" in check(published, utc_now()).problems[0]
    del repository.channel("stable").targets["models/stable/toy/latest.json"]
    repository.commit("channel-stable")
    assert check(published, utc_now()).problems == [
        "channel stable: toy has files but no release: publish it"
    ]


def test_check_reports_expired_metadata(
    published: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_export.release.repository.utc_now", lambda: utc_now() + timedelta(days=8))
    assert run("check", published) == 1
    stderr = capsys.readouterr().err
    assert "timestamp.json is expired: sign it again with jepa-export release resign" in stderr


@pytest.mark.parametrize(("days", "expired"), [(170, None), (190, "targets"), (370, "root, targets")])
def test_publish_warns_of_a_release_that_no_robot_accepts(
    toy_bundle: Path, tmp_path: Path, capsys: Output, days: int, expired: str | None
) -> None:
    repo, keys = tmp_path / "repo", KeyRing(tmp_path / "repo.keys")
    began = utc_now() - timedelta(days=days)
    init(repo, keys, channels=["stable"], policy=Policy(), externals={}, now=lambda: began)
    of_toy = ("--channel", "stable", "--model", "toy")
    assert run("publish", repo, toy_bundle, "--channel", "stable") == (expired is not None)
    assert run("rollout", repo, *of_toy, "--percent", 100) == (expired is not None)
    captured = capsys.readouterr()
    assert "toy 1.2.3 is release 1" in captured.out
    assert (f"robots reject it, because {expired} expired" in captured.err) == (expired is not None)
    assert run("resign", repo) == 0
    assert run("rollout", repo, *of_toy, "--percent", 100) == 0


def test_check_rejects_replaced_metadata(published: Path, capsys: Output) -> None:
    snapshot = published / "metadata" / "2.snapshot.json"
    snapshot.write_bytes(snapshot.read_bytes() + b" ")
    assert run("check", published) == 1
    assert "does not match its signatures" in capsys.readouterr().err


def test_publishing_needs_no_torch() -> None:
    program = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['torch'] = None\n"
        "import jepa_export.cli, jepa_export.release as release\n"
        "for module in pkgutil.iter_modules(release.__path__):\n"
        "    importlib.import_module(f'jepa_export.release.{module.name}')\n"
        "assert 'onnx' not in sys.modules and 'scipy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
