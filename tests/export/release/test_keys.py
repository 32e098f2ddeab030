"""Keys with passphrases, root keys in a separate folder, and lifetimes configured in a repository."""

from __future__ import annotations

import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner

from jepa_export.cli import main
from jepa_export.errors import JepaExportError
from jepa_export.release import keys as keys_module
from jepa_export.release.keys import PASSPHRASE, ExternalKey, KeyRing
from jepa_export.release.publish import Terms, publish
from jepa_export.release.repository import utc_now
from jepa_runtime.bundle import Bundle
from jepa_runtime.ota import robot
from jepa_runtime.ota.provisioning import provision
from jepa_runtime.ota.state import State
from tests.errors import code
from tests.export.releases import Client, opened
from tests.ota.robots import Clock, Gate, client_arguments, settings

Output = pytest.CaptureFixture[str]
DAY = timedelta(days=1)
SECRET = "correct horse battery staple"


def run(*arguments: object) -> int:
    return main(["release", *map(str, arguments)])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture
def protected(tmp_path: Path, secret: Path) -> Path:
    """Return a repository whose keys all have a passphrase."""
    repo = tmp_path / "repo"
    assert run("init", repo, "--channel", "stable", "--encrypt", "--passphrase-file", secret) == 0
    return repo


def test_init_puts_root_behind_two_of_three_keys_in_a_folder_of_their_own(
    tmp_path: Path, toy_bundle: Path, capsys: Output
) -> None:
    repo, offline = tmp_path / "repo", tmp_path / "repo.offline-keys"
    assert run("init", repo, "--channel", "stable") == 0
    output = capsys.readouterr().out
    assert f"keys of root and targets are in {offline}: move each to a separate disk" in output
    assert "keys are not encrypted: --encrypt encrypts new keys" in output
    names = {folder: sorted(p.name.partition(".")[0] for p in folder.iterdir())
             for folder in (tmp_path / "repo.keys", offline)}  # fmt: skip
    assert list(names.values()) == [
        ["channel-stable", "snapshot", "timestamp"],
        ["root", "root", "root", "targets"],
    ]
    assert stat.S_IMODE(offline.stat().st_mode) == 0o700
    root = opened(repo, tmp_path / "repo.keys").root.roles["root"]
    assert (root.threshold, len(root.keyids)) == (2, 3)

    away = shutil.move(offline, tmp_path / "disk")
    assert run("publish", repo, toy_bundle, "--channel", "stable") == 0
    assert run("rotate", repo, "timestamp") == 1
    assert "root needs 2 signatures, and 0 of its keys are in" in capsys.readouterr().err
    assert run("rotate", repo, "timestamp", "--keys", tmp_path / "repo.keys", "--keys", away) == 0
    assert len(list((tmp_path / "repo.keys").glob("timestamp.*"))) == 2
    assert Client(repo, tmp_path / "robot").latest() is not None


def test_new_root_key_joins_the_other_root_keys(tmp_path: Path) -> None:
    repo, offline = tmp_path / "repo", tmp_path / "repo.offline-keys"
    assert run("init", repo) == 0
    old = sorted(offline.glob("root.*"))[0].name.split(".")[1]
    assert run("rotate", repo, "root", "--key", old) == 0
    assert len(list(offline.glob("root.*"))) == 4 and not list((tmp_path / "repo.keys").glob("root.*"))


def test_dev_policy_has_one_key_for_each_role_in_one_folder(tmp_path: Path, capsys: Output) -> None:
    assert run("init", tmp_path / "repo", "--policy", "dev") == 0
    assert len(list((tmp_path / "repo.keys").iterdir())) == 6
    assert not (tmp_path / "repo.offline-keys").exists()
    assert "all keys are in" in capsys.readouterr().out


def test_protected_keys_are_encrypted_and_sign_with_the_passphrase(
    protected: Path, secret: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    private = [*(tmp_path / "repo.keys").iterdir(), *(tmp_path / "repo.offline-keys").iterdir()]
    assert len(private) == 7
    for path in private:
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        load_pem_private_key(path.read_bytes(), SECRET.encode())
        with pytest.raises(TypeError):
            load_pem_private_key(path.read_bytes(), None)
    assert run("publish", protected, toy_bundle, "--channel", "stable", "--passphrase-file", secret) == 0
    assert run("rotate", protected, "timestamp", "--encrypt", "--passphrase-file", secret) == 0
    assert all(b"ENCRYPTED" in path.read_bytes() for path in (tmp_path / "repo.keys").iterdir())
    assert Client(protected, tmp_path / "robot").latest() is not None


def test_passphrase_comes_from_the_environment_or_the_terminal(
    protected: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    resign = ("resign", protected, "--within", 1000)
    monkeypatch.setattr(keys_module.sys.stdin, "isatty", lambda: False, raising=False)
    assert run(*resign) == 1
    stderr = capsys.readouterr().err
    assert "needs a passphrase, and there is no terminal for a prompt: use --passphrase-file or" in stderr
    monkeypatch.setenv(PASSPHRASE, SECRET)
    assert run(*resign) == 0
    monkeypatch.delenv(PASSPHRASE)
    prompts: list[str] = []
    monkeypatch.setattr(keys_module.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(keys_module, "getpass", lambda prompt: prompts.append(prompt) or SECRET)
    assert run(*resign) == 0
    # One prompt per key; the third root key is prompted for although it is not needed.
    assert len(prompts) == 7 and all(".pem: " in prompt for prompt in prompts)


@pytest.mark.parametrize("given", ["wrong", ""])
def test_wrong_passphrase_is_an_error_that_names_the_key(
    protected: Path, secret: Path, capsys: Output, given: str
) -> None:
    secret.write_text(given)
    before = sorted(path.name for path in (protected / "metadata").iterdir())
    assert run("resign", protected, "--within", 1000, "--passphrase-file", secret) == 1
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and ".pem: " in stderr
    assert ("the passphrase is wrong" if given else "the passphrase is empty") in stderr
    assert sorted(path.name for path in (protected / "metadata").iterdir()) == before


def test_passphrase_file_that_is_missing_is_an_error(protected: Path, tmp_path: Path, capsys: Output) -> None:
    assert run("resign", protected, "--within", 1000, "--passphrase-file", tmp_path / "none") == 1
    assert "none: the passphrase cannot be read" in capsys.readouterr().err


def test_new_passphrase_is_prompted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    answers = iter([SECRET, "a typing error"])
    monkeypatch.setattr(keys_module.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(keys_module, "getpass", lambda _: next(answers))
    assert run("init", tmp_path / "repo", "--encrypt") == 1
    assert "the two passphrases differ: nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pem"))


class PinError(Exception):
    """Fake the error of PyKCS11, which has a text; securesystemslib wraps it in errors without one."""


def test_token_that_refuses_reports_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = load_pem_private_key(CryptoSigner.generate_ecdsa().private_bytes, None)
    public = tmp_path / "public.pem"
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    class Signer:
        def sign(self, _: bytes) -> None:
            try:
                raise PinError("CKR_PIN_INCORRECT (0x000000A0)")
            except PinError as error:
                raise RuntimeError from error

    monkeypatch.setattr(keys_module, "_open", lambda *_: Signer())
    with pytest.raises(JepaExportError, check=code("release.signing_failed")) as error:
        KeyRing(tmp_path / "keys").adopt("timestamp", ExternalKey("hsm:2", public))
    assert "CKR_PIN_INCORRECT" in str(error.value)


def days_of(repo: Path, *roles: str) -> list[int]:
    """Return the number of days for which the current signatures of roles are valid."""
    signed = opened(repo, repo.with_name("repo.keys")).signed
    return [round((signed[role].expires - utc_now()) / DAY) for role in roles]


def test_usb_key_works_as_long_as_the_repository_requires(
    tmp_path: Path, toy_bundle: Path, capsys: Output
) -> None:
    repo, robots = tmp_path / "repo", tmp_path / "robots"
    long = ("--lifetime", "timestamp", 30, "--lifetime", "snapshot", 30, "--lifetime", "channel-stable", 40)
    assert run("init", repo, "--channel", "stable", *long) == 0
    publish(opened(repo, tmp_path / "repo.keys"), Bundle.open(toy_bundle), Terms(channel="stable"))
    assert days_of(repo, "timestamp", "snapshot", "channel-stable", "listing.stable.toy.0", "targets") == [
        30, 30, 40, 40, 180
    ]  # fmt: skip
    stick = shutil.copytree(repo, tmp_path / "stick")

    def update_after(days: int) -> State:
        root = robots / str(days)
        provision(root, settings(repository="/nowhere"), (stick / "metadata" / "1.root.json").read_bytes())
        with robot.open_client(
            root,
            **client_arguments(source=stick, gate=Gate(), now=lambda: utc_now() + days * DAY, clock=Clock()),
        ) as client:
            return client.update()

    assert update_after(29).result == "updated"
    late = update_after(31)
    assert late.result == "failed" and "timestamp.json is expired" in late.reason


def test_lifetime_of_a_role_can_be_changed(tmp_path: Path, toy_bundle: Path, capsys: Output) -> None:
    repo = tmp_path / "repo"
    assert run("init", repo, "--channel", "stable") == 0
    publish(opened(repo, tmp_path / "repo.keys"), Bundle.open(toy_bundle), Terms(channel="stable"))
    client = Client(repo, tmp_path / "robot")
    client.updater()
    roles = ("timestamp", "channel-stable", "listing.stable.toy.0", "root")
    assert days_of(repo, *roles) == [7, 90, 90, 365]
    for role, days in (("timestamp", 45), ("channel-stable", 60), ("root", 700)):
        assert run("lifetime", repo, role, days) == 0
    assert days_of(repo, *roles) == [45, 60, 60, 700]
    assert "timestamp is valid until" in capsys.readouterr().out
    assert run("resign", repo, "--within", 46) == 0
    assert days_of(repo, *roles) == [45, 60, 60, 700]
    assert run("resign", repo) == 0
    assert "nothing expires soon" in capsys.readouterr().out
    client.updater()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ("init", "{tmp}/new", "--lifetime", "boss", "3"),
            "--lifetime boss: unknown role: choose one of root",
        ),
        (("init", "{tmp}/new", "--lifetime", "root", "x"), "--lifetime: 'x' is not a number of days"),
        (("init", "{tmp}/new", "--lifetime", "root", "0"), "root: a lifetime of 0 days is out of range"),
        (
            ("lifetime", "{tmp}/repo", "timestamp", "4000"),
            "timestamp: a lifetime of 4000 days is out of range",
        ),
        (("lifetime", "{tmp}/repo", "listing.stable.toy.0", "9"), "has the lifetime of its channel"),
    ],
)
def test_wrong_lifetime_is_rejected(
    tmp_path: Path, toy_bundle: Path, capsys: Output, arguments: tuple[str, ...], reason: str
) -> None:
    assert run("init", tmp_path / "repo", "--channel", "stable", "--policy", "dev") == 0
    publish(
        opened(tmp_path / "repo", tmp_path / "repo.keys"), Bundle.open(toy_bundle), Terms(channel="stable")
    )
    assert run(*(text.format(tmp=tmp_path) for text in arguments)) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
