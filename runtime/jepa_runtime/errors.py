"""All errors that jepa_runtime raises on purpose.

The tree::

CodedError
└── JepaRuntimeError
    ├── StrictJsonError
    ├── BundleError
    ├── BackendError
    │   ├── UnsupportedPrecisionError
    │   └── DeviceLostError
    ├── FrameError
    ├── CriticError
    ├── OdometryError
    ├── SourceError
    ├── WorldError
    ├── RecordingError
    ├── ProfileError
    ├── RouteError
    ├── UpdateError
    │   ├── TrustError
    │   │   └── UnlistedTargetError
    │   ├── FetchError
    │   │   └── TransferLimitError
    │   ├── StorageError
    │   ├── InconclusiveError
    │   ├── MachineBusyError
    │   └── ReleaseRejectedError
    ├── SystemFilesError
    └── DoctorError
        └── UndeterminedError
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "CodedError",
    "CriticError",
    "DeviceLostError",
    "DoctorError",
    "FetchError",
    "FrameError",
    "InconclusiveError",
    "JepaRuntimeError",
    "MachineBusyError",
    "OdometryError",
    "ProfileError",
    "RecordingError",
    "ReleaseRejectedError",
    "RouteError",
    "SourceError",
    "StorageError",
    "StrictJsonError",
    "SystemFilesError",
    "TransferLimitError",
    "TrustError",
    "UndeterminedError",
    "UnlistedTargetError",
    "UnsupportedPrecisionError",
    "UpdateError",
    "WorldError",
    "printable",
]


def printable(text: str) -> str:
    """Escape all characters that could control a terminal, except tabs and newlines."""
    return "".join(
        one if one.isprintable() or one in "\t\n" else one.encode("unicode_escape").decode() for one in text
    )


class CodedError(Exception):
    """An error with a stable code, such as ``bundle.hash_mismatch``.

    The message states what failed, on which object, why, and what to do. It may quote untrusted names from
    files and networks: ``str()`` escapes what could control a terminal.

    Attributes:
        code: The area and the reason, separated by a dot. The class holds the default.
    """

    code = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return printable(super().__str__())


class JepaRuntimeError(CodedError):
    """Base class of all errors that this package raises on purpose."""


class StrictJsonError(JepaRuntimeError):
    """A JSON document is malformed, or one of its fields is missing, unknown or invalid."""


class BundleError(JepaRuntimeError):
    """A bundle is damaged, malformed or unsuitable. Nothing of it was loaded."""


class BackendError(JepaRuntimeError):
    """An engine or device is missing, or cannot run this model."""


class UnsupportedPrecisionError(BackendError):
    """A device cannot compute in the requested precision."""

    code = "backend.precision_unsupported"


class DeviceLostError(BackendError):
    """A device accepts no further work from this process; a new process may use it."""

    code = "backend.device_lost"


class FrameError(JepaRuntimeError):
    """An image cannot be used: unsupported encoding, no pixels, or too few bytes for its size."""


class CriticError(JepaRuntimeError):
    """The critic cannot evaluate a chunk or its outcome."""


class OdometryError(JepaRuntimeError):
    """The pose of the robot by its odometry is unknown."""


class SourceError(JepaRuntimeError):
    """A source of frames cannot be opened or read."""


class WorldError(JepaRuntimeError):
    """A simulated world does not exist, cannot run here, or does not fit the model's actions."""


class RecordingError(JepaRuntimeError):
    """A recording cannot be written."""


class ProfileError(JepaRuntimeError):
    """A profile cannot be read or written, or a requested quantity cannot be measured."""


class RouteError(JepaRuntimeError):
    """A taught route cannot be recorded or read, or does not fit the model."""


class UpdateError(JepaRuntimeError):
    """An update failed. The active model is unchanged. Base class of the errors below."""


class TrustError(UpdateError):
    """Repository metadata is not signed as required, has expired, or is older than metadata seen before."""


class UnlistedTargetError(TrustError):
    """No role that is trusted for a file lists it."""

    code = "trust.target_unlisted"


class FetchError(UpdateError):
    """A file could not be downloaded now; another attempt may succeed."""


class TransferLimitError(FetchError):
    """The transfer budget of an update is used up; the next update resumes the download."""

    code = "transfer.budget_exhausted"


class StorageError(UpdateError):
    """A disk is full, fails, or does not contain what was written to it."""


class InconclusiveError(UpdateError):
    """The comparison of a candidate with the active model ended without a decision."""

    code = "gate.inconclusive"


class MachineBusyError(UpdateError):
    """This machine is too busy to decide whether a candidate meets its latency budget."""

    code = "gate.machine_busy"


class ReleaseRejectedError(UpdateError):
    """A release is not for this robot, or did not pass its gate."""


class SystemFilesError(JepaRuntimeError):
    """System files cannot be installed or removed; the message states which files are in place."""


class DoctorError(JepaRuntimeError):
    """The doctor cannot run: a root, a recording or an output file is not usable."""


class UndeterminedError(DoctorError):
    """A check cannot be decided on this machine; the message has the reason. It becomes a finding."""

    code = "doctor.undetermined"
