"""Establishes which files of a repository are authentic and current, with The Update Framework (python-tuf).

Stored metadata is synced before it is used, and torn files are fetched again. Files are downloaded by
:mod:`jepa_runtime.ota.transport.fetch`, with its limits, and errors say what to do. What python-tuf leaves to
its user is in :mod:`jepa_runtime.ota.trust.metadata`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BufferedReader
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import TargetFile
from tuf.api.serialization import DeserializationError

from jepa_runtime.errors import StorageError, TrustError, UnlistedTargetError, UpdateError
from jepa_runtime.ota.transport.fetch import FetchBudget, Progress, fetch_bytes, fetch_file
from jepa_runtime.ota.transport.repository_sources import Limits, NotFoundError, Source
from jepa_runtime.ota.trust.metadata import Floors, MetadataFetcher, MetadataUpdater
from jepa_runtime.util.atomic_files import make_folder, sync_file, sync_folder

# The first match counts.
_REASONS = (
    (exceptions.BadVersionNumberError, "trust.rollback", "older than before, or not the announced version"),
    (exceptions.UnsignedMetadataError, "trust.unsigned", "not signed by enough trusted keys"),
    (exceptions.LengthOrHashMismatchError, "trust.hash_mismatch", "not the announced file"),
    (DeserializationError, "trust.invalid_metadata", "not valid signed metadata"),
    (exceptions.RepositoryError, "trust.invalid_metadata", "cannot be trusted"),
)


class RepositoryTrust:
    """A robot's view of one repository. Only one process may use the metadata folder at a time.

    Args:
        meta: The folder for trusted metadata, created if it is missing.
        root: The provisioned metadata of the root role.
        metadata: The source of metadata.
        targets: The source of all other files.
        limits: Limits of each file, and of all downloads together.
        now: The clock, in UTC.
        not_before: A time that has certainly passed; None: unknown.
    """

    def __init__(
        self,
        meta: Path,
        *,
        root: bytes,
        metadata: Source,
        targets: Source,
        limits: Limits,
        now: Callable[[], datetime],
        not_before: datetime | None = None,
    ) -> None:
        self._meta = meta
        self._root = root
        self._targets = targets
        self._limits = limits
        self._budget = FetchBudget(limits)
        self._now, self._not_before = now, not_before
        self._fetcher = MetadataFetcher(metadata, limits)
        self._updater: MetadataUpdater | None = None

    def refresh(self, floors: Floors) -> Floors:
        """Refresh the metadata, and return the next floors; all later reads use this state.

        Raises:
            TrustError: The repository is not signed correctly, older than before, or expired.
            FetchError: It cannot be reached now.
            StorageError: The metadata cannot be stored.
        """
        make_folder(self._meta)
        self._updater = None
        with self._translated_errors():
            for leftover in self._meta.glob("tmp????????"):
                leftover.unlink()
            updater = MetadataUpdater(
                self._meta,
                self._fetcher,
                root=self._root,
                now=self._now(),
                not_before=self._not_before,
                floors=floors,
            )
            updater.refresh()
            seen = updater.seen()
        self._updater = updater
        return seen

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the content of a small file.

        Raises:
            UnlistedTargetError: No role that is trusted for the file lists it.
            TrustError: That role cannot be trusted, or the file is longer than ``max_bytes`` or not the
                signed one.
            FetchError: The file or the metadata of that role cannot be fetched now.
            StorageError: The metadata of that role cannot be stored.
        """
        info, stored = self._find_target(path)
        if info.length > max_bytes:
            raise TrustError(
                f"{path}: has {info.length} bytes, {max_bytes} are allowed: publish a smaller file",
                code="trust.too_long",
            )
        content = fetch_bytes(self._targets, stored, max_bytes=info.length, limits=self._limits)
        try:
            info.verify_length_and_hashes(content)
        except exceptions.LengthOrHashMismatchError as error:
            raise TrustError(
                f"{stored}: not the signed file ({error}): publish it again", code="trust.hash_mismatch"
            ) from error
        return content

    def download(self, path: str, part: Path, progress: Progress | None = None) -> None:
        """Download a large file into ``part``; see :func:`jepa_runtime.ota.transport.fetch.fetch_file`.

        Raises:
            TrustError: As for :meth:`read`; if the file is not the signed one, ``part`` was removed.
            TransferLimitError: The limits of all downloads are reached; ``part`` stays.
            FetchError: The download failed; ``part`` stays for the next attempt.
            StorageError: The disk is full or fails.
        """
        info, stored = self._find_target(path)

        def verify(file: BufferedReader) -> bool:
            try:
                info.verify_length_and_hashes(file)
            except exceptions.LengthOrHashMismatchError:
                return False
            return True

        fetch_file(
            self._targets,
            stored,
            part,
            length=info.length,
            verify=verify,
            budget=self._budget,
            progress=progress,
        )

    def _find_target(self, path: str) -> tuple[TargetFile, str]:
        if self._updater is None:
            raise UpdateError(
                f"{path}: the metadata is not loaded: call refresh() first", code="trust.not_refreshed"
            )
        with self._translated_errors():
            info = self._updater.get_targetinfo(path)
        if info is None:
            raise UnlistedTargetError(
                f"{path}: no role that is trusted for it lists it: publish it, or correct the name",
                code="trust.unlisted",
            )
        return info, self._updater.stored_path(info)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.RepositoryError as error:
            code, reason = next((code, reason) for kind, code, reason in _REASONS if isinstance(error, kind))
            raise TrustError(
                f"{self._fetcher.last}: {reason} ({error}): ask the operator of the repository", code=code
            ) from error
        except exceptions.DownloadHTTPError as error:
            raise NotFoundError(str(error)) from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # python-tuf finds signed values of a wrong type only when it uses them.
            raise TrustError(
                f"{self._fetcher.last}: malformed metadata ({error}): publish it again with `jepa-export "
                "release resign`",
                code="trust.invalid_metadata",
            ) from error
        except OSError as error:
            raise StorageError(
                f"{self._meta}: cannot read or write the metadata: {error.strerror or error}",
                code="storage.metadata",
            ) from error
        finally:
            self._sync_metadata()

    def _sync_metadata(self) -> None:
        if self._fetcher.fetched:
            history = self._meta / "root_history"
            for file in (*self._meta.glob("*.json"), *history.glob("*.json")):
                sync_file(file)
            sync_folder(history)
            sync_folder(self._meta)
            self._fetcher.fetched = False
