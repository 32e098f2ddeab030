"""Bundles on the Hugging Face Hub.

The files of a bundle are downloaded by huggingface_hub, which resumes interrupted downloads, into its folder
for the assets of other libraries: one folder for each commit, which appears when it is complete and verified.
The cache for models is not used, because it consists of links, which a bundle must not contain.
"""

from __future__ import annotations

import importlib
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from jepa_runtime.bundle.manifest_parser import parse_manifest
from jepa_runtime.bundle.reader import Bundle
from jepa_runtime.bundle.untrusted_folder import UntrustedFolder
from jepa_runtime.errors import BundleError
from jepa_runtime.util import atomic_files
from jepa_runtime.util.hub_address import HUB_SCHEME

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>{_NAME}(?:/{_NAME})*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARY = "jepa-edge"
_METADATA = ".cache"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubRepository:
    """The repository of a bundle on the Hugging Face Hub.

    Attributes:
        name: The name, ``org/name``.
        revision: A branch, a tag or a commit; None: the branch ``main``.
    """

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, address: str) -> HubRepository:
        """Parse ``hf://org/name`` or ``hf://org/name@revision``.

        Raises:
            BundleError: It has another form.
        """
        if (found := _ADDRESS.fullmatch(address)) is None or ".." in address:
            raise BundleError(
                f"{address}: must have the form hf://org/name or hf://org/name@revision",
                code="hub.invalid_address",
            )
        return cls(found["repository"], found["revision"])

    def __str__(self) -> str:
        return f"{HUB_SCHEME}{self.name}" + (f"@{self.revision}" if self.revision else "")

    def download(self) -> Path:
        """Download the bundle unless it is cached, and return its folder.

        Without a connection, the commit that the revision had at the last download is used.

        Raises:
            BundleError: huggingface_hub is not installed, the repository or the revision does not exist, the
                Hub cannot be reached, or the files are not a valid bundle.
        """
        client = hub_client()
        cache = Path(client.cached_assets_path(_LIBRARY, self.name, "bundles"))
        commit = self._commit(client, cache)
        folder = cache / commit
        if folder.is_dir():
            return folder
        with client.utils.WeakFileLock(cache / f"{commit}.lock"):
            if not folder.is_dir():
                self._download(client, commit, cache / f"{commit}.partial")
                (cache / f"{commit}.partial").rename(folder)
        return folder

    def _commit(self, client: Any, cache: Path) -> str:
        """Return the commit of the revision, and store it for times without a connection."""
        revision = self.revision or "main"
        if _COMMIT.fullmatch(revision) and (cache / revision).is_dir():
            return revision
        stored = cache / "refs" / revision.replace("/", "--")
        try:
            with self._errors(client):
                commit = str(client.HfApi().model_info(self.name, revision=revision).sha)
        except BundleError as error:
            if error.code != "hub.unreachable" or not stored.is_file():
                raise
            known = stored.read_text(encoding="utf-8")
            _LOG.warning("%s: cannot be reached, using the downloaded commit %s", self, known)
            return known
        if not _COMMIT.fullmatch(commit):
            raise BundleError(
                f"{self}: the Hub reports the commit {commit!r}, which is not a SHA-1: check HF_ENDPOINT",
                code="hub.invalid_commit",
            )
        stored.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write(stored, commit.encode())
        return commit

    def _download(self, client: Any, commit: str, folder: Path) -> None:
        """Download and verify the files that the manifest lists; others in the repository are ignored."""
        with self._errors(client):
            client.hf_hub_download(self.name, MANIFEST_NAME, revision=commit, local_dir=folder)
        with UntrustedFolder(folder) as opened:
            data = opened.read(MANIFEST_NAME, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(data, f"{self}/{MANIFEST_NAME}")
        with self._errors(client):
            for record in manifest.files:
                client.hf_hub_download(self.name, record.path, revision=commit, local_dir=folder)
        shutil.rmtree(folder / _METADATA)
        try:
            Bundle.open(folder)
        except BundleError:
            # Otherwise the next attempt would find the same files.
            shutil.rmtree(folder)
            raise

    @contextmanager
    def _errors(self, client: Any) -> Iterator[None]:
        """Convert the errors of the client in the block.

        Raises:
            BundleError: The client raised an error.
        """
        try:
            yield
        # The errors of the connection are those of the HTTP library of the client.
        except Exception as error:
            kinds = client.errors
            if isinstance(error, kinds.LocalEntryNotFoundError):
                raise self._unreachable(error) from error
            if isinstance(
                error, kinds.RepositoryNotFoundError | kinds.RevisionNotFoundError | kinds.EntryNotFoundError
            ):
                raise BundleError(
                    f"{self}: is not a bundle on the Hub, or is private: check the name and the revision, or "
                    "log in with `hf auth login`",
                    code="hub.not_found",
                ) from error
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> BundleError:
        return BundleError(
            f"{self}: cannot be downloaded ({type(error).__name__}: {error}): check the connection; the same "
            "call resumes the download",
            code="hub.unreachable",
        )


def hub_client() -> Any:
    """Return the package huggingface_hub.

    Raises:
        BundleError: It is not installed.
    """
    try:
        for module in ("errors", "utils"):
            importlib.import_module(f"huggingface_hub.{module}")
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise BundleError(
            "huggingface_hub is not installed: run pip install 'jepa-edge[hub]'", code="hub.client_missing"
        ) from error
