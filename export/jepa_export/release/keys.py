"""Who may sign. A private key is a file that only its owner reads, or lies in a key service or a hardware
module that is named by a URI; the public keys are in the signed metadata."""

from __future__ import annotations

import os
from dataclasses import dataclass
from getpass import getpass
from pathlib import Path
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.exceptions import Error as SigningError
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from jepa_export.errors import JepaExportError
from jepa_runtime.update import durable

_PRIVATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ID_LENGTH = 16


def short_id(keyid: str) -> str:
    """The part of a key's identifier that files and messages use."""
    return keyid[:_ID_LENGTH]


@dataclass(frozen=True)
class External:
    """A private key that lies elsewhere.

    Attributes:
        uri: how securesystemslib finds it, such as ``awskms:…``, ``gcpkms:…``, ``hsm:…`` or ``file2:PATH``.
        public: a PEM file with the public key.
    """

    uri: str
    public: Path


class KeyRing:
    """Folders of keys, ``ROLE.KEYID.pem`` (a private key) or ``ROLE.KEYID.uri`` (where it is).

    Args:
        folders: all are looked through, as the keys of several people may lie on several disks; new keys go
            into the first, which is made if it is missing.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders = folders
        self._opened: dict[str, Signer] = {}

    def create(self, role: str) -> Key:
        """Make a new ed25519 key for a role.

        Raises:
            JepaExportError: it cannot be written.
        """
        signer = CryptoSigner.generate_ed25519()
        self._write(role, signer.public_key, "pem", signer.private_bytes)
        return signer.public_key

    def adopt(self, role: str, external: External) -> Key:
        """Take a key that lies elsewhere for a role, after it has signed something.

        Raises:
            JepaExportError: the public key cannot be read, or the private one does not sign for it.
        """
        try:
            key = SSlibKey.from_crypto(load_pem_public_key(external.public.read_bytes()))
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise JepaExportError(
                f"{external.public}: no public key in PEM can be read there: {error}"
            ) from error
        signer = _open(external.uri, key)
        try:
            key.verify_signature(signer.sign(b"jepa-edge"), b"jepa-edge")
        except Exception as error:
            # What a signer raises is documented nowhere: securesystemslib says to expect anything.
            raise JepaExportError(f"{external.uri}: does not sign for {external.public}: {error}") from error
        self._write(role, key, "uri", external.uri.encode())
        return key

    def signer(self, key: Key) -> Signer | None:
        """What signs with a key, or None if none of the folders has it.

        Raises:
            JepaExportError: it is there, but others may read it or it cannot be used.
        """
        if key.keyid not in self._opened:
            found = (path for folder in self.folders for path in folder.glob(f"*.{short_id(key.keyid)}.*"))
            if (path := next(found, None)) is None:
                return None
            # Once only: a hardware module may ask for its PIN each time.
            self._opened[key.keyid] = _from_file(path, key)
        return self._opened[key.keyid]

    def _write(self, role: str, key: Key, kind: str, content: bytes) -> None:
        folder = self.folders[0]
        path = folder / f"{role}.{short_id(key.keyid)}.{kind}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, _PRIVATE, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise JepaExportError(f"{path}: the key cannot be written: {error.strerror}") from error
        durable.sync_folder(folder)


def _open(uri: str, key: Key) -> Signer:
    try:
        return Signer.from_priv_key_uri(uri, key, lambda secret: getpass(f"{secret} of {uri}: "))
    except Exception as error:
        # As above: a file, a network, a smart card or a missing package may be what fails.
        raise JepaExportError(f"{uri}: this key cannot be used: {error}") from error


def _from_file(path: Path, key: Key) -> Signer:
    try:
        if path.suffix == ".uri":
            return _open(path.read_text(encoding="utf-8").strip(), key)
        if path.stat().st_mode & 0o077:
            raise JepaExportError(
                f"{path}: others may read this private key: chmod 600 it, and rotate it if somebody did"
            )
        private = load_pem_private_key(path.read_bytes(), None)
        return CryptoSigner(private, cast("SSlibKey", key))
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm, SigningError) as error:
        raise JepaExportError(f"{path}: this private key cannot be used: {error}") from error
