"""Every error that jepa_runtime raises on purpose. One root, so that one ``except`` catches them all."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with all but tabs and newlines escaped that could steer a terminal."""
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
    """Base class of all errors that this package raises deliberately."""


class StrictJsonError(JepaRuntimeError):
    """A JSON document is malformed, or one of its fields is missing, unknown or invalid."""


class BundleError(JepaRuntimeError):
    """A model bundle is damaged, of an unknown format, or not what it claims; nothing of it was loaded."""


class BackendError(JepaRuntimeError):
    """An engine or device is missing, or cannot run this model."""


class UnsupportedPrecisionError(BackendError):
    """A device cannot compute in the precision that was requested."""


class DeviceLostError(BackendError):
    """A device does nothing more for this process; a new one may use it."""


class FrameError(JepaRuntimeError):
    """An image cannot be used: wrong encoding, no pixels, or fewer bytes than its size needs."""


class SourceError(JepaRuntimeError):
    """A source of frames cannot be opened or read."""


class WorldError(JepaRuntimeError):
    """A simulated world is not there, cannot run here, or is none in which this model can act."""


class RecordingError(JepaRuntimeError):
    """A recording cannot be written."""


class ProfileError(JepaRuntimeError):
    """A profile cannot be read or written, or what was asked to be measured cannot be."""


class UpdateError(JepaRuntimeError):
    """An update could not be made; what served before serves on. Root of the following."""


class TrustError(UpdateError):
    """What a repository says is not signed as it must be, is older than what was seen, or has expired."""


class UnlistedTargetError(TrustError):
    """No role that is trusted for a file lists it."""


class FetchError(UpdateError):
    """A file could not be fetched now; another attempt may succeed."""


class TransferLimitError(FetchError):
    """What an update may take is used up; the next one goes on from there."""


class StorageError(UpdateError):
    """A disk is full, fails, or does not hold what was written to it."""


class InconclusiveError(UpdateError):
    """A candidate was compared, and might have been accepted, but neither that nor the contrary was found."""


class MachineBusyError(UpdateError):
    """This machine is too busy to tell whether a candidate meets its latency budget."""


class ReleaseRejectedError(UpdateError):
    """A release is not for this robot, or did not pass its gate."""


class SystemFilesError(JepaRuntimeError):
    """System files cannot be installed or taken back; the message says what stands now."""


class DoctorError(JepaRuntimeError):
    """The doctor could not run: a root, a recording or a file to be written is not usable."""


class UndeterminedError(DoctorError):
    """A check cannot be decided on this machine; the message has the reason. It becomes a finding."""

    code = "doctor.undetermined"
