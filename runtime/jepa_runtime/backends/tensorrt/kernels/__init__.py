"""The kernel that resizes images on an NVIDIA GPU: its source, compiled file and launch arguments.

Nothing here calls CUDA: a backend loads the file that :func:`find_fatbin` returns, and launches it with the
arguments of :func:`launch`.
"""

from jepa_runtime.backends.tensorrt.kernels.fatbin import FOLDERS, fatbin_name, find_fatbin, source
from jepa_runtime.backends.tensorrt.kernels.preprocess import ENTRY_POINT, Launch, launch

__all__ = [
    "ENTRY_POINT",
    "FOLDERS",
    "Launch",
    "fatbin_name",
    "find_fatbin",
    "launch",
    "source",
]
