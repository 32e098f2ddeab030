"""Lazy import of OpenCV: ``from jepa_runtime.util.opencv import cv2``.

The wheel opencv-python needs system libraries that a bare Debian lacks. There ``import jepa_runtime`` works,
and the first use of OpenCV reports what to install. opencv-python-headless is an alternative.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jepa_runtime.errors import JepaRuntimeError


def load_opencv() -> ModuleType:
    """Import OpenCV.

    Raises:
        JepaRuntimeError: It is not installed, or lacks system libraries.
    """
    try:
        return importlib.import_module("cv2")
    except ModuleNotFoundError as error:
        if error.name != "cv2":
            raise
        raise JepaRuntimeError(
            "OpenCV is not installed: pip install opencv-python, or opencv-python-headless, which needs no "
            "system libraries",
            code="opencv.not_installed",
        ) from error
    except ImportError as error:
        raise JepaRuntimeError(
            f"OpenCV cannot be imported ({error}). Install the system libraries that opencv-python needs "
            "(Debian, Ubuntu: apt-get install libgl1 libglib2.0-0), or replace it with the build that needs "
            "none: pip uninstall opencv-python, then pip install opencv-python-headless",
            code="opencv.system_libraries_missing",
        ) from error


class _OpenCV:
    def __getattr__(self, name: str) -> Any:
        return getattr(load_opencv(), name)


if TYPE_CHECKING:
    import cv2 as cv2
else:
    cv2 = _OpenCV()
