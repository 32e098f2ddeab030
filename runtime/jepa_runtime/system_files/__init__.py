"""Installs the system files of a robot (``firmware_configs``), and takes them back to the byte.

Before anything is changed, a journal on the disk says what was there. So a death at any moment leaves what
either the same command ends or :func:`~jepa_runtime.system_files.transaction.undo` brings back. One thing can
be
lost: a death while the journal itself comes or goes leaves ``var/lib`` with a new time of change.
"""
