"""The one exception root of jepa_export."""

from jepa_runtime.errors import printable


class JepaExportError(Exception):
    """Something on the workstation side went wrong; the message says what, where and what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())
