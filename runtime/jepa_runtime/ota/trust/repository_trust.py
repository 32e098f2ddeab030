"""Which files of a repository are authentic and current: The Update Framework, with python-tuf as the judge.

Stored metadata is synchronised before anything that it says is used, and what a power cut tore is fetched
again. Bytes come through :mod:`jepa_runtime.ota.transport.fetch`, with its limits, and errors say what to do.
What else python-tuf leaves to its user is done in :mod:`jepa_runtime.ota.trust.metadata`.
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

# The first that fits.
_REASONS = (
    (exceptions.BadVersionNumberError, "is older than what was seen, or not the version that was announced"),
    (exceptions.UnsignedMetadataError, "is not signed by enough of the keys that are trusted for it"),
    (exceptions.LengthOrHashMismatchError, "is not the file that was announced"),
    (DeserializationError, "is no signed metadata"),
    (exceptions.RepositoryError, "cannot be trusted"),
)


class RepositoryTrust:
    """A robot's view of one repository. Only one may use a folder at a time.

    Args:
        meta: a folder for the metadata that is trusted; made if it is missing.
        root: the metadata of the root role that came with the robot.
        metadata: where metadata comes from.
        targets: where all other files come from.
        limits: of each fetch, and of all downloads together.
        now: the clock, in UTC.
        not_before: a time that has passed whatever the clock says; None: none is known.
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
        self._allowance = FetchBudget(limits)
        self._now, self._not_before = now, not_before
        self._fetcher = MetadataFetcher(metadata, limits)
        self._updater: MetadataUpdater | None = None

    def refresh(self, floors: Floors) -> Floors:
        """Learn what is current, and the next floors; everything else follows what this found.

        Raises:
            TrustError: the repository is not signed as it must be, older than what was seen, or expired.
            FetchError: it cannot be reached now.
            StorageError: the metadata cannot be stored.
        """
        make_folder(self._meta)
        self._updater = None
        with self._judged():
            for rest in self._meta.glob("tmp????????"):
                rest.unlink()
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
        """The content of a small file.

        Raises:
            UnlistedTargetError: no role that is trusted for it lists it.
            TrustError: that role is not to be trusted, it is longer than ``max_bytes``, or is not what was
                signed.
            FetchError: it, or what that role says, cannot be fetched now.
            StorageError: what that role says cannot be stored.
        """
        info, stored = self._found(path)
        if info.length > max_bytes:
            raise TrustError(
                f"{path}: has {info.length} bytes, and may have {max_bytes}: publish a smaller one"
            )
        content = fetch_bytes(self._targets, stored, max_bytes=info.length, limits=self._limits)
        try:
            info.verify_length_and_hashes(content)
        except exceptions.LengthOrHashMismatchError as error:
            raise TrustError(f"{stored}: is not what was signed ({error}): publish it again") from error
        return content

    def download(self, path: str, part: Path, progress: Progress | None = None) -> None:
        """The content of a large file, into ``part``; see
        :func:`jepa_runtime.ota.transport.fetch.fetch_file`.

        Raises:
            TrustError: as :meth:`read`; where it is not what was signed, ``part`` was removed.
            TransferLimitError: all that was downloaded here has taken what it may; ``part`` stays.
            FetchError: it cannot be fetched now; ``part`` stays for the next attempt.
            StorageError: the disk is full or fails.
        """
        info, stored = self._found(path)

        def is_right(file: BufferedReader) -> bool:
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
            is_right=is_right,
            allowance=self._allowance,
            progress=progress,
        )

    def _found(self, path: str) -> tuple[TargetFile, str]:
        if self._updater is None:
            raise UpdateError(f"{path}: nothing is known of it before a refresh: refresh first")
        with self._judged():
            info = self._updater.get_targetinfo(path)
        if info is None:
            raise UnlistedTargetError(
                f"{path}: no role that is trusted for it lists it: publish it, or correct the name"
            )
        return info, self._updater.stored_path(info)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except exceptions.RepositoryError as error:
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
            raise TrustError(
                f"{self._fetcher.last}: {reason} ({error}): ask who runs the repository"
            ) from error
        except exceptions.DownloadHTTPError as error:
            raise NotFoundError(str(error)) from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # What is signed and of a wrong type python-tuf notices only where it uses it.
            raise TrustError(f"{self._fetcher.last}: makes no sense ({error}): sign it again") from error
        except OSError as error:
            raise StorageError(f"{self._meta}: cannot be used: {error.strerror or error}") from error
        finally:
            self._settle()

    def _settle(self) -> None:
        if self._fetcher.fetched:
            history = self._meta / "root_history"
            for file in (*self._meta.glob("*.json"), *history.glob("*.json")):
                sync_file(file)
            sync_folder(history)
            sync_folder(self._meta)
            self._fetcher.fetched = False
