"""Install the system files of a robot (``firmware_configs``) as one transaction, and undo it byte for byte.

A journal on disk records the previous state before anything changes. After an interruption at any point,
repeating the command completes it, and :func:`~jepa_runtime.system_files.transaction.undo` restores the
previous state. One thing can be lost: an interruption while the journal itself is created or removed changes
the modification time of ``var/lib``.
"""
