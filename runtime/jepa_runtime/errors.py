"""Every error that jepa_runtime raises on purpose. One root, so that one ``except`` catches them all."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with all but tabs and newlines escaped that could steer a terminal."""
    return "".join(
        one if one.isprintable() or one in "\t\n" else one.encode("unicode_escape").decode() for one in text
    )


class JepaRuntimeError(Exception):
    """Root of all errors of this package. The message says what was wrong, where, and what to do. It may
    quote names from files and networks that nobody vouches for, and be shown in a terminal."""

    def __str__(self) -> str:
        return printable(super().__str__())


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


class UnlistedError(TrustError):
    """No role that is trusted for a file lists it."""


class FetchError(UpdateError):
    """A file could not be fetched now; another attempt may succeed."""


class SpentError(FetchError):
    """What an update may take is used up; the next one goes on from there."""


class StorageError(UpdateError):
    """A disk is full, fails, or does not hold what was written to it."""


class UndecidedError(UpdateError):
    """A candidate was compared, and might have been accepted, but neither that nor the contrary was found."""


class MachineBusyError(UpdateError):
    """This machine is too busy to tell whether a candidate meets its latency budget."""


class RefusedError(UpdateError):
    """A release is not for this robot, or did not pass its gate."""


class ConfigsError(JepaRuntimeError):
    """System files cannot be installed or taken back; the message says what stands now."""


class DoctorError(JepaRuntimeError):
    """The doctor could not run: a root, a recording or a file to be written is not usable."""


class UnknownError(DoctorError):
    """What a check asks cannot be told on this machine; the message says why. It becomes a finding."""
