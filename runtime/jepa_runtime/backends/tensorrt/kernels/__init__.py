"""What an NVIDIA GPU computes besides the engine: the source, where it is compiled, and how it is launched.

Nothing here calls CUDA: a backend loads the file that :func:`find_fatbin` names, and launches what
:func:`launch` describes."""

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
