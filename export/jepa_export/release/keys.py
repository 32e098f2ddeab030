"""Signing keys.

A private key is a file that only its owner can read, with or without a passphrase, or is in a key service or
hardware module named by a URI. The public keys are part of the signed metadata.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from getpass import getpass
from pathlib import Path
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from jepa_export.errors import JepaExportError
from jepa_runtime.util import atomic_files

_PRIVATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ID_LENGTH = 16
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
PASSPHRASE = "JEPA_EDGE_KEY_PASSPHRASE"
# Needed only a few times a year.
OFFLINE_ROLES = ("root", "targets")


def short_id(keyid: str) -> str:
    """Return the part of a key ID that file names and messages use."""
    return keyid[:_ID_LENGTH]


@dataclass(frozen=True)
class ExternalKey:
    """A private key outside the key folders.

    Attributes:
        uri: Address for securesystemslib, such as ``awskms:…``, ``gcpkms:…``, ``hsm:…`` or ``file2:PATH``.
        public: PEM file with the public key.
    """

    uri: str
    public: Path


@dataclass(frozen=True)
class PassphraseSource:
    """The source of passphrases: a file, else an environment variable, else the terminal.

    Attributes:
        file: Has the passphrase in its first line; None: no file.
    """

    file: Path | None = None

    def of(self, path: Path, *, new: bool = False) -> bytes:
        """Return the passphrase of a key.

        Args:
            path: File of the key, or its folder if ``new``.
            new: Whether the terminal prompts twice, to confirm a new passphrase.

        Raises:
            JepaExportError: There is no passphrase, or the file cannot be read.
        """
        if self.file is not None:
            try:
                found = next(iter(self.file.read_text(encoding="utf-8").splitlines()), "")
            except (OSError, UnicodeDecodeError) as error:
                raise JepaExportError(
                    f"{self.file}: the passphrase cannot be read: {error}",
                    code="release.passphrase_unreadable",
                ) from error
        else:
            found = os.environ.get(PASSPHRASE) or self._typed(path, new=new)
        if not found:
            raise JepaExportError(
                f"{path}: the passphrase is empty: choose another", code="release.passphrase_missing"
            )
        return found.encode()

    def _typed(self, path: Path, *, new: bool) -> str:
        if not sys.stdin.isatty():
            raise JepaExportError(
                f"{path}: needs a passphrase, and there is no terminal for a prompt: use --passphrase-file "
                f"or the environment variable {PASSPHRASE}",
                code="release.passphrase_missing",
            )
        try:
            found = getpass(f"Passphrase for {'new keys in ' if new else ''}{path}: ")
            again = getpass("Repeat the passphrase: ") if new else found
        except EOFError as error:
            raise JepaExportError(
                f"{path}: no passphrase was entered", code="release.passphrase_missing"
            ) from error
        if again != found:
            raise JepaExportError(
                "the two passphrases differ: nothing was written", code="release.passphrase_mismatch"
            )
        return found


class KeyRing:
    """Folders of keys: ``ROLE.KEYID.pem`` (a private key) or ``ROLE.KEYID.uri`` (the URI of an external key).

    A new key goes into the folder that has other keys of its role; else, for root and targets, into
    ``offline``; else into the first folder. A missing folder is created.

    Args:
        *folders: All are searched, because the keys of several people may be on several disks.
        offline: Folder for the keys of root and targets, which is searched as well; None: no such folder.
        passphrases: Passphrases of encrypted keys.
        encrypt: Whether new keys are encrypted.
    """

    def __init__(
        self,
        *folders: Path,
        offline: Path | None = None,
        passphrases: PassphraseSource | None = None,
        encrypt: bool = False,
    ) -> None:
        self.folders = folders if offline is None else (*folders, offline)
        self.offline = offline
        self._passphrases = passphrases or PassphraseSource()
        self._encrypt = encrypt
        self._opened: dict[str, Signer] = {}
        self._new: dict[Path, bytes] = {}

    def create(self, role: str) -> Key:
        """Create an ed25519 key for a role.

        Raises:
            JepaExportError: The key cannot be written, or there is no passphrase for it.
        """
        signer = CryptoSigner.generate_ed25519()
        content = signer.private_bytes
        if self._encrypt:
            private = load_pem_private_key(content, None)
            encryption = BestAvailableEncryption(self._new_passphrase(self._folder_for(role)))
            content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        self._write(role, signer.public_key, "pem", content)
        self._opened[signer.public_key.keyid] = signer
        return signer.public_key

    def adopt(self, role: str, external: ExternalKey) -> Key:
        """Use an external key for a role, after a test signature.

        Raises:
            JepaExportError: The public key cannot be read, or the private key does not sign for it.
        """
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(external.public.read_bytes()))
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise JepaExportError(
                f"{external.public}: is not a public key in PEM format: {error}",
                code="release.key_unusable",
            ) from error
        signer = _open(external.uri, key)
        try:
            key.verify_signature(signer.sign(b"jepa-edge"), b"jepa-edge")
        except Exception as error:
            # securesystemslib does not document which exceptions signers raise.
            raise JepaExportError(
                f"{external.uri}: does not sign for {external.public}: {reason_of(error)}: check the PIN, "
                "that the key may sign, and that the public key belongs to it",
                code="release.signing_failed",
            ) from error
        self._write(role, key, "uri", external.uri.encode())
        return key

    def signer(self, key: Key) -> Signer | None:
        """Return the signer of a key, or None if no folder has the key.

        Raises:
            JepaExportError: Other users can read the private key, or it cannot be used.
        """
        if key.keyid not in self._opened:
            found = (path for folder in self.folders for path in folder.glob(f"*.{short_id(key.keyid)}.*"))
            if (path := next(found, None)) is None:
                return None
            # Opened once: a hardware module may prompt for its PIN each time.
            self._opened[key.keyid] = self._from_file(path, key)
        return self._opened[key.keyid]

    def _folder_for(self, role: str) -> Path:
        holding = (folder for folder in self.folders if any(folder.glob(f"{role}.*")))
        offline = self.offline if role in OFFLINE_ROLES else None
        return next(holding, offline or self.folders[0])

    def _new_passphrase(self, folder: Path) -> bytes:
        if folder not in self._new:
            self._new[folder] = self._passphrases.of(folder, new=True)
        return self._new[folder]

    def _from_file(self, path: Path, key: Key) -> Signer:
        try:
            if path.suffix == ".uri":
                return _open(path.read_text(encoding="utf-8").strip(), key)
            if path.stat().st_mode & 0o077:
                raise JepaExportError(
                    f"{path}: other users can read this private key: run chmod 600, and rotate the key if it "
                    "may have been copied",
                    code="release.key_readable_by_others",
                )
            content = path.read_bytes()
            passphrase = self._passphrases.of(path) if _ENCRYPTED in content else None
            try:
                private = load_pem_private_key(content, passphrase)
            except ValueError as error:
                if passphrase is None:
                    raise
                raise JepaExportError(
                    f"{path}: the passphrase is wrong, or the file is damaged: try again, or restore a "
                    "backup",
                    code="release.key_unusable",
                ) from error
            return CryptoSigner(private, cast("SSlibKey", key))
        except (OSError, TypeError, ValueError, UnsupportedAlgorithm, SigningError) as error:
            raise JepaExportError(
                f"{path}: this private key cannot be used: {error}", code="release.key_unusable"
            ) from error

    def _write(self, role: str, key: Key, kind: str, content: bytes) -> None:
        folder = self._folder_for(role)
        path = folder / f"{role}.{short_id(key.keyid)}.{kind}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, _PRIVATE, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise JepaExportError(
                f"{path}: the key cannot be written: {error.strerror}", code="export.write_failed"
            ) from error
        atomic_files.sync_folder(folder)


def _open(uri: str, key: Key) -> Signer:
    # A token needs its PIN for each signature: prompt once per command.
    prompt = cache(lambda secret: getpass(f"{secret} of {uri}: "))
    try:
        return Signer.from_priv_key_uri(uri, key, prompt)
    except Exception as error:
        # As above: a file, a network, a smart card or a missing package may fail.
        raise JepaExportError(
            f"{uri}: this key cannot be used: {reason_of(error)}", code="release.key_unusable"
        ) from error


def reason_of(error: BaseException) -> str:
    """Return the message of an error or of its cause; the name of its class if no message exists."""
    cause: BaseException | None = error
    while cause is not None:
        if text := str(cause).strip():
            return text
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
