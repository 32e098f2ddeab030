"""The one exception root of jepa_export."""


class JepaExportError(Exception):
    """Something on the workstation side went wrong; the message says what, where and what to do."""
