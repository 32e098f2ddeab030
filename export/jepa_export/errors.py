"""The root of all exceptions of jepa_export."""

from jepa_runtime.errors import CodedError


class JepaExportError(CodedError):
    """Base class of all errors that this package raises deliberately."""
