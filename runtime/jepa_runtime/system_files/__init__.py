"""Install the system files of a robot (``firmware_configs``) as one transaction, and undo it byte for byte.

A journal on disk records the previous state before anything changes. After an interruption at any point,
repeating the command completes it, and :func:`~jepa_runtime.system_files.transaction.undo` restores the
previous state. One thing can be lost: an interruption while the journal itself is created or removed changes
the modification time of ``var/lib``.
"""

from typing import TYPE_CHECKING

from jepa_runtime.util.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from jepa_runtime.system_files.shipped import DEVICES, Shipped, find_shipped
    from jepa_runtime.system_files.transaction import Undone, apply, preview, undo
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "shipped": ["DEVICES", "Shipped", "find_shipped"],
            "transaction": ["Undone", "apply", "preview", "undo"],
        },
    )

__all__ = [
    "DEVICES",
    "Shipped",
    "Undone",
    "apply",
    "find_shipped",
    "preview",
    "undo",
]
